// BullMQ: jobs with results, failures and retries, priorities, delays, repeated jobs, flows, events. All of it is Lua.
import assert from "node:assert/strict";
import { FlowProducer, Queue, QueueEvents, Worker } from "bullmq";

const connection = { host: "127.0.0.1", port: Number(process.env.FOREBAY_PORT), maxRetriesPerRequest: null };
const queue = new Queue("work", { connection });
const events = new QueueEvents("work", { connection });
await events.waitUntilReady();
const order = [];
let attempts = 0;
const worker = new Worker(
  "work",
  async (job) => {
    order.push(job.name);
    await job.updateProgress(50);
    if (job.name === "refuse") throw new Error("no such thing");
    if (job.name === "flaky" && ++attempts < 3) throw new Error("not yet");
    if (job.name === "parent") return Object.values(await job.getChildrenValues()).sort();
    return job.data.n * 2;
  },
  { connection, autorun: false, concurrency: 1 },
);

// Waiting jobs are taken by priority; those without one come first.
const numbers = await queue.addBulk(Array.from({ length: 20 }, (_, n) => ({ name: "double", data: { n } })));
const low = await queue.add("low", { n: 1 }, { priority: 10 });
const high = await queue.add("high", { n: 1 }, { priority: 1 });
const twice = await queue.add("once", { n: 1 }, { jobId: "the-only-one" });
assert.equal((await queue.add("once", { n: 2 }, { jobId: "the-only-one" })).id, twice.id);
const counts = await queue.getJobCounts("waiting", "prioritized");
assert.deepEqual([counts.waiting, counts.prioritized], [21, 2]);
worker.run();
const results = await Promise.all(numbers.map((job) => job.waitUntilFinished(events, 20000)));
assert.deepEqual(results, Array.from({ length: 20 }, (_, n) => 2 * n));
await low.waitUntilFinished(events, 20000);
await high.waitUntilFinished(events, 20000);
assert.deepEqual(order.slice(-2), ["high", "low"]);

const refused = await queue.add("refuse", {});
await assert.rejects(refused.waitUntilFinished(events, 20000), /no such thing/);
assert.equal(await refused.getState(), "failed");
const flaky = await queue.add("flaky", { n: 4 }, { attempts: 3, backoff: { type: "fixed", delay: 5 } });
assert.equal(await flaky.waitUntilFinished(events, 20000), 8);
const delayed = await queue.add("double", { n: 5 }, { delay: 50 });
assert.equal(await delayed.waitUntilFinished(events, 20000), 10);

const flow = new FlowProducer({ connection });
const tree = await flow.add({
  name: "parent",
  queueName: "work",
  children: [1, 2, 3].map((n) => ({ name: "child", queueName: "work", data: { n } })),
});
assert.deepEqual(await tree.job.waitUntilFinished(events, 20000), [2, 4, 6]);

await queue.upsertJobScheduler("every-hour", { every: 3600000 }, { name: "double", data: { n: 1 } });
assert.equal((await queue.getJobSchedulers()).length, 1);
assert.equal(await queue.removeJobScheduler("every-hour"), true);
await queue.pause();
assert.equal(await queue.isPaused(), true);
await queue.resume();
assert.equal((await queue.getFailed()).length, 1);
assert.equal((await queue.clean(0, 100, "failed")).length, 1);
assert.ok((await queue.getCompletedCount()) >= 29);

await worker.close();
await flow.close();
await events.close();
await queue.obliterate({ force: true });
assert.deepEqual(Object.values(await queue.getJobCounts("waiting", "completed", "failed")), [0, 0, 0, 0]);
await queue.close();
console.log("done");
