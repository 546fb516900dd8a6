import { openDevice } from "../../backends/index.ts";
import type { ModelFiles } from "../../models/files/source.ts";
import { loadModel } from "../../models/registry.ts";
import type { EngineOptions } from "../protocol.ts";
import { availableMemory } from "./memory.ts";
import { defaultCacheType, defaultSlots, type EnginePlan, planMemory } from "./plan.ts";
import { measureShape } from "./shape.ts";

export type ModelPlan = EnginePlan & {
  readonly planDigest: string;
  /** Elements of the file's tensors. */
  readonly parameters: number;
};

type Options = Pick<EngineOptions, "contextLength" | "slots" | "maxQueue" | "cacheType" | "numerics">;

/** The memory plan of a model from its headers alone; the engine loads by it, `inspect` prints it. */
export function planModel(
  files: ModelFiles,
  options: Options = {},
  availableBytes: number = availableMemory(),
): ModelPlan {
  const device = openDevice("meta");
  try {
    const model = loadModel(device, files, { numerics: options.numerics ?? "reference" });
    try {
      const slots = options.slots ?? defaultSlots;
      const cacheType = options.cacheType ?? defaultCacheType;
      const { shape, planDigest } = measureShape(device, model, slots, cacheType);
      const plan = planMemory(shape, options, availableBytes);
      return { ...plan, planDigest, parameters: model.parameters };
    } finally {
      model.free();
    }
  } finally {
    device.close();
  }
}
