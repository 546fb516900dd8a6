import { openDevice } from "../../backends/index.ts";
import type { Adapter } from "../../models/adapter.ts";
import type { ModelFiles } from "../../models/files/source.ts";
import { loadModel } from "../../models/registry.ts";
import type { EngineOptions } from "../protocol.ts";
import { backendLimits } from "./backend_limits.ts";
import { gpuLayersNote } from "./gpu_layers.ts";
import { availableMemory } from "./memory.ts";
import { defaultCacheType, defaultSlots, type EnginePlan, planMemory } from "./plan.ts";
import { measureShape } from "./shape.ts";

export type ModelPlan = EnginePlan & {
  readonly planDigest: string;
  /** Elements of the file's tensors. */
  readonly parameters: number;
};

type Options = Pick<
  EngineOptions,
  | "contextLength"
  | "slots"
  | "maxQueue"
  | "cacheType"
  | "numerics"
  | "gpuLayers"
  | "sharesMemory"
  | "wholeContext"
> &
  Partial<Pick<EngineOptions, "backend">>;

/**
 * The memory plan of a model from its headers alone; the engine loads by it, `inspect` prints it. `availableBytes` is of
 * the memory that the backend computes in.
 */
export function planModel(
  files: ModelFiles,
  options: Options = {},
  availableBytes: number = availableMemory(),
  adapter?: Adapter,
): ModelPlan {
  const backend = options.backend ?? "cpu";
  const device = openDevice("meta", { like: backend });
  try {
    const model = loadModel(device, files, {
      numerics: options.numerics ?? "reference",
      ...(adapter && { adapter }),
    });
    try {
      const layersNote = gpuLayersNote(model.config.layers, options.gpuLayers, backend);
      const { shape, planDigest } = measureShape(device, model, {
        slots: options.slots ?? defaultSlots,
        cacheType: options.cacheType ?? defaultCacheType,
        contextLength: measuredContext(model.config.contextLength, options.contextLength),
        promptTokens: backendLimits[backend].prompt.perStep,
      });
      const plan = planMemory(shape, options, availableBytes);
      const notes = [...(model.notes ?? []), ...(layersNote ? [layersNote] : []), ...plan.notes];
      return { ...plan, notes, planDigest, parameters: model.parameters };
    } finally {
      model.free();
    }
  } finally {
    device.close();
  }
}

/** An absurd context is refused by the plan, so that no step as long need be tried. */
const longestMeasured = 2 ** 20;

function measuredContext(trained: number, asked = trained): number {
  return Math.max(1, Math.min(asked, Math.max(trained, longestMeasured)));
}
