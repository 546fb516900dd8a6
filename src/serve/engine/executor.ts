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
import { argmax, gatherRows } from "../../runtime/functions.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { spareRowPages } from "./backend_limits.ts";
import {
  type Batch,
  type GroupShape,
  type Logits,
  type StartedStep,
  type StepExecutor,
  slotsOf,
} from "./batch.ts";
import { type CacheMemory, cacheMemory } from "./cache_memory.ts";
import { type ChosenTokens, chooseTokens, isPlain } from "./device_choice.ts";
import { DeviceLogits, FetchedResults, type StepResults } from "./device_logits.ts";
import type { PoolingPlan } from "./pooling.ts";
import { RecordedSteps, type StepLimits } from "./recorded_steps.ts";

/** Runs a model's forward pass over paged caches on a device. */
export class ModelExecutor implements StepExecutor {
  readonly vocabularySize: number;
  readonly pooling: PoolingPlan | undefined;
  readonly cacheMemory: CacheMemory;
  readonly pools: readonly CachePool[];
  /** Of models with recurrent layers. */
  readonly states: StatePool | undefined;
  readonly chooses: boolean;
  readonly keepsInside = true;
  private readonly device: Device;
  private readonly model: Model;
  /** Where the device can record steps. */
  private readonly recorded: RecordedSteps | undefined;
  /** Where the started step left its tokens, i32 [R]: there until another step runs. */
  private started: Tensor | undefined;

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
    this.chooses = device.backend.supports("sample");
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
    this.started = undefined;
    const { choices } = batch;
    const left: StepResults =
      !batch.hiddenRows && this.recorded?.takes(batch) ? this.recorded.run(batch) : this.forward(batch);
    const results = { ...left, chosen: this.choose(batch, left) };
    if (asynchronous) meanwhile();
    read(new DeviceLogits(device, results, choices));
    // in the middle of a prompt nothing is read; steps must not pile up behind which a new request would wait
    device.backend.synchronize();
  }

  rouse(): void {
    const { device } = this;
    if (!device.backend.asynchronous) return;
    using _scope = device.scope();
    device.fromHost("i32", [1], Int32Array.of(0));
  }

  start(batch: Batch): StartedStep | undefined {
    const { device, recorded } = this;
    const { fetch } = device.backend;
    const whole = batch.choices?.length === batch.outputRows.length;
    if (!fetch || !recorded || !whole || batch.hiddenRows || !recorded.takes(batch)) return undefined;
    using _scope = device.scope();
    const outcome = recorded.run(batch, this.started);
    const chosen = this.choose(batch, outcome)!;
    this.started = chosen.ids;
    return new FetchedResults(fetch, outcome.logits, chosen, batch.ranks ?? 0);
  }

  /** The tokens of a batch's choices; those that a recorded step has made already. */
  private choose({ choices }: Batch, { logits, ids, logprobs }: StepResults): ChosenTokens | undefined {
    if (!choices || choices.length === 0 || !logits) return undefined;
    if (ids && logprobs) return { ids, logprobs };
    if (choices.length < logits.shape[0]! || !choices.every(isPlain))
      return chooseTokens(this.device, logits, choices);
    return { ids: ids ?? argmax(logits) };
  }

  copyState(from: number, to: number): void {
    if (!this.states)
      throw unexpected("internal", "copyState", "a model with recurrent layers", "one without");
    copyState(this.device, this.states, from, to);
  }

  free(): void {
    this.device.backend.synchronize();
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
      ...(states && { states: stepStates(device, states, sequences, slotsOf(batch), batch.stateKeeps) }),
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

/** Recorded steps for any batch and context that the pools could hold. */
function limitsOf(groups: readonly GroupShape[]): StepLimits {
  return { slots: mostSlots, maxPages: Math.max(...groups.map(({ pages }) => pages)) };
}

const mostSlots = 64;

/** The rows of both lists, each once, ascending. */
function merged(a: Int32Array, b: Int32Array): Int32Array {
  return Int32Array.from(new Set([...a, ...b])).sort();
}
