import { unexpected } from "../../core/error.ts";
import {
  copyState,
  freeCachePool,
  freeStatePool,
  makeCachePool,
  makeStatePool,
  stepStates,
} from "../../models/cache.ts";
import type { CachePool, CacheType, Model, StatePool } from "../../models/model.ts";
import type { Device } from "../../runtime/device.ts";
import { argmax, logSumExp, topK } from "../../runtime/functions.ts";
import { rowsOf, type Tensor } from "../../runtime/tensor.ts";
import { spareRowPages } from "./backend_limits.ts";
import { type Batch, type GroupShape, type Logits, type StepExecutor, slotsOf } from "./batch.ts";
import { RecordedSteps, type StepLimits } from "./recorded_steps.ts";
import type { Ranked } from "./select.ts";

/** Runs a model's forward pass over paged caches on a device. */
export class ModelExecutor implements StepExecutor {
  readonly vocabularySize: number;
  readonly pools: readonly CachePool[];
  /** Of models with recurrent layers. */
  readonly states: StatePool | undefined;
  private readonly device: Device;
  private readonly model: Model;
  /** Where the device can record steps. */
  private readonly recorded: RecordedSteps | undefined;

  constructor(
    device: Device,
    model: Model,
    groups: readonly GroupShape[],
    cacheType: CacheType,
    limits: StepLimits = limitsOf(groups),
  ) {
    this.device = device;
    this.model = model;
    this.vocabularySize = model.config.vocabularySize;
    const { captures, asynchronous } = device.backend;
    const spare = asynchronous ? spareRowPages : 0;
    this.pools = model.cacheGroups.map((group, g) =>
      makeCachePool(device, group, cacheType, groups[g]!.pages + spare),
    );
    this.states =
      model.recurrent && makeStatePool(device, model.recurrent, limits.stateSlots ?? limits.slots);
    // pages beyond those that sequences get: the spare rows of recorded steps write there
    const dummyPages = model.cacheGroups.map((_, g) => groups[g]!.pages);
    const caches = { pools: this.pools, states: this.states };
    this.recorded = captures ? new RecordedSteps(device, model, caches, limits, dummyPages) : undefined;
  }

  run(batch: Batch, read: (logits: Logits) => void, meanwhile: () => void = () => {}): void {
    const { device } = this;
    using _scope = device.scope();
    // where calls return when they are done, other work comes before them
    const { asynchronous } = device.backend;
    if (!asynchronous) meanwhile();
    const { logits, ids } = this.recorded?.takes(batch)
      ? this.recorded.run(batch)
      : { logits: this.forward(batch), ids: undefined };
    if (asynchronous) meanwhile();
    read(new DeviceLogits(device, logits, ids));
    // in the middle of a prompt nothing is read; steps must not pile up behind which a new request would wait
    device.backend.synchronize();
  }

  copyState(from: number, to: number): void {
    if (!this.states)
      throw unexpected("internal", "copyState", "a model with recurrent layers", "one without");
    copyState(this.device, this.states, from, to);
  }

  free(): void {
    this.recorded?.free();
    for (const pool of this.pools) freeCachePool(this.device, pool);
    if (this.states) freeStatePool(this.device, this.states);
  }

  private forward(batch: Batch): Tensor {
    const { device, model, pools, states } = this;
    const ints = (data: Int32Array, ...shape: number[]) => device.fromHost("i32", shape, data);
    const total = batch.tokens.length;
    // kernels take at least one row; in the middle of a prompt the last one's logits are made and not read
    const outputRows = batch.outputRows.length > 0 ? batch.outputRows : Int32Array.of(total - 1);
    const sequences = ints(batch.sequences, total);
    return model.forward({
      tokens: ints(batch.tokens, total),
      positions: ints(batch.positions, total),
      sequences,
      pageTables: batch.pageTables.map((table) => ints(table, batch.sequenceCount, batch.maxPages)),
      pools,
      ...(states && { states: stepStates(device, states, sequences, slotsOf(batch)) }),
      outputRows: ints(outputRows, outputRows.length),
    });
  }
}

/** Recorded steps for any batch and context that the pools could hold. */
function limitsOf(groups: readonly GroupShape[]): StepLimits {
  return { slots: mostSlots, maxPages: Math.max(...groups.map(({ pages }) => pages)) };
}

const mostSlots = 64;

/** Logits [R, V] on the device; only what is asked for is copied. */
class DeviceLogits implements Logits {
  readonly rows: number;
  private readonly device: Device;
  private readonly logits: Tensor;
  /** i32 [R], where the step computed them already. */
  private readonly best: Tensor | undefined;

  constructor(device: Device, logits: Tensor, best?: Tensor) {
    this.device = device;
    this.logits = logits;
    this.best = best;
    this.rows = logits.shape[0]!;
  }

  argmax(): Int32Array {
    return this.device.downloadI32(this.best ?? argmax(this.logits));
  }

  topK(k: number): readonly Ranked[] {
    const top = topK(this.logits, k);
    const values = this.device.downloadF32(top.values);
    const ids = this.device.downloadI32(top.ids);
    return Array.from({ length: this.rows }, (_, r) => ({
      ids: ids.subarray(r * k, (r + 1) * k),
      values: values.subarray(r * k, (r + 1) * k),
    }));
  }

  logSumExp(): Float32Array {
    return this.device.downloadF32(logSumExp(this.logits));
  }

  copy(row: number): Float32Array {
    return this.device.downloadF32(rowsOf(this.logits, row, 1));
  }
}
