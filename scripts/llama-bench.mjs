// llama.cpp's side of bench-vs-llama.ts, a process of its own under Node.js.
// Usage: node scripts/llama-bench.mjs FOLDER MODEL JSON
//        FOLDER holds node_modules with node-llama-cpp; JSON: {threads, prompt, generate, depths, repeats}
// Output: {firstTokenMs, prompt: seconds[], generation: {depth: seconds[]}} on the last line of stdout.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, modelPath, json] = process.argv.slice(2);
const { threads, prompt, generate, depths, repeats } = JSON.parse(json);
const entry = createRequire(`${folder}/`).resolve("node-llama-cpp");
const { getLlama } = await import(pathToFileURL(entry).href);

const start = performance.now();
const llama = await getLlama({
  gpu: false,
  build: "never",
  skipDownload: true,
  maxThreads: threads,
  logLevel: "error",
});
const model = await llama.loadModel({ modelPath, gpuLayers: 0, useMmap: true });
const contextSize = Math.max(prompt, ...depths.map((depth) => depth + generate)) + 16;
const context = await model.createContext({
  ...{ contextSize, batchSize: 512, threads: { ideal: threads, min: threads }, flashAttention: true },
});
const sequence = context.getSequence();

let state = 1;
function randomTokens(count) {
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 256 + (state % 4096);
  });
}

/** Takes `count` tokens as a prompt; returns seconds. */
async function prefill(count) {
  const tokens = randomTokens(count);
  const began = performance.now();
  await sequence.evaluateWithoutGeneratingNewTokens(tokens);
  return (performance.now() - began) / 1000;
}

/** Generates `count` tokens one by one behind what the sequence holds; returns seconds of all but the first. */
async function decode(count) {
  let generated = 0;
  let began = 0;
  for await (const _ of sequence.evaluate(randomTokens(1), { temperature: 0, yieldEogTokens: true })) {
    if (generated === 0) began = performance.now();
    if (++generated > count) break;
  }
  return (performance.now() - began) / 1000;
}

async function rewind(length) {
  if (length === 0) await sequence.clearHistory();
  else await sequence.eraseContextTokenRanges([{ start: length, end: sequence.nextTokenIndex }]);
}

const times = { firstTokenMs: 0, prompt: [], generation: {} };
for await (const _ of sequence.evaluate(randomTokens(1), { temperature: 0, yieldEogTokens: true })) break;
times.firstTokenMs = performance.now() - start;

await rewind(0);
if (prompt > 0) {
  await prefill(prompt);
  for (let i = 0; i < repeats; i++) {
    await rewind(0);
    times.prompt.push(await prefill(prompt));
  }
}
for (const depth of depths) {
  await rewind(0);
  if (depth > 0) await prefill(depth);
  times.generation[depth] = [];
  for (let i = 0; i < repeats; i++) {
    await rewind(depth);
    times.generation[depth].push(await decode(generate));
  }
}
console.log(JSON.stringify(times));
process.exit(0);
