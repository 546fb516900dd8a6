import { freeCachePool, makeCachePool } from "../../models/cache.ts";
import type { CachePool, CacheType, Model } from "../../models/model.ts";
import type { Device } from "../../runtime/device.ts";
import { argmax, logSumExp, topK } from "../../runtime/functions.ts";
import { rowsOf, type Tensor } from "../../runtime/tensor.ts";
import type { Batch, GroupShape, Logits, StepExecutor } from "./batch.ts";
import type { Ranked } from "./select.ts";

/** Runs a model's forward pass over paged caches on a device. */
export class ModelExecutor implements StepExecutor {
  readonly vocabularySize: number;
  readonly pools: readonly CachePool[];
  private readonly device: Device;
  private readonly model: Model;

  constructor(device: Device, model: Model, groups: readonly GroupShape[], cacheType: CacheType) {
    this.device = device;
    this.model = model;
    this.vocabularySize = model.config.vocabularySize;
    this.pools = model.cacheGroups.map((group, g) =>
      makeCachePool(device, group, cacheType, groups[g]!.pages),
    );
  }

  run(batch: Batch, read: (logits: Logits) => void): void {
    const { device, model, pools } = this;
    using _scope = device.scope();
    const ints = (data: Int32Array, ...shape: number[]) => device.fromHost("i32", shape, data);
    const total = batch.tokens.length;
    // kernels take at least one row; in the middle of a prompt the last one's logits are made and not read
    const outputRows = batch.outputRows.length > 0 ? batch.outputRows : Int32Array.of(total - 1);
    const logits = model.forward({
      tokens: ints(batch.tokens, total),
      positions: ints(batch.positions, total),
      sequences: ints(batch.sequences, total),
      pageTables: batch.pageTables.map((table) => ints(table, batch.sequenceCount, batch.maxPages)),
      pools,
      outputRows: ints(outputRows, outputRows.length),
    });
    read(new DeviceLogits(device, logits));
  }

  free(): void {
    for (const pool of this.pools) freeCachePool(this.device, pool);
  }
}

/** Logits [R, V] on the device; only what is asked for is copied. */
class DeviceLogits implements Logits {
  readonly rows: number;
  private readonly device: Device;
  private readonly logits: Tensor;

  constructor(device: Device, logits: Tensor) {
    this.device = device;
    this.logits = logits;
    this.rows = logits.shape[0]!;
  }

  argmax(): Int32Array {
    return this.device.downloadI32(argmax(this.logits));
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
