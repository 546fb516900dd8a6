import { pageBucket, rowBucket } from "../../compiler/buckets.ts";
import { unexpected } from "../../core/error.ts";
import type { CachePool, Model, StatePool } from "../../models/model.ts";
import type { ArenaMark } from "../../runtime/arena.ts";
import type { Device } from "../../runtime/device.ts";
import { argmax, sample } from "../../runtime/functions.ts";
import { replay } from "../../runtime/replay.ts";
import { rowsOf, type Tensor } from "../../runtime/tensor.ts";
import type { Batch } from "./batch.ts";
import { isPlain, recordsOf } from "./device_choice.ts";
import { StepBlock, type StepBlockShape } from "./step_block.ts";

/** Largest batch and context that steps are recorded for. */
export type StepLimits = {
  readonly slots: number;
  readonly maxPages: number;
  /** States of recurrent layers; absent: one for each slot. */
  readonly stateSlots?: number;
};

/** What sequences leave from step to step. */
export type StepCaches = { readonly pools: readonly CachePool[]; readonly states: StatePool | undefined };

/** What a step leaves on the device. */
export type StepOutcome = {
  /** [R, V] */
  readonly logits: Tensor;
  /** i32 [R]: the likeliest token of each row, or the chosen one where `logprobs` are there. */
  readonly ids: Tensor;
  /** f32 [R], of the chosen tokens. */
  readonly logprobs?: Tensor | undefined;
};

/** Where a recorded step leaves its results, and where the arena stands after it. */
type Outcome = StepOutcome & { readonly end: ArenaMark };

let executors = 0;

/**
 * Generation steps on a device that can record: batches of one token per sequence, filled up to a bucket, run from
 * memory at fixed addresses, so that the second step of a bucket is recorded and the following ones are one launch.
 * Logits and the likeliest token of every row are computed inside, or the chosen ones where nothing from the host but
 * settings decides them.
 */
export class RecordedSteps {
  private readonly device: Device;
  private readonly model: Model;
  private readonly caches: StepCaches;
  private readonly limits: StepLimits;
  private readonly block: StepBlock;
  private readonly outcomes = new Map<string, Outcome>();
  /** Model and cache of these steps: their addresses are in the recordings. */
  private readonly name = `generation ${++executors}`;

  /** `dummyPages`: per pool, a page that no sequence gets; never touched where there are no spare rows. */
  constructor(
    device: Device,
    model: Model,
    caches: StepCaches,
    limits: StepLimits,
    dummyPages: StepBlockShape["dummyPages"],
  ) {
    this.device = device;
    this.model = model;
    this.caches = caches;
    this.limits = limits;
    this.block = new StepBlock(device, {
      rows: rowBucket(limits.slots, device.backend.asynchronous),
      maxPages: limits.maxPages,
      dummyPages,
      stateStride: caches.states?.shape.layers.length ?? 0,
    });
  }

  /** Whether a batch is one token of each sequence, all of whose logits are wanted, and nobody listens to its calls. */
  takes(batch: Batch): boolean {
    const rows = batch.tokens.length;
    return (
      rows === batch.sequenceCount &&
      rows === batch.outputRows.length &&
      rows <= this.limits.slots &&
      batch.maxPages <= this.limits.maxPages &&
      this.device.listeners.size === 0
    );
  }

  /** Runs a batch; what it leaves are temporaries of the caller's scope. `before`: tokens of the step that it follows. */
  run(batch: Batch, before?: Tensor): StepOutcome {
    const { device } = this;
    const start = device.arena.mark();
    if (start.block !== 0 || start.offset !== 0) {
      const got = `block ${start.block}, offset ${start.offset}`;
      throw unexpected("internal", "generation step", "an empty arena", got);
    }
    const rows = rowBucket(batch.tokens.length, device.backend.asynchronous);
    const pages = pageBucket(batch.maxPages, this.limits.maxPages);
    const draws = drawsInside(batch);
    const key = `${this.name}, ${rows} rows, ${pages} pages${draws ? ", drawn" : ""}`;
    this.block.fill(batch, rows, pages, before, draws ? recordsOf(batch.choices!) : undefined);
    replay(device, key, () => this.step(key, rows, pages, draws));
    const outcome = this.outcomes.get(key)!;
    // a launch makes no temporaries, but their places are taken
    device.arena.advance(outcome.end);
    const used = batch.tokens.length;
    const { logits, ids, logprobs } = outcome;
    return {
      logits: rowsOf(logits, 0, used),
      ids: rowsOf(ids, 0, used),
      logprobs: logprobs && rowsOf(logprobs, 0, used),
    };
  }

  free(): void {
    for (const key of this.outcomes.keys()) this.device.backend.forget(key);
    this.outcomes.clear();
    this.block.free();
  }

  private step(key: string, rows: number, pages: number, draws: boolean): void {
    const { device, model } = this;
    const { pools, states: pool } = this.caches;
    const { stateRows, records, ...inputs } = this.block.views(rows, pages);
    // spare rows are one sequence to attention, but each is one of its own to recurrent layers, as output rows are numbered
    const states = pool && stateRows && { pool, sequences: inputs.outputRows, rows: stateRows };
    const logits = model.forward({ ...inputs, pools, ...(states && { states }) });
    const chosen = draws ? sample(logits, records, undefined, undefined, false) : { ids: argmax(logits) };
    const before = this.outcomes.get(key);
    if (before && (before.logits.address !== logits.address || before.ids.address !== chosen.ids.address)) {
      throw unexpected("internal", key, `logits at ${before.logits.address}`, logits.address);
    }
    this.outcomes.set(key, { logits, ...chosen, end: device.arena.mark() });
  }
}

/** Whether some tokens of a step are drawn, and every choice is made of its logits and settings alone. */
function drawsInside({ choices, outputRows }: Batch): boolean {
  if (choices?.length !== outputRows.length || choices.every(isPlain)) return false;
  return choices.every(({ entries, mask }) => !entries && !mask);
}
