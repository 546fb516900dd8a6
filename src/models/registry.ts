import { unexpected } from "../core/error.ts";
import type { Device } from "../runtime/device.ts";
import { checkpointWeights } from "./checkpoint_weights.ts";
import type { ModelFiles } from "./files/source.ts";
import { ggufWeights } from "./gguf_weights.ts";
import {
  gptOssArchitectures,
  gptOssConfigFromCheckpoint,
  gptOssConfigFromGguf,
  loadGptOss,
} from "./gpt_oss.ts";
import { loadLlama } from "./llama.ts";
import { llamaArchitectures, llamaConfigFromCheckpoint, llamaConfigFromGguf } from "./llama_config.ts";
import { mapModelFiles } from "./mapped_files.ts";
import type { Model } from "./model.ts";
import { Settings } from "./settings.ts";
import { Weights } from "./weights.ts";

export type LoadOptions = {
  /** `ggml` follows ggml where it differs from the reference (the YaRN band of GPT-OSS). */
  readonly numerics?: "reference" | "ggml";
  /** Bytes of weights placed so far, of all. */
  readonly onProgress?: (done: number, total: number) => void;
};

type Family = {
  /** As GGUF's `general.architecture` or a checkpoint's `model_type` says it. */
  readonly names: readonly string[];
  load(
    files: ModelFiles,
    settings: Settings,
    weights: Weights,
    vocabulary: number,
    options: LoadOptions,
  ): Model;
};

const families: readonly Family[] = [
  {
    names: [...llamaArchitectures, "gemma3_text"],
    load(files, settings, weights, vocabulary) {
      const name = files.architecture === "gemma3_text" ? "gemma3" : files.architecture;
      const read = files.kind === "gguf" ? llamaConfigFromGguf : llamaConfigFromCheckpoint;
      return loadLlama(read(name, settings, vocabulary), weights);
    },
  },
  {
    names: [...gptOssArchitectures, "gpt_oss"],
    load(files, settings, weights, vocabulary, { numerics }) {
      const ggmlYarn = numerics === "ggml";
      if (files.kind !== "gguf") {
        return loadGptOss(gptOssConfigFromCheckpoint(settings, vocabulary, ggmlYarn), weights);
      }
      // Older files do not state the experts' width.
      const width = files.tensors.get("blk.0.ffn_gate_exps.weight")?.shape[1] ?? 0;
      return loadGptOss(
        gptOssConfigFromGguf(files.architecture, settings, vocabulary, width, ggmlYarn),
        weights,
      );
    },
  },
];

export const supportedArchitectures: readonly string[] = families.flatMap((f) => f.names);

/**
 * Loads a model's weights onto a device. On the meta device nothing is read but the header: the result has shapes, byte
 * counts and a forward pass that can be recorded.
 */
export function loadModel(device: Device, files: ModelFiles, options: LoadOptions = {}): Model {
  const family = families.find((f) => f.names.includes(files.architecture));
  if (!family) {
    throw unexpected(
      "unsupported",
      files.path,
      `an architecture of ${supportedArchitectures.join(", ")}`,
      files.architecture,
      {
        details: { architecture: files.architecture },
      },
    );
  }
  const gguf = files.kind === "gguf";
  const table = [...files.tensors].find(([name]) =>
    gguf ? name === "token_embd.weight" : name.endsWith("embed_tokens.weight"),
  );
  const vocabulary = table?.[1].shape[0];
  if (!vocabulary) throw unexpected("file_malformed", files.path, "an embedding table", "none");
  const mapped = mapModelFiles(files.files, device.name !== "meta");
  const source = gguf
    ? ggufWeights(files.tensors, mapped, device)
    : checkpointWeights(
        files.architecture.replace("gpt_oss", "gpt-oss").replace("gemma3_text", "gemma3"),
        files.tensors,
        mapped,
        device,
      );
  const total = [...files.tensors.values()].reduce((sum, t) => sum + t.bytes, 0);
  let done = 0;
  const weights = new Weights(device, source, (bytes) => {
    done += bytes;
    options.onProgress?.(Math.min(done, total), total);
  });
  try {
    const model = family.load(files, modelSettings(files), weights, vocabulary, options);
    weights.refuseUnused();
    return model;
  } catch (error) {
    weights.free();
    throw error;
  }
}

/** Hyper-parameters of a model's files. */
export function modelSettings(files: ModelFiles): Settings {
  return new Settings(files.path, (key) => files.setting(key));
}
