/**
 * Where a generation step's time goes: the calls of one step, op by op. "alone" is an op's calls recorded without the others
 * and launched again and again, "share" what the step takes longer with them than without. Experts alone read ids that
 * other ops have overwritten; their share is true.
 * Usage: bun scripts/gpu/op_times.ts MODEL [--backend cuda] [--batch 1,8] [--depth 0,4096] [--prompt 0] [--chain 72,110]
 *        --chain A,B times a step's first A calls, then one more each time until B: what each waits for included.
 *        With --prompt N the step is a prompt of N tokens instead. Output: microseconds per step. On metal there are no
 *        recordings: each launch is a command buffer of its own, and its time is the one that the GPU tells, by kernel.
 *        On the cpu, where a call returns when it is done, the time is that of the call within the step.
 */
import { parseArgs } from "node:util";
import { openDevice } from "../../src/backends/index.ts";
import { kernelLibrary } from "../../src/backends/library.ts";
import {
  freeCachePool,
  freeStatePool,
  makeCachePool,
  makeStatePool,
  pageSize,
  stepStates,
} from "../../src/models/cache.ts";
import { openModelFiles } from "../../src/models/files/source.ts";
import { loadModel } from "../../src/models/registry.ts";
import { Device } from "../../src/runtime/device.ts";
import { argmax } from "../../src/runtime/functions.ts";
import { openChecked } from "./check.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    backend: { type: "string", default: "cuda" },
    batch: { type: "string", default: "1,8" },
    depth: { type: "string", default: "0" },
    prompt: { type: "string", default: "0" },
    chain: { type: "string" },
  },
});
const numbers = (list: string): number[] => list.split(",").map(Number);
const chain = values.chain?.split(",").map(Number);
if (
  chain &&
  !(chain.length === 2 && chain.every(Number.isInteger) && chain[0]! >= 1 && chain[0]! < chain[1]!)
)
  throw new Error(
    `[op_times] expected --chain FIRST,LAST, two ascending numbers of calls, got ${values.chain}`,
  );

type Call = { readonly name: string; readonly args: readonly number[] };
let calls: Call[] | undefined;
const backendName = values.backend as "cpu" | "cuda" | "metal" | "metal-standin";
const opened = backendName === "cuda" ? openChecked(backendName) : openDevice(backendName);
const { backend } = opened;
const device = new Device({
  ...backend,
  call(name, args) {
    calls?.push({ name, args });
    backend.call(name, args);
  },
});
const functions = backendName === "cpu" ? undefined : kernelLibrary(backendName).functions;
const native = (name: string, ...args: (number | ArrayBufferView)[]): void => {
  const status = functions!.get(name)!(...args);
  if (status !== 0) throw new Error(`[op_times] ${name} gave ${status}`);
};
const model = loadModel(device, openModelFiles(positionals[0]!));
const vocabulary = model.config.vocabularySize;

/** Median microseconds of launching `list` as one recording. */
function time(list: readonly Call[], runs: number): number {
  const place = new BigUint64Array(new ArrayBuffer(8));
  native("psi_capture_begin");
  for (const { name, args } of list) backend.call(name, args);
  native("psi_capture_end", place);
  const graph = Number(place[0]);
  const once = (count: number): number => {
    const start = performance.now();
    for (let i = 0; i < count; i++) native("psi_graph_launch", graph);
    native("psi_synchronize");
    return ((performance.now() - start) * 1000) / count;
  };
  once(3);
  const samples = Array.from({ length: 5 }, () => once(runs)).sort((a, b) => a - b);
  native("psi_graph_free", graph);
  return samples[2]!;
}

/** Runs a step with its launches measured: what each kernel took, in microseconds; "-" where the GPU does not tell. */
function printLaunches(title: string, step: () => void): void {
  native("psi_measure_launches", 1);
  step();
  const text = new Uint8Array(new ArrayBuffer(1 << 16));
  native("psi_launch_times", text, text.length);
  native("psi_measure_launches", 0);
  const lines = new TextDecoder()
    .decode(text.subarray(0, text.indexOf(0)))
    .trim()
    .split("\n");
  const rows = lines.map((line) => line.split("\t") as [string, string, string]);
  const us = rows.map(([, , seconds]) => (seconds === "-" ? undefined : Number(seconds) * 1e6));
  const known = us.every((x) => x !== undefined);
  const launches = rows.reduce((sum, [, count]) => sum + Number(count), 0);
  const whole = known ? us.reduce((sum: number, x) => sum + x!, 0).toFixed(0) : "-";
  console.log(`\n${title}: ${launches} launches, ${whole} us`);
  const order = rows.map((_, i) => i).sort((a, b) => (us[b] ?? 0) - (us[a] ?? 0));
  for (const i of order) {
    const [kernel, count] = rows[i]!;
    const each = us[i] === undefined ? "-" : (us[i] / Number(count)).toFixed(2);
    const all = us[i] === undefined ? "-" : us[i].toFixed(0);
    console.log(`  ${all.padStart(8)} us ${each.padStart(9)} each  ${count.padStart(4)} x ${kernel}`);
  }
}

/** Medians of `runs` repetitions of a step's calls: of the whole, and of those of each label together. */
function printCalls(title: string, list: readonly Call[], runs: number): void {
  const median = (samples: readonly number[]): number =>
    samples.toSorted((a, b) => a - b)[samples.length >> 1]!;
  const samples = Array.from({ length: runs }, () => {
    const sums = new Map<string, number>([["", 0]]);
    const add = (name: string, us: number) => sums.set(name, (sums.get(name) ?? 0) + us);
    for (const call of list) {
      const start = performance.now();
      backend.call(call.name, call.args);
      const us = (performance.now() - start) * 1000;
      add("", us);
      add(label(call), us);
    }
    return sums;
  });
  const counts = Map.groupBy(list, label);
  const rows = [...samples[0]!.keys()].map(
    (name) => [name, median(samples.map((s) => s.get(name)!))] as const,
  );
  console.log(`\n${title}: ${list.length} calls, ${rows[0]![1].toFixed(0)} us`);
  for (const [name, us] of rows.slice(1).sort((a, b) => b[1] - a[1])) {
    const count = counts.get(name)!.length;
    console.log(
      `  ${us.toFixed(0).padStart(8)} us ${(us / count).toFixed(2).padStart(9)} each  ${String(count).padStart(4)} x ${name}`,
    );
  }
}

/** Ops of the same shape together: names with the sizes that tell products apart. */
function label({ name, args }: Call): string {
  if (name === "matmul") return `matmul ${args[6]}x${args[7]} type ${args[8]! & 255}`;
  if (name === "moe_matmul" || name === "moe_glu")
    return `${name} ${args[9]}x${args[10]} type ${args[11]! & 255}`;
  if (name === "attention") return `attention window ${args.at(-5)}`;
  return name;
}

function printShares(title: string, list: readonly Call[], runs: number): void {
  const whole = time(list, runs);
  console.log(`\n${title}: ${list.length} calls, ${whole.toFixed(0)} us`);
  const lines = [...Map.groupBy(list, label)].map(([name, own]) => {
    const others = list.filter((call) => label(call) !== name);
    return { name, count: own.length, alone: time(own, runs), share: whole - time(others, runs) };
  });
  for (const { name, count, alone, share } of lines.sort((a, b) => b.share - a.share)) {
    const us = (total: number) =>
      `${total.toFixed(0).padStart(7)} us ${(total / count).toFixed(2).padStart(8)} each`;
    console.log(`  share ${us(share)}  alone ${us(alone)}  ${String(count).padStart(4)} x ${name}`);
  }
}

/** What each of calls `first` to `last` adds to a recording of all before it. */
function printChain(list: readonly Call[], first: number, last: number): void {
  let before = time(list.slice(0, first), 20);
  console.log(`  the first ${first} calls: ${before.toFixed(1)} us`);
  for (let i = first; i < Math.min(last, list.length); i++) {
    const now = time(list.slice(0, i + 1), 20);
    console.log(`  ${(now - before).toFixed(2).padStart(7)} us  ${i} ${label(list[i]!)}`);
    before = now;
  }
}

function measure(batch: number, depth: number, prompt: number): void {
  const rows = prompt > 0 ? prompt : batch;
  const pages = Math.ceil((depth + Math.max(prompt, 1) + 1) / pageSize);
  const pools = model.cacheGroups.map((group) => makeCachePool(device, group, "f16", pages * batch));
  const states = model.recurrent && makeStatePool(device, model.recurrent, batch);
  {
    using scope = device.scope();
    const ints = (data: number[], ...shape: number[]) => device.fromHost("i32", shape, Int32Array.from(data));
    const all = Array.from({ length: rows }, (_, i) => i);
    const table = Array.from({ length: pages * batch }, (_, i) => i);
    const sequences = ints(
      all.map((i) => (prompt > 0 ? 0 : i)),
      rows,
    );
    const step = {
      tokens: ints(
        all.map((i) => (i * 7919 + 13) % vocabulary),
        rows,
      ),
      positions: ints(
        all.map((i) => depth + (prompt > 0 ? i : 0)),
        rows,
      ),
      sequences,
      pageTables: pools.map(() => ints(table, batch, pages)),
      pools,
      ...(states && {
        states: stepStates(
          device,
          states,
          sequences,
          Array.from({ length: batch }, (_, i) => i),
        ),
      }),
      outputRows: ints(prompt > 0 ? [rows - 1] : all, prompt > 0 ? 1 : rows),
    };
    argmax(model.forward(step));
    const title = `${prompt > 0 ? `prompt of ${prompt}` : `batch ${batch}`}, depth ${depth}`;
    if (!backend.captures) {
      printLaunches(title, () => argmax(model.forward(step)));
    } else {
      calls = [];
      argmax(model.forward(step));
      const recorded = calls;
      calls = undefined;
      (backendName === "cpu" ? printCalls : printShares)(title, recorded, prompt > 0 ? 3 : 20);
      if (chain) printChain(recorded, chain[0]!, chain[1]!);
    }
    void scope;
  }
  for (const pool of pools) freeCachePool(device, pool);
  if (states) freeStatePool(device, states);
}

for (const prompt of numbers(values.prompt)) {
  if (prompt > 0) {
    measure(1, 0, prompt);
    continue;
  }
  for (const batch of numbers(values.batch))
    for (const depth of numbers(values.depth)) measure(batch, depth, 0);
}
