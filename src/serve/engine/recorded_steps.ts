import { pageBucket, rowBucket } from "../../compiler/buckets.ts";
import { unexpected } from "../../core/error.ts";
import type { CachePool, Model, StatePool } from "../../models/model.ts";
import type { ArenaMark } from "../../runtime/arena.ts";
import type { Device } from "../../runtime/device.ts";
import { argmax } from "../../runtime/functions.ts";
import { replay } from "../../runtime/replay.ts";
import { rowsOf, type Tensor } from "../../runtime/tensor.ts";
import type { Batch } from "./batch.ts";
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

/** Where a recorded step leaves its results, and where the arena stands after it. */
type Outcome = { readonly logits: Tensor; readonly ids: Tensor; readonly end: ArenaMark };

let executors = 0;

/**
 * Generation steps on a device that can record: batches of one token per sequence, filled up to a bucket, run from
 * memory at fixed addresses, so that the second step of a bucket is recorded and the following ones are one launch.
 * Logits and the likeliest token of every row are computed inside.
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

  /** Logits [R, V] and the position of each row's largest, i32 [R]; temporaries of the caller's scope. */
  run(batch: Batch): { readonly logits: Tensor; readonly ids: Tensor } {
    const { device } = this;
    const start = device.arena.mark();
    if (start.block !== 0 || start.offset !== 0) {
      const got = `block ${start.block}, offset ${start.offset}`;
      throw unexpected("internal", "generation step", "an empty arena", got);
    }
    const rows = rowBucket(batch.tokens.length, device.backend.asynchronous);
    const pages = pageBucket(batch.maxPages, this.limits.maxPages);
    const key = `${this.name}, ${rows} rows, ${pages} pages`;
    this.block.fill(batch, rows, pages);
    replay(device, key, () => this.step(key, rows, pages));
    const outcome = this.outcomes.get(key)!;
    // a launch makes no temporaries, but their places are taken
    device.arena.advance(outcome.end);
    const used = batch.tokens.length;
    return { logits: rowsOf(outcome.logits, 0, used), ids: rowsOf(outcome.ids, 0, used) };
  }

  free(): void {
    for (const key of this.outcomes.keys()) this.device.backend.forget(key);
    this.outcomes.clear();
    this.block.free();
  }

  private step(key: string, rows: number, pages: number): void {
    const { device, model } = this;
    const { pools, states: pool } = this.caches;
    const { stateRows, ...inputs } = this.block.views(rows, pages);
    // spare rows are one sequence to attention, but each is one of its own to recurrent layers, as output rows are numbered
    const states = pool && stateRows && { pool, sequences: inputs.outputRows, rows: stateRows };
    const logits = model.forward({ ...inputs, pools, ...(states && { states }) });
    const ids = argmax(logits);
    const before = this.outcomes.get(key);
    if (before && (before.logits.address !== logits.address || before.ids.address !== ids.address)) {
      throw unexpected("internal", key, `logits at ${before.logits.address}`, logits.address);
    }
    this.outcomes.set(key, { logits, ids, end: device.arena.mark() });
  }
}
