import type { CacheType, Model } from "../../models/model.ts";
import type { Device } from "../../runtime/device.ts";
import type { Batch } from "./batch.ts";
import { promptTokensPerStep } from "./budget.ts";
import { ModelExecutor } from "./executor.ts";
import { pagesFor } from "./pages.ts";
import type { ModelShape } from "./plan.ts";

/**
 * What the memory plan must know, from a model loaded on the meta device: the largest step is run there, where only
 * shapes exist, and the arena says how much it took.
 */
export function measureShape(device: Device, model: Model, slots: number, cacheType: CacheType): ModelShape {
  const executor = new ModelExecutor(
    device,
    model,
    model.cacheGroups.map(({ window }) => ({ window, pages: 1 })),
    cacheType,
  );
  executor.run(largestBatch(model, slots), (logits) => {
    logits.argmax();
    logits.logSumExp();
  });
  executor.free();
  return {
    config: model.config,
    cacheGroups: model.cacheGroups,
    weightBytes: model.weightBytes,
    workspaceBytes: device.arena.peakBytes,
  };
}

/** A whole prompt part beside every other slot generating, at the end of the context. */
function largestBatch(model: Model, slots: number): Batch {
  const total = promptTokensPerStep + slots - 1;
  const maxPages = pagesFor(model.config.contextLength);
  return {
    tokens: new Int32Array(total),
    positions: new Int32Array(total),
    sequences: new Int32Array(total),
    pageTables: model.cacheGroups.map(() => new Int32Array(slots * maxPages)),
    sequenceCount: slots,
    maxPages,
    outputRows: Int32Array.from({ length: slots }, (_, i) => total - slots + i),
  };
}
