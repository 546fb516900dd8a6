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
import { argmax, gatherRows, logSumExp, topK } from "../../runtime/functions.ts";
import { rowsOf, type Tensor } from "../../runtime/tensor.ts";
import { spareRowPages } from "./backend_limits.ts";
import { type Batch, type GroupShape, type Logits, type StepExecutor, slotsOf } from "./batch.ts";
import { type CacheMemory, cacheMemory } from "./cache_memory.ts";
import type { PoolingPlan } from "./pooling.ts";
import { RecordedSteps, type StepLimits } from "./recorded_steps.ts";
import type { Ranked } from "./select.ts";

/** Runs a model's forward pass over paged caches on a device. */
export class ModelExecutor implements StepExecutor {
  readonly vocabularySize: number;
  readonly pooling: PoolingPlan | undefined;
  readonly cacheMemory: CacheMemory;
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
    pooling?: PoolingPlan,
  ) {
    this.pooling = pooling;
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
    this.cacheMemory = cacheMemory(device, this.pools, this.states);
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
    const results: StepResults =
      !batch.hiddenRows && this.recorded?.takes(batch) ? this.recorded.run(batch) : this.forward(batch);
    if (asynchronous) meanwhile();
    read(new DeviceLogits(device, results));
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

  private forward(batch: Batch): StepResults {
    const { device, model, pools, states } = this;
    const ints = (data: Int32Array, ...shape: number[]) => device.fromHost("i32", shape, data);
    const total = batch.tokens.length;
    // kernels take at least one row; in the middle of a prompt the last one's logits are made and not read
    const { hiddenRows } = batch;
    const outputRows =
      batch.outputRows.length > 0 || hiddenRows ? batch.outputRows : Int32Array.of(total - 1);
    const rows = hiddenRows ? merged(outputRows, hiddenRows) : outputRows;
    const sequences = ints(batch.sequences, total);
    const step = {
      tokens: ints(batch.tokens, total),
      positions: ints(batch.positions, total),
      sequences,
      pageTables: batch.pageTables.map((table) => ints(table, batch.sequenceCount, batch.maxPages)),
      pools,
      ...(states && { states: stepStates(device, states, sequences, slotsOf(batch)) }),
      outputRows: ints(rows, rows.length),
    };
    if (!hiddenRows) return { logits: model.forward(step) };
    const all = model.hidden(step);
    const places = (wanted: Int32Array) =>
      wanted.length === rows.length
        ? all
        : gatherRows(
            all,
            ints(
              wanted.map((row) => rows.indexOf(row)),
              wanted.length,
            ),
          );
    const logits = outputRows.length > 0 ? model.logits(places(outputRows)) : undefined;
    return { logits, hidden: places(hiddenRows) };
  }
}

function present(results: Tensor | undefined, what: string): Tensor {
  if (results) return results;
  throw unexpected("internal", "step", `${what} among what was asked for`, "none");
}

/** Recorded steps for any batch and context that the pools could hold. */
function limitsOf(groups: readonly GroupShape[]): StepLimits {
  return { slots: mostSlots, maxPages: Math.max(...groups.map(({ pages }) => pages)) };
}

const mostSlots = 64;

/** What a step leaves on the device. */
type StepResults = {
  /** [R, V]; undefined where no row's are wanted. */
  readonly logits: Tensor | undefined;
  /** i32 [R], the likeliest token of each, where the step computed them already. */
  readonly ids?: Tensor;
  /** [H, D] */
  readonly hidden?: Tensor;
};

/** The rows of both lists, each once, ascending. */
function merged(a: Int32Array, b: Int32Array): Int32Array {
  return Int32Array.from(new Set([...a, ...b])).sort();
}

/** Results of a step; only what is asked for is copied. */
class DeviceLogits implements Logits {
  readonly rows: number;
  private readonly device: Device;
  private readonly results: StepResults;

  constructor(device: Device, results: StepResults) {
    this.device = device;
    this.results = results;
    this.rows = results.logits?.shape[0] ?? 0;
  }

  private get logits(): Tensor {
    return present(this.results.logits, "logits");
  }

  hidden(): Float32Array {
    return this.device.downloadF32(present(this.results.hidden, "hidden states"));
  }

  argmax(): Int32Array {
    return this.device.downloadI32(this.results.ids ?? argmax(this.logits));
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
