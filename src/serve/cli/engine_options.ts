import { PsionicError } from "../../core/error.ts";
import { modelOption, modelPath } from "../../models/model_option.ts";
import { list, wholeNumber } from "../../terminal/command.ts";
import type { EngineOptions } from "../protocol.ts";

/** Options of every command that starts an engine. */
export const engineArgs = {
  ...modelOption,
  backend: {
    type: "enum",
    options: list("auto", "cpu", "cuda", "metal"),
    default: "auto",
    description: "Device to compute on; this build has the CPU, which auto takes",
  },
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
    description: "Layers on a GPU; on the CPU only 0 is accepted",
  },
  threads: {
    type: "string",
    alias: "t",
    valueHint: "N",
    description: "Threads; absent: one per physical core",
  },
  "cache-type": {
    type: "enum",
    options: list("f32", "f16", "bf16", "q8_0"),
    default: "f16",
    description: "Element type of the key-value cache",
  },
  numerics: {
    type: "enum",
    options: list("reference", "ggml"),
    default: "reference",
    description: "Follow the reference implementation, or ggml where the two differ",
  },
  isa: {
    type: "enum",
    options: list("plain", "avx2", "avx512", "neon"),
    description: "Instruction set of the kernels; absent: the best this machine has",
  },
} as const;

/** What citty reads of `engineArgs`. */
export type EngineArgs = {
  readonly model?: string | undefined;
  readonly backend: string;
  readonly "ctx-size"?: string | undefined;
  readonly "gpu-layers"?: string | undefined;
  readonly threads?: string | undefined;
  readonly "cache-type": string;
  readonly numerics: string;
  readonly isa?: string | undefined;
};

/** Engine options of a command line; refuses backends that this build does not have. */
export function engineOptions(args: EngineArgs): EngineOptions {
  checkBackend(args.backend);
  checkLayers(args["gpu-layers"]);
  const contextLength = wholeNumber(args["ctx-size"], "--ctx-size", 0);
  const threads = wholeNumber(args.threads, "--threads", 1, 1024);
  return {
    modelPath: modelPath(args.model),
    backend: "cpu",
    cacheType: args["cache-type"] as NonNullable<EngineOptions["cacheType"]>,
    numerics: args.numerics as NonNullable<EngineOptions["numerics"]>,
    // As in llama.cpp, 0 is the model's own context.
    ...(contextLength ? { contextLength } : {}),
    ...(threads === undefined ? {} : { threads }),
    ...(args.isa === undefined ? {} : { isa: args.isa }),
  };
}

export function checkBackend(backend: string): void {
  if (backend === "auto" || backend === "cpu") return;
  throw new PsionicError(
    "unsupported",
    `[backend] expected auto or cpu, got ${backend}. This build has no ${backend} backend`,
  );
}

function checkLayers(asked: string | undefined): void {
  const layers = wholeNumber(asked, "-ngl", -1);
  if (layers === undefined || layers === 0) return;
  throw new PsionicError(
    "unsupported",
    `[-ngl] expected 0 or nothing on the CPU, got ${layers}. This build has no GPU backend; leave -ngl out`,
  );
}
