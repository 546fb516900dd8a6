/**
 * Processor time that an engine and its client take while nothing is asked of them, in a process of their own.
 * Usage: bun src/serve/engine/testing/idle.ts    Output: milliseconds of 300.
 */
import { startWorker } from "../client.ts";

const client = await startWorker(new URL("./double_worker.ts", import.meta.url), {
  ...{ modelPath: "double", backend: "cpu" },
});
for await (const _ of client.generate({
  prompt: [1],
  sampling: {},
  stopTokens: [],
  choices: 1,
  maxTokens: 12,
})) {
  // to its end
}
await Bun.sleep(100); // what starting left behind
const before = process.cpuUsage();
await Bun.sleep(300);
const { user, system } = process.cpuUsage(before);
console.log((user + system) / 1000);
await client.close();
