import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { DType } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import { fileError, openFile } from "./bytes.ts";
import type { Gguf } from "./gguf.ts";
import type { GgufValue } from "./gguf_values.ts";
import { indexName, openShards, type Shards } from "./shards.ts";
import { openGguf, splitName } from "./split.ts";
import { type ModelFile, quote, type TensorRecord } from "./tensors.ts";

type Common = {
  /** What the user named. */
  readonly path: string;
  /** GGUF's `general.architecture`, or a checkpoint's `model_type`. */
  readonly architecture: string;
  readonly files: readonly ModelFile[];
  /** A hyper-parameter as a plain number, string, boolean, list or object; undefined when absent. */
  setting(key: string): unknown;
};

/** A model as its headers describe it. Nothing but headers and small JSON files has been read. */
export type ModelFiles =
  | (Common & {
      readonly kind: "gguf";
      readonly metadata: ReadonlyMap<string, GgufValue>;
      readonly tensors: ReadonlyMap<string, TensorRecord<DType>>;
    })
  | (Common & {
      readonly kind: "safetensors";
      readonly config: Readonly<Record<string, unknown>>;
      readonly tensors: ReadonlyMap<string, TensorRecord>;
      /** `tokenizer.json` and its companions, parsed; undefined where the folder has none. */
      readonly tokenizer: unknown;
      readonly tokenizerConfig: unknown;
      readonly generationConfig: unknown;
    });

/** Opens a GGUF file (or any part of a split one), or a folder with safetensors or with a single GGUF. */
export function openModelFiles(path: string): ModelFiles {
  const names = folderNames(path);
  if (names) return openFolder(path, names);
  if (!path.endsWith(".safetensors")) return describeGguf(path, openGguf(path));
  throw unexpected("invalid_argument", path, "a .gguf file or a model folder", "a single safetensors file", {
    fix: "Give the folder that holds it and config.json",
  });
}

/** Names in a folder; undefined for a path that is no folder. */
function folderNames(path: string): readonly string[] | undefined {
  try {
    return statSync(path).isDirectory() ? readdirSync(path).sort() : undefined;
  } catch (cause) {
    throw fileError(path, cause);
  }
}

function openFolder(path: string, names: readonly string[]): ModelFiles {
  const ggufs = names.filter((n) => n.endsWith(".gguf"));
  const isCheckpoint = names.some((n) => n.endsWith(".safetensors") || n === indexName);
  if (names.includes("config.json") && (isCheckpoint || ggufs.length === 0))
    return openCheckpoint(path, names);
  // The parts of one split model count as one; a stray part without the first is opened for its message.
  const models = ggufs.filter((n) => (splitName(join(path, n))?.index ?? 0) === 0);
  const [only, ...more] = models.length > 0 ? models : ggufs.slice(0, 1);
  if (only && more.length === 0) {
    const file = join(path, only);
    return describeGguf(file, openGguf(file));
  }
  throw unexpected(
    "file_not_found",
    path,
    "a folder with config.json and safetensors, or with one GGUF file",
    only ? `${models.length} GGUF models (${models.slice(0, 4).map(quote).join(", ")}); name one` : "neither",
  );
}

/** The model that checked headers describe. */
export function describeGguf(path: string, { metadata, tensors, files }: Gguf): ModelFiles {
  const architecture = metadata.get("general.architecture");
  if (architecture?.type !== "string") {
    throw unexpected(
      "file_malformed",
      path,
      "general.architecture as a string",
      architecture?.type ?? "nothing",
    );
  }
  const setting = (key: string): unknown => plain(metadata.get(key));
  return { kind: "gguf", path, architecture: architecture.value, files, setting, metadata, tensors };
}

function plain(value: GgufValue | undefined): unknown {
  if (!value) return undefined;
  if (value.type !== "array") return value.value;
  if (value.elementType === "string") return value.value.toArray();
  const list = Array.from(value.value as ArrayLike<number | bigint>);
  return value.elementType === "bool" ? list.map(Boolean) : list;
}

function openCheckpoint(path: string, names: readonly string[]): ModelFiles {
  const json = (name: string): unknown => (names.includes(name) ? readJson(join(path, name)) : undefined);
  const config = object(join(path, "config.json"), json("config.json"));
  const shards = openShards(path, names, json(indexName));
  return {
    ...describeCheckpoint(path, config, shards),
    tokenizer: json("tokenizer.json"),
    tokenizerConfig: json("tokenizer_config.json"),
    generationConfig: json("generation_config.json"),
  };
}

type Checkpoint = Extract<ModelFiles, { kind: "safetensors" }>;

/** The model that a `config.json` and checked headers describe; of one with several towers, the text model. */
export function describeCheckpoint(
  path: string,
  config: Readonly<Record<string, unknown>>,
  { tensors, files }: Shards,
): Omit<Checkpoint, "tokenizer" | "tokenizerConfig" | "generationConfig"> {
  const where = join(path, "config.json");
  const text = Object.hasOwn(config, "text_config")
    ? { ...config, ...object(where, config.text_config) }
    : config;
  const architecture = text.model_type;
  if (typeof architecture !== "string")
    throw unexpected("file_malformed", where, "model_type as a string", typeof architecture);
  const setting = (key: string): unknown => (Object.hasOwn(text, key) ? text[key] : undefined);
  return { kind: "safetensors", path, architecture, files, setting, config, tensors };
}

/** Tokenizers of the largest vocabularies take about 35 MB. */
const MAX_JSON_BYTES = 2 ** 28;

function readJson(path: string): unknown {
  using source = openFile(path);
  if (source.size > MAX_JSON_BYTES)
    throw unexpected("file_malformed", path, `at most ${MAX_JSON_BYTES} bytes of JSON`, source.size);
  const bytes = new Uint8Array(source.size);
  source.read(0, bytes);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw unexpected("file_malformed", path, "JSON", "text that does not parse", { cause });
  }
}

function object(path: string, value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw unexpected("file_malformed", path, "a JSON object", Array.isArray(value) ? "a list" : typeof value);
  }
  return value as Record<string, unknown>;
}
