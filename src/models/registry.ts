import { unexpected } from "../core/error.ts";
import type { Device } from "../runtime/device.ts";
import type { Adapter } from "./adapter.ts";
import { checkpointWeights } from "./checkpoint_weights.ts";
import type { ModelFiles } from "./files/source.ts";
import { quote } from "./files/tensors.ts";
import { loadGemma4 } from "./gemma4.ts";
import { gemma4ConfigFromCheckpoint, gemma4ConfigFromGguf } from "./gemma4_config.ts";
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
import type { Model, ModelConfig } from "./model.ts";
import { loadQwen35 } from "./qwen35.ts";
import {
  qwen35Architectures,
  qwen35Checkpoints,
  qwen35ConfigFromCheckpoint,
  qwen35ConfigFromGguf,
} from "./qwen35_config.ts";
import { Settings } from "./settings.ts";
import { Weights } from "./weights.ts";

export type LoadOptions = {
  /** `ggml` follows ggml where it differs from the reference (the YaRN band of GPT-OSS). */
  readonly numerics?: "reference" | "ggml";
  /** Bytes of weights placed so far, of all. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Adds to the model's matrices. */
  readonly adapter?: Adapter;
};

type Family = {
  /** As GGUF's `general.architecture` says it. */
  readonly gguf: readonly string[];
  /** As a checkpoint's `model_type` says it. */
  readonly checkpoint: readonly string[];
  /** Reads and checks the hyper-parameters; the result loads the weights. */
  read(files: ModelFiles, settings: Settings, vocabulary: number, options: LoadOptions): ReadModel;
};

/** A model whose hyper-parameters were read and checked; `load` puts its weights in place. */
export type ReadModel = { readonly config: ModelConfig; load(weights: Weights): Model };

const families: readonly Family[] = [
  {
    gguf: llamaArchitectures,
    checkpoint: ["llama", "mistral", "qwen2", "qwen3", "gemma3", "gemma3_text"],
    read(files, settings, vocabulary) {
      const name = files.architecture === "gemma3_text" ? "gemma3" : files.architecture;
      const read = files.kind === "gguf" ? llamaConfigFromGguf : llamaConfigFromCheckpoint;
      const config = read(name, settings, vocabulary);
      return { config, load: (weights) => loadLlama(config, weights) };
    },
  },
  {
    gguf: ["gemma4"],
    checkpoint: ["gemma4_text"],
    read(files, settings, vocabulary) {
      const read = files.kind === "gguf" ? gemma4ConfigFromGguf : gemma4ConfigFromCheckpoint;
      const config = read(settings, vocabulary);
      return { config, load: (weights) => loadGemma4(config, weights) };
    },
  },
  {
    gguf: qwen35Architectures,
    checkpoint: qwen35Checkpoints,
    read(files, settings, vocabulary) {
      const { kind, architecture } = files;
      const config =
        kind === "gguf"
          ? qwen35ConfigFromGguf(architecture === "qwen35moe" ? "qwen35moe" : "qwen35", settings, vocabulary)
          : qwen35ConfigFromCheckpoint(architecture, settings, vocabulary);
      return { config, load: (weights) => loadQwen35(config, weights) };
    },
  },
  {
    gguf: gptOssArchitectures,
    checkpoint: ["gpt_oss"],
    read(files, settings, vocabulary, { numerics }) {
      const ggmlYarn = numerics === "ggml";
      const config =
        files.kind === "gguf"
          ? gptOssConfigFromGguf(files.architecture, settings, vocabulary, expertWidth(files), ggmlYarn)
          : gptOssConfigFromCheckpoint(settings, vocabulary, ggmlYarn);
      return { config, load: (weights) => loadGptOss(config, weights) };
    },
  },
];

/** Rows of an expert's gate: older files do not state the experts' width. */
function expertWidth({ tensors }: ModelFiles): number {
  const merged = tensors.get("blk.0.ffn_gate_up_exps.weight")?.shape[1];
  return tensors.get("blk.0.ffn_gate_exps.weight")?.shape[1] ?? Math.floor((merged ?? 0) / 2);
}

export const supportedArchitectures: readonly string[] = [
  ...new Set(families.flatMap((f) => [...f.gguf, ...f.checkpoint])),
];

/** Mixtures of experts that are read from GGUF only, by `model_type`, with what GGUF calls them. */
const sparseCheckpoints: Readonly<Record<string, string>> = { mixtral: "llama", qwen3_moe: "qwen3moe" };

function familyOf({ kind, architecture, path, tensors }: ModelFiles): Family {
  const names = (f: Family) => (kind === "gguf" ? f.gguf : f.checkpoint);
  const family = families.find((f) => names(f).includes(architecture));
  const details = { architecture };
  if (family === undefined) {
    const converted = kind === "gguf" ? undefined : sparseCheckpoints[architecture];
    const fix = converted && {
      fix: `Its experts are read from GGUF (architecture ${converted}): convert the folder with llama.cpp's convert_hf_to_gguf.py`,
    };
    const known = families.flatMap(names).join(", ");
    const expected =
      kind === "gguf" ? `an architecture of ${known}` : `a checkpoint with a model_type of ${known}`;
    throw unexpected("unsupported", path, expected, quote(architecture), { details, ...fix });
  }
  if (tensors.has("blk.0.ffn_gate.0.weight")) {
    const fix = "Convert the model again: files of before April 2024 keep every expert apart";
    throw unexpected("unsupported", path, "one tensor for all experts of a layer", "one for each expert", {
      ...{ details, fix },
    });
  }
  return family;
}

/** Reads and checks a model's hyper-parameters and nothing else. */
export function readModel(files: ModelFiles, options: LoadOptions = {}): ReadModel {
  const family = familyOf(files);
  const settings = modelSettings(files);
  // Adapters and vision towers carry the architecture of the model they belong to.
  if (files.kind === "gguf") settings.refuse({ "general.type": ["model"] });
  const table = [...files.tensors].find(([name]) =>
    files.kind === "gguf" ? name === "token_embd.weight" : name.endsWith("embed_tokens.weight"),
  );
  const vocabulary = table?.[1].shape[0];
  if (!table || !vocabulary) throw unexpected("file_malformed", files.path, "an embedding table", "none");
  // as transformers: rows beyond the tokenizer's are padding, and part of what vocab_size counts
  if (files.kind === "safetensors" && settings.has("vocab_size")) {
    const stated = settings.count("vocab_size");
    if (stated !== vocabulary) {
      const expected = `as many rows of ${table[0]} as vocab_size says, ${stated}`;
      throw unexpected("file_malformed", files.path, expected, vocabulary);
    }
  }
  return family.read(files, settings, vocabulary, options);
}

/**
 * Loads a model's weights onto a device. On the meta device nothing is read but the header: the result has shapes, byte
 * counts and a forward pass that can be recorded.
 */
export function loadModel(device: Device, files: ModelFiles, options: LoadOptions = {}): Model {
  const { config, load } = readModel(files, options);
  const { adapter } = options;
  if (adapter) checkAdapter(files, adapter);
  const mapped = mapModelFiles(files.files, device.name !== "meta");
  const source =
    files.kind === "gguf"
      ? ggufWeights(files.tensors, mapped)
      : checkpointWeights(
          files.architecture
            .replace("gpt_oss", "gpt-oss")
            .replace(/^(gemma\d)_text$/, "$1")
            .replace(/^qwen3_5(_moe)?(_text)?$/, "qwen35"),
          files.tensors,
          mapped,
        );
  const total = [...files.tensors.values()].reduce((sum, t) => sum + t.bytes, 0);
  let done = 0;
  const progress = (bytes: number): void => {
    done += bytes;
    options.onProgress?.(Math.min(done, total), total);
  };
  const weights = new Weights(device, source, progress, { adapter, routed: (config.experts ?? 0) > 0 });
  try {
    const model = load(weights);
    weights.refuseUnused();
    return model;
  } catch (error) {
    weights.free();
    throw error;
  }
}

/** Families whose files have the rows of queries and keys in another order than their checkpoints, which adapters follow. */
const reordered: readonly string[] = ["llama", "mistral"];

function checkAdapter({ architecture }: ModelFiles, { path, matrices }: Adapter): void {
  const moved = [...matrices.keys()].find((name) => /\.attn_[qk]$/.test(name));
  if (!reordered.includes(architecture) || moved === undefined) return;
  throw unexpected(
    "unsupported",
    path,
    `adapters of other matrices than q_proj and k_proj on ${architecture}`,
    moved,
  );
}

/** Hyper-parameters of a model's files. */
export function modelSettings(files: ModelFiles): Settings {
  return new Settings(files.path, (key) => files.setting(key));
}
