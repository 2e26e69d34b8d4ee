// node-redis: both protocols, transactions, pub/sub, streams, iterators, its client-side cache, scripts.
import assert from "node:assert/strict";
import { createClient, defineScript, WatchError } from "redis";

const url = `redis://127.0.0.1:${process.env.FOREBAY_PORT}`;

for (const RESP of [2, 3]) {
  const client = createClient({ url, RESP });
  client.on("error", (error) => { throw error; });
  await client.connect();
  await client.flushAll();

  await client.set("k", "v", { expiration: { type: "EX", value: 100 } });
  assert.equal(await client.get("k"), "v");
  assert.equal(await client.get("nope"), null);
  await client.hSet("h", { name: "Ada", born: 1815 });
  assert.deepEqual({ ...(await client.hGetAll("h")) }, { name: "Ada", born: "1815" });
  await client.zAdd("z", [{ score: 1.5, value: "a" }, { score: 2, value: "b" }]);
  assert.deepEqual(await client.zRangeWithScores("z", 0, -1), [{ value: "a", score: 1.5 }, { value: "b", score: 2 }]);
  await client.sAdd("s", ["x", "y"]);
  assert.deepEqual((await client.sMembers("s")).sort(), ["x", "y"]);
  await assert.rejects(client.incr("k"), /not an integer/);

  assert.deepEqual(await client.multi().set("t", "1").incrBy("t", 41).exec(), ["OK", 42]);
  const other = client.duplicate();
  await other.connect();
  await client.watch("t");
  await other.set("t", "0");
  await assert.rejects(client.multi().incr("t").exec(), WatchError);

  await Promise.all(Array.from({ length: 500 }, (_, n) => client.set(`many:${n}`, String(n))));
  const found = [];
  for await (const keys of client.scanIterator({ MATCH: "many:*", COUNT: 50 })) found.push(...[keys].flat());
  assert.equal(new Set(found).size, 500);

  const subscriber = client.duplicate();
  await subscriber.connect();
  const heard = new Promise((resolve) => {
    subscriber.subscribe("news", (message, channel) => resolve([channel, message])).then(() => other.publish("news", "hello"));
  });
  assert.deepEqual(await heard, ["news", "hello"]);
  subscriber.destroy();

  const popped = other.blPop("jobs", 20);
  await client.rPush("jobs", "one");
  assert.deepEqual({ ...(await popped) }, { key: "jobs", element: "one" });
  await client.xGroupCreate("log", "workers", "0", { MKSTREAM: true });
  const id = await client.xAdd("log", "*", { f: "v" });
  const read = await client.xReadGroup("workers", "ada", { key: "log", id: ">" }, { COUNT: 10 });
  // With RESP3 it hands out the reply as it came.
  if (RESP === 2) {
    assert.equal(read[0].name, "log");
    assert.deepEqual(read[0].messages.map((each) => [each.id, { ...each.message }]), [[id, { f: "v" }]]);
  } else {
    assert.deepEqual({ ...read }, { log: [[id, ["f", "v"]]] });
  }
  assert.equal(await client.xAck("log", "workers", id), 1);
  other.destroy();
  await client.close();
}

const cached = createClient({ url, RESP: 3, clientSideCache: { ttl: 0, maxEntries: 100 } });
const writer = createClient({ url });
await cached.connect();
await writer.connect();
await writer.set("seen", "old");
assert.equal(await cached.get("seen"), "old");
await writer.set("seen", "new");
// The invalidation comes before the reply of what is asked after it.
while ((await cached.get("seen")) !== "new") await cached.ping();
cached.destroy();
await writer.close();

const add = defineScript({
  SCRIPT: "return redis.call('INCRBY', KEYS[1], ARGV[1])",
  NUMBER_OF_KEYS: 1,
  parseCommand(parser, key, by) {
    parser.pushKey(key);
    parser.push(String(by));
  },
  transformReply: (reply) => reply,
});
const scripted = createClient({ url, scripts: { add } });
await scripted.connect();
assert.equal(await scripted.add("sum", 5), 5);
assert.equal(await scripted.add("sum", 2), 7);
await scripted.close();
console.log("done");
