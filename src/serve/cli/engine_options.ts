import { unexpected } from "../../core/error.ts";
import {
  backendOption,
  checkDeviceNumbers,
  deviceNumbers,
  resolveBackend,
} from "../../models/cli/backend_option.ts";
import { modelOption, modelPath } from "../../models/model_option.ts";
import { list, wholeNumber } from "../../terminal/command.ts";
import type { EngineOptions } from "../protocol.ts";

/** Options of every command that starts an engine. */
export const engineArgs = {
  ...modelOption,
  ...backendOption,
  "ctx-size": {
    type: "string",
    alias: "c",
    valueHint: "TOKENS",
    description: "Context of a request; absent: the model's own",
  },
  "gpu-layers": {
    type: "string",
    alias: list("ngl", "n-gpu-layers"),
    valueHint: "N",
    description: "Layers on a GPU: all of them, or -1; on the CPU only 0 is accepted",
  },
  "cpu-moe": { type: "boolean", description: "Refused: experts are computed where the model is" },
  "n-cpu-moe": {
    type: "string",
    valueHint: "N",
    description: "The same for the first N layers; 0 is accepted",
  },
  threads: {
    type: "string",
    alias: "t",
    valueHint: "N",
    description: "Threads of the CPU backend; absent: one per physical core",
  },
  "cache-type": {
    type: "enum",
    options: list("f32", "f16", "bf16", "fp8", "q8_0"),
    default: "f16",
    description: "Element type of the key-value cache; fp8 (e4m3) not on Metal",
  },
  numerics: {
    type: "enum",
    options: list("reference", "ggml"),
    default: "reference",
    description: "Follow the reference implementation, or ggml where the two differ",
  },
  isa: {
    type: "enum",
    options: list("plain", "avx2", "avx_vnni", "avx512", "amx", "neon"),
    description: "Instruction set of the CPU's kernels; absent: the best this machine has",
  },
} as const;

/** What citty reads of `engineArgs`. */
export type EngineArgs = {
  readonly model?: string | undefined;
  readonly backend: string;
  readonly device?: string | undefined;
  readonly "ctx-size"?: string | undefined;
  readonly "gpu-layers"?: string | undefined;
  readonly "cpu-moe"?: boolean | undefined;
  readonly "n-cpu-moe"?: string | undefined;
  readonly threads?: string | undefined;
  readonly "cache-type": string;
  readonly numerics: string;
  readonly isa?: string | undefined;
};

/** Engine options of a command line with its model; refuses what the chosen backend does not do. */
export function engineOptions(args: EngineArgs): EngineOptions {
  return { modelPath: modelPath(args.model), ...engineSettings(args) };
}

/** The same without a model. */
export function engineSettings(args: Omit<EngineArgs, "model">): Omit<EngineOptions, "modelPath"> {
  refuseExpertOffload(args);
  const backend = resolveBackend(args.backend);
  const gpuLayers = wholeNumber(args["gpu-layers"], "-ngl", -1);
  if (backend === "cpu") refuseGpuLayers(gpuLayers);
  const contextLength = wholeNumber(args["ctx-size"], "--ctx-size", 0);
  const { device, threads } = deviceNumbers(args, backend);
  return {
    backend,
    cacheType: args["cache-type"] as NonNullable<EngineOptions["cacheType"]>,
    numerics: args.numerics as NonNullable<EngineOptions["numerics"]>,
    // As in llama.cpp, 0 is the model's own context.
    ...(contextLength ? { contextLength } : {}),
    ...(device === undefined ? {} : { device }),
    ...(gpuLayers === undefined || backend === "cpu" ? {} : { gpuLayers }),
    ...(threads === undefined ? {} : { threads }),
    ...(args.isa === undefined ? {} : { isa: args.isa }),
  };
}

/** Refuses numbers out of range as wrong usage, before it is known where to compute. */
export function checkEngineNumbers(args: Omit<EngineArgs, "model">): void {
  wholeNumber(args["n-cpu-moe"], "--n-cpu-moe", 0);
  wholeNumber(args["gpu-layers"], "-ngl", -1);
  wholeNumber(args["ctx-size"], "--ctx-size", 0);
  checkDeviceNumbers(args);
}

function refuseGpuLayers(layers: number | undefined): void {
  if (layers === undefined || layers === 0) return;
  const fix = "Leave -ngl out, or take --backend cuda or metal";
  throw unexpected("unsupported", "-ngl", "0 or nothing on the CPU", layers, { fix });
}

/** llama.cpp keeps experts in host memory on request; here a model is on one device as a whole. */
export function refuseExpertOffload(args: Omit<EngineArgs, "model">): void {
  const layers = wholeNumber(args["n-cpu-moe"], "--n-cpu-moe", 0) ?? 0;
  if (!args["cpu-moe"] && layers === 0) return;
  const fix = "A model's experts are computed where the model is; to have them on the CPU take --backend cpu";
  if (args["cpu-moe"])
    throw unexpected("unsupported", "--cpu-moe", "nothing", "experts of all layers on the CPU", { fix });
  throw unexpected("unsupported", "--n-cpu-moe", "0", layers, { fix, details: { layers } });
}
