/**
 * How fast training steps are on a card: GPT-2 124M, batch 64 x 1024, and the golf baseline, 524,288 tokens a step, in bf16,
 * beside PyTorch's (scripts/pytorch/train_speed.py) in the same call; then one step op by op, each waited for.
 * Usage: bun scripts/gpu/train_speed.ts [gpt2] [golf] [--steps 20] [--warm 5] [--sequences 64] [--length 1024]
 *          [--accumulation N] [--tiny] [--no-pytorch] [--no-ops] [--python python3] [--peak 989.4]
 * Output: milliseconds a step, tokens a second and MFU of both, then a table of the ops. --tiny: widths of 64 and few
 *         tokens, to try the script where kernels run on fibers. MFU counts 6 N + 12 layers width length operations a token,
 *         as PyTorch's published figures do, of --peak Tflop/s and of what this device's tensor cores were measured to do.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { measureTensorCores, openDevice } from "../../src/backends/index.ts";
import { type HostBatch, windowsOf } from "../../src/data/batches.ts";
import { type AppliedCall, Device } from "../../src/runtime/device.ts";
import { parameterCount, type TrainedModel } from "../../src/train/model.ts";
import { golf, golfBaseline } from "../../src/train/models/golf.ts";
import { gpt2, gpt2Small } from "../../src/train/models/gpt2.ts";
import { adamWGroups, muonGroups, type ParameterGroup } from "../../src/train/optimizer/config.ts";
import { Trainer, type TrainerConfig } from "../../src/train/trainer.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ...{ steps: { type: "string", default: "20" }, warm: { type: "string", default: "5" } },
    ...{ sequences: { type: "string", default: "64" }, length: { type: "string", default: "1024" } },
    ...{ accumulation: { type: "string" }, peak: { type: "string", default: "989.4" } },
    ...{ tiny: { type: "boolean", default: false }, python: { type: "string", default: "python3" } },
    ...{ "no-pytorch": { type: "boolean", default: false }, "no-ops": { type: "boolean", default: false } },
  },
});

type Case = {
  readonly model: TrainedModel;
  readonly layers: number;
  /** Of all heads together. */
  readonly attentionWidth: number;
  readonly groups: readonly ParameterGroup[];
  readonly accumulation: number;
};

const length = Number(values.length);
const sequences = Number(values.sequences);
const small = { width: 64, layers: 2, heads: 2, contextLength: length } as const;

const cases: Readonly<Record<string, () => Case>> = {
  gpt2() {
    const config = values.tiny ? { ...small, vocabularySize: 320 } : { ...gpt2Small, contextLength: length };
    return {
      model: gpt2(config),
      layers: config.layers,
      attentionWidth: config.width,
      groups: adamWGroups(0.1),
      accumulation: 1,
    };
  },
  golf() {
    const narrow = { ...small, kvHeads: 1, headDim: 32, layers: 3, vocabularySize: 320 };
    const config = { ...golfBaseline, ...(values.tiny && narrow), contextLength: length };
    return {
      model: golf(config),
      layers: config.layers,
      attentionWidth: config.heads * config.headDim,
      groups: muonGroups(1),
      accumulation: 8,
    };
  },
};

type Speed = {
  readonly msPerStep: number;
  readonly tokensPerSecond: number;
  readonly losses: readonly number[];
};

/** Random tokens: what they are does not change how long a step takes. */
function batches(vocabulary: number): () => HostBatch {
  const rows = sequences * length;
  const positions = Int32Array.from({ length: rows }, (_, i) => i % length);
  const tokens = Int32Array.from({ length: rows + 1 }, (_, i) => (i * 7919 + (i % 97) * 31) % vocabulary);
  const batch = { sequences, length, tokens: tokens.slice(0, rows), targets: tokens.slice(1), positions };
  return () => batch;
}

type OpTime = { calls: number; ms: number; flops: number; bytes: number };

/** Calls of the same op on tensors of the same shapes together. */
function label({ op, inputs, outputs, params }: AppliedCall): string {
  const shapes = [...inputs.slice(0, 2), outputs[0]].map((t) =>
    t ? `${t.dtype}[${t.shape.join("x")}]` : "-",
  );
  const turned = op.name === "gemm" ? ` ${params.transA ? "T" : "N"}${params.transB ? "T" : "N"}` : "";
  return `${op.name}${turned} ${shapes.join(" ")}`;
}

/** The device, each call waited for and noted, none recorded. */
function watched({ backend }: Device, times: Map<string, OpTime>): Device {
  let last = 0;
  const device = new Device({
    ...backend,
    captures: false,
    call(name, args) {
      backend.synchronize();
      const begun = performance.now();
      backend.call(name, args);
      backend.synchronize();
      last = performance.now() - begun;
    },
  });
  device.listeners.add((call) => {
    const { op, inputs, outputs, params } = call;
    const cost = op.cost(inputs, params as never, outputs);
    const key = label(call);
    const t = times.get(key) ?? { calls: 0, ms: 0, flops: 0, bytes: 0 };
    times.set(key, {
      ...{ calls: t.calls + 1, ms: t.ms + last },
      ...{ flops: t.flops + cost.flops, bytes: t.bytes + cost.bytes },
    });
  });
  return device;
}

function printOps(times: ReadonlyMap<string, OpTime>, micro: number): void {
  const all = [...times].sort(([, a], [, b]) => b.ms - a.ms);
  const total = all.reduce((sum, [, t]) => sum + t.ms, 0);
  console.log(`one step (${micro} microbatches) op by op, each waited for: ${total.toFixed(1)} ms`);
  for (const [name, { calls, ms, flops, bytes }] of all.slice(0, 40)) {
    const rates = `${(flops / ms / 1e9).toFixed(0).padStart(5)} Tflop/s ${(bytes / ms / 1e6).toFixed(0).padStart(6)} GB/s`;
    console.log(`${ms.toFixed(2).padStart(9)} ms ${String(calls).padStart(5)} calls ${rates}  ${name}`);
  }
}

function trainerOf(
  device: Device,
  { model, groups, accumulation }: Case,
  initial: "seed" | "none" = "seed",
): Trainer {
  const windows = windowsOf([new Int32Array(length + 1)], length, length);
  const config: TrainerConfig = {
    ...{ seed: 1, sequences, accumulation, learningRate: 6e-4, clip: 1, precision: "bf16", recompute: false },
    ...{ schedule: { kind: "constant" }, groups },
  };
  return new Trainer(device, model, windows, config, initial);
}

function measured(device: Device, chosen: Case): Speed {
  const batch = batches(chosen.model.vocabularySize);
  const micro = Array.from({ length: chosen.accumulation }, () => batch);
  const losses: number[] = [];
  using trainer = trainerOf(device, chosen);
  const steps = (count: number): void => {
    for (let i = 0; i < count; i++) losses.push(trainer.stepOn(micro).loss);
  };
  steps(Number(values.warm));
  const begun = performance.now();
  steps(Number(values.steps));
  const msPerStep = (performance.now() - begun) / Number(values.steps);
  if (!values["no-ops"]) {
    device.arena.free(); // the other device's takes its place
    const times = new Map<string, OpTime>();
    const eager = watched(device, times);
    using again = trainerOf(eager, chosen, "none");
    const { address, shape } = trainer.parameters.values;
    device.backend.copy(again.parameters.values.address, address, 4 * shape[0]!);
    again.resumeAt(0);
    again.stepOn(micro);
    times.clear();
    again.stepOn(micro);
    printOps(times, micro.length);
    eager.arena.free();
  }
  return {
    msPerStep,
    tokensPerSecond: (sequences * length * chosen.accumulation * 1000) / msPerStep,
    losses,
  };
}

/** PyTorch's figures, of the same shapes; undefined where it does not run. */
async function pytorch(name: string, accumulation: number): Promise<Speed | undefined> {
  const words = [
    "--sequences",
    String(sequences),
    "--length",
    String(length),
    "--accumulation",
    String(accumulation),
  ];
  const counts = ["--steps", values.steps, "--warm", values.warm, ...(values.tiny ? ["--tiny"] : [])];
  const script = join(import.meta.dir, "..", "pytorch", "train_speed.py");
  const child = Bun.spawn([values.python, script, name, ...words, ...counts], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code === 0) return JSON.parse(out.trim().split("\n").at(-1)!) as Speed;
  console.log(`PyTorch did not run (exit ${code}): ${err.trim().split("\n").slice(-3).join(" | ")}`);
  return undefined;
}

for (const name of positionals.length > 0 ? positionals : Object.keys(cases)) {
  const make = cases[name];
  if (!make) throw new Error(`[train_speed] expected one of ${Object.keys(cases).join(", ")}, got ${name}`);
  const chosen = make();
  const accumulation = values.accumulation === undefined ? chosen.accumulation : Number(values.accumulation);
  const flops = 6 * parameterCount(chosen.model) + 12 * chosen.layers * chosen.attentionWidth * length;
  const line = (who: string, { msPerStep, tokensPerSecond, losses }: Speed): void => {
    const share = (peak: number): string => ((tokensPerSecond * flops) / (peak * 1e12)).toPrecision(3);
    const mfu = `MFU ${share(given)} of ${given} given, ${share(peak)} of ${peak.toPrecision(4)} Tflop/s measured`;
    const rates = `${msPerStep.toFixed(1)} ms a step, ${tokensPerSecond.toFixed(0)} tokens/s, ${mfu}`;
    const ends = `loss ${losses[0]?.toFixed(4)} to ${losses.at(-1)?.toFixed(4)}`;
    console.log(`${name.padEnd(5)} ${who.padEnd(8)} ${rates}, ${ends}`);
  };
  const device = openDevice("cuda");
  const [given, peak] = [Number(values.peak), measureTensorCores()];
  line("psionic", measured(device, { ...chosen, accumulation }));
  device.close();
  if (values["no-pytorch"]) continue;
  const peer = await pytorch(name, accumulation);
  if (peer) line("PyTorch", peer);
}
