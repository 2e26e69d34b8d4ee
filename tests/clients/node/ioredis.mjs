// ioredis: pipelines, transactions, pub/sub, streams, its scripts, automatic pipelining, reconnecting.
import assert from "node:assert/strict";
import { Redis } from "ioredis";

const port = Number(process.env.FOREBAY_PORT);
const redis = new Redis({ port });

await redis.set("k", "v", "EX", 100);
assert.equal(await redis.get("k"), "v");
assert.equal(await redis.get("nope"), null);
assert.ok((await redis.ttl("k")) > 90);
await redis.hset("h", { name: "Ada", born: 1815 });
assert.deepEqual(await redis.hgetall("h"), { name: "Ada", born: "1815" });
await redis.zadd("z", 1, "a", 2, "b", 3, "c");
assert.deepEqual(await redis.zrange("z", 0, -1, "REV", "WITHSCORES"), ["c", "3", "b", "2", "a", "1"]);
const bytes = Buffer.from([0, 255, 13, 10]);
await redis.set("bytes", bytes);
assert.deepEqual(await redis.getBuffer("bytes"), bytes);

const replies = await redis.pipeline().incr("n").incr("n").lpush("n", "x").get("n").exec();
assert.deepEqual(replies.map(([error, value]) => error?.message ?? value), [
  1,
  2,
  "WRONGTYPE Operation against a key holding the wrong kind of value",
  "2",
]);
assert.deepEqual(await redis.multi().set("t", 1).incrby("t", 41).exec(), [[null, "OK"], [null, 42]]);

await redis.watch("t");
const other = new Redis({ port, enableAutoPipelining: true });
await other.set("t", 0);
assert.equal(await redis.multi().incr("t").exec(), null);
const many = await Promise.all(Array.from({ length: 500 }, (_, n) => other.set(`auto:${n}`, n)));
assert.ok(many.every((reply) => reply === "OK"));
const found = [];
for await (const keys of redis.scanStream({ match: "auto:*", count: 50 })) found.push(...keys);
assert.equal(new Set(found).size, 500);

const subscriber = new Redis({ port });
const heard = new Promise((resolve) => subscriber.on("pmessage", (...message) => resolve(message)));
await subscriber.psubscribe("news.*");
assert.equal(await redis.publish("news.sea", "calm"), 1);
assert.deepEqual(await heard, ["news.*", "news.sea", "calm"]);

const blocked = other.duplicate();
const popped = blocked.blpop("jobs", 20);
await redis.rpush("jobs", "one");
assert.deepEqual(await popped, ["jobs", "one"]);
const read = blocked.xread("BLOCK", 20000, "STREAMS", "log", "0");
const id = await redis.xadd("log", "*", "f", "v");
assert.deepEqual(await read, [["log", [[id, ["f", "v"]]]]]);

// A client whose connection is cut connects again and repeats what was not answered.
await redis.client("KILL", "ID", await other.client("ID"), "SKIPME", "no");
assert.equal(await other.get("k"), "v");

redis.defineCommand("addTo", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
assert.equal(await redis.addTo("sum", 5), 5);
assert.equal(await redis.addTo("sum", 2), 7);
for (const client of [redis, other, subscriber, blocked]) client.disconnect();
console.log("done");
