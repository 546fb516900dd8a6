import { planDigest } from "../../compiler/digest.ts";
import type { CacheType, Model } from "../../models/model.ts";
import type { Device } from "../../runtime/device.ts";
import { record } from "../../runtime/recorder.ts";
import type { Batch, TokenChoice } from "./batch.ts";
import { ModelExecutor } from "./executor.ts";
import { pagesFor } from "./pages.ts";
import type { ModelShape } from "./plan.ts";
import { samplingSettings } from "./sampling_settings.ts";

export type MeasuredShape = {
  readonly shape: ModelShape;
  /** Digest of the step that generates one token: the same for every context, number of slots and machine. */
  readonly planDigest: string;
};

/** The largest step: prompt tokens beside a generating sequence in every other slot, behind contexts of this length. */
export type StepSizes = {
  readonly slots: number;
  readonly cacheType: CacheType;
  readonly contextLength: number;
  readonly promptTokens: number;
};

/**
 * What the memory plan must know, from a model loaded on the meta device: the largest step is run there, where only
 * shapes exist, and the arena says how much it took.
 */
export function measureShape(
  device: Device,
  model: Model,
  { slots, cacheType, contextLength, promptTokens }: StepSizes,
): MeasuredShape {
  const groups = model.cacheGroups.map(({ window }) => ({ window, pages: 1 }));
  const executor = new ModelExecutor(device, model, groups, cacheType);
  const program = record(device, () => {
    executor.run(emptyBatch(model, 1, 1, 1), (logits) => {
      logits.argmax();
    });
  });
  const total = promptTokens + slots - 1;
  const largest = emptyBatch(model, total, slots, pagesFor(contextLength));
  executor.run(
    { ...largest, ...(executor.chooses && { choices: maskedChoices(model, slots) }) },
    (logits) => {
      logits.argmax();
      logits.logSumExp();
    },
  );
  executor.free();
  const shape: ModelShape = {
    config: model.config,
    cacheGroups: model.cacheGroups,
    ...(model.recurrent && { recurrent: model.recurrent }),
    weightBytes: model.weightBytes,
    workspaceBytes: device.arena.peakBytes,
  };
  return { shape, planDigest: planDigest(program) };
}

/** Choices of every row that take a mask each. */
function maskedChoices({ config }: Model, rows: number): readonly TokenChoice[] {
  const { vocabularySize } = config;
  const settings = samplingSettings({ temperature: 1 }, vocabularySize);
  const words = new Int32Array(Math.ceil(vocabularySize / 32));
  const one = { settings, place: 0, logprob: true, mask: () => words };
  return Array.from({ length: rows }, (_, row) => ({ row, ...one }));
}

/** A batch of `total` tokens whose last `sequences` rows are wanted; what the numbers in it are does not matter. */
export function emptyBatch(model: Model, total: number, sequences: number, maxPages: number): Batch {
  return {
    tokens: new Int32Array(total),
    positions: new Int32Array(total),
    sequences: new Int32Array(total),
    pageTables: model.cacheGroups.map(() => new Int32Array(sequences * maxPages)),
    ...(model.recurrent && { stateSlots: new Int32Array(sequences) }),
    sequenceCount: sequences,
    maxPages,
    outputRows: Int32Array.from({ length: sequences }, (_, i) => total - sequences + i),
  };
}
