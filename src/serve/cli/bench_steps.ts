import type { Roofline } from "../../backends/index.ts";
import { programCost } from "../../compiler/cost.ts";
import type { Cost } from "../../ir/op.ts";
import { pageSize } from "../../models/cache.ts";
import type { CacheType, Model } from "../../models/model.ts";
import type { Device } from "../../runtime/device.ts";
import { record } from "../../runtime/recorder.ts";
import { backendLimits } from "../engine/backend_limits.ts";
import type { Batch, StartedStep } from "../engine/batch.ts";
import { ModelExecutor } from "../engine/executor.ts";
import { type SamplingSettings, samplingSettings } from "../engine/sampling_settings.ts";
import { ExpertReads } from "./bench_experts.ts";

/** What one test of the bench runs: a prompt, or generation behind a prompt of `depth` tokens, in `batch` sequences. */
export type BenchCase = {
  readonly kind: "prompt" | "generation";
  readonly tokens: number;
  readonly depth: number;
  readonly batch: number;
};

/** llama-bench's name of a case, with the batch where there is one. */
export function caseName({ kind, tokens, depth, batch }: BenchCase): string {
  const name = `${kind === "prompt" ? "pp" : "tg"}${tokens}`;
  return `${name}${depth > 0 ? ` @ d${depth}` : ""}${batch > 1 ? ` b${batch}` : ""}`;
}

/**
 * Seconds of each repeat, what one repeat computes and moves, and the machine's limits: before the first repeat and after
 * each, since what memory gives a virtual machine changes from second to second.
 */
export type BenchSamples = {
  readonly seconds: readonly number[];
  readonly cost: BenchCost;
  readonly limits: readonly Roofline[];
};

export type BenchCost = Cost & {
  /** Mean number of different experts per layer that a step of the case reads; absent for dense models. */
  readonly distinctExperts?: number;
};

/** Steps over which the experts read are averaged: random tokens choose others each time. */
const expertSamples = 4;

/** Runs one case on a loaded model, with `measure` between the repeats. The cache is made for it and freed. */
export function runCase(
  device: Device,
  model: Model,
  cacheType: CacheType,
  test: BenchCase,
  repeats: number,
  measure: () => Roofline,
): BenchSamples {
  const bench = new CaseRunner(device, model, cacheType, test);
  try {
    bench.fill();
    const once = () => (test.kind === "prompt" ? bench.wholePrompt() : bench.generation());
    const cost = bench.cost();
    bench.warm();
    const limits = [measure()];
    const seconds = Array.from({ length: repeats }, () => {
      const start = performance.now();
      once();
      const taken = (performance.now() - start) / 1000;
      limits.push(measure());
      return taken;
    });
    return { seconds, cost, limits };
  } finally {
    bench.free();
  }
}

/** A case on its own cache; free it when done. */
export class CaseRunner {
  private readonly device: Device;
  private readonly model: Model;
  private readonly test: BenchCase;
  private readonly pages: number;
  private readonly perStep: number;
  private readonly executor: ModelExecutor;
  private readonly greedy: SamplingSettings;
  private readonly tables = new Map<string, Int32Array>();
  private state = 1;

  constructor(device: Device, model: Model, cacheType: CacheType, test: BenchCase) {
    this.device = device;
    this.model = model;
    this.test = test;
    this.pages = Math.ceil((test.depth + test.tokens + 1) / pageSize);
    this.perStep = backendLimits[device.backend.name === "meta" ? "cpu" : device.backend.name].prompt.perStep;
    const groups = model.cacheGroups.map(({ window }) => ({ window, pages: this.pages * test.batch }));
    const limits = { slots: test.batch, maxPages: this.pages };
    this.executor = new ModelExecutor(device, model, groups, cacheType, limits);
    this.greedy = samplingSettings({ temperature: 0 }, model.config.vocabularySize);
  }

  free(): void {
    this.executor.free();
  }

  /** `count` tokens of every sequence at `position`; only the last row's logits are made. */
  prompt(position: number, count: number): void {
    for (let sequence = 0; sequence < this.test.batch; sequence++) {
      this.executor.run(this.batchOf([sequence], position, count, this.pages), (logits) => {
        logits.argmax();
      });
    }
  }

  /** Puts `depth` tokens of every sequence into the cache. */
  fill(): void {
    this.inSteps(0, this.test.depth);
  }

  wholePrompt(): void {
    this.inSteps(this.test.depth, this.test.tokens);
  }

  private inSteps(position: number, tokens: number): void {
    for (let at = 0; at < tokens; at += this.perStep) {
      this.prompt(position + at, Math.min(this.perStep, tokens - at));
    }
  }

  /** Each step is started before the one before it is read, where the device lets one, as the engine does. */
  generation(): void {
    const { depth, tokens } = this.test;
    let running: StartedStep | undefined;
    for (let i = 0; i < tokens; i++) {
      const step = this.started(depth + i);
      running?.results();
      running = step;
      if (!step) this.step(depth + i);
    }
    running?.results();
  }

  private started(position: number): StartedStep | undefined {
    const sequences = Array.from({ length: this.test.batch }, (_, i) => i);
    const choices = sequences.map((row) => ({ row, settings: this.greedy, place: 0, logprob: false }));
    return this.executor.start({ ...this.batchOf(sequences, position, 1, this.pages), choices });
  }

  /** A shorter run before the clock starts: pages are touched, threads are awake. */
  warm(): void {
    const { kind, depth, tokens } = this.test;
    if (kind === "prompt") this.prompt(depth, Math.min(this.perStep, tokens));
    else for (let i = 0; i < Math.min(tokens, 8); i++) this.step(depth + i);
  }

  /** FLOPs and bytes of one repeat, from the recorded calls; generation at the middle of its depths. */
  cost(): BenchCost {
    const { kind, depth, tokens, batch } = this.test;
    if (kind === "prompt") return this.costOf(() => this.wholePrompt(), 1);
    const middle = depth + Math.floor(tokens / 2);
    const pages = Math.ceil((middle + 1) / pageSize);
    const sequences = Array.from({ length: batch }, (_, i) => i);
    const step = () =>
      this.executor.run(this.batchOf(sequences, middle, 1, pages), (logits) => {
        logits.argmax();
      });
    const { flops, bytes, ...experts } = this.costOf(step, expertSamples);
    return { flops: flops * tokens, bytes: bytes * tokens, ...experts };
  }

  /** Mean of `samples` runs of `body`, with the experts that were really read. */
  private costOf(body: () => void, samples: number): BenchCost {
    const { listeners } = this.device;
    const reads = new ExpertReads(this.device);
    const sum = { flops: 0, bytes: 0 };
    listeners.add(reads.hear);
    try {
      for (let i = 0; i < samples; i++) {
        const { flops, bytes } = programCost(record(this.device, body)).total;
        sum.flops += flops;
        sum.bytes += bytes;
      }
    } finally {
      listeners.delete(reads.hear);
    }
    const { distinct } = reads;
    return {
      flops: sum.flops / samples,
      bytes: (sum.bytes + reads.bytesBeyondCost) / samples,
      ...(distinct === undefined ? {} : { distinctExperts: distinct }),
    };
  }

  private step(position: number): void {
    const sequences = Array.from({ length: this.test.batch }, (_, i) => i);
    this.executor.run(this.batchOf(sequences, position, 1, this.pages), (logits) => {
      logits.argmax();
    });
  }

  private batchOf(sequences: readonly number[], position: number, count: number, maxPages: number): Batch {
    const total = sequences.length * count;
    return {
      tokens: Int32Array.from({ length: total }, () => this.randomToken()),
      positions: Int32Array.from({ length: total }, (_, i) => position + (i % count)),
      sequences: Int32Array.from({ length: total }, (_, i) => Math.floor(i / count)),
      pageTables: this.model.cacheGroups.map(() => this.tableOf(sequences, maxPages)),
      ...(this.model.recurrent && { stateSlots: Int32Array.from(sequences) }),
      sequenceCount: sequences.length,
      maxPages,
      outputRows: Int32Array.from(sequences, (_, i) => (i + 1) * count - 1),
    };
  }

  /** Page tables stay the same from step to step, and making them would be most of a short one. */
  private tableOf(sequences: readonly number[], maxPages: number): Int32Array {
    const key = `${sequences[0]} ${sequences.length} ${maxPages}`;
    let table = this.tables.get(key);
    if (!table) {
      const rowOf = (s: number) => Array.from({ length: maxPages }, (_, i) => s * this.pages + i);
      table = Int32Array.from(sequences.flatMap(rowOf));
      this.tables.set(key, table);
    }
    return table;
  }

  private randomToken(): number {
    this.state = (Math.imul(this.state, 1664525) + 1013904223) >>> 0;
    return this.state % this.model.config.vocabularySize;
  }
}
