import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import type { DType } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import { openFile } from "./bytes.ts";
import { type Gguf, parseGguf } from "./gguf.ts";
import type { GgufValue } from "./gguf_values.ts";
import { parseSafetensors } from "./safetensors.ts";
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
  if (!existsSync(path)) throw unexpected("file_not_found", path, "a model file or folder", "nothing there");
  if (!statSync(path).isDirectory()) return openGguf(path);
  const names = readdirSync(path);
  if (names.includes("config.json")) return openCheckpoint(path, names);
  const ggufs = names.filter((n) => n.endsWith(".gguf")).sort();
  const first = ggufs[0];
  if (first && (ggufs.length === 1 || splitName.test(first))) return openGguf(join(path, first));
  const got = ggufs.length === 0 ? "neither" : `${ggufs.length} GGUF files; name one`;
  throw unexpected(
    "file_not_found",
    path,
    "a folder with config.json and safetensors, or with one GGUF file",
    got,
  );
}

const splitName = /-(\d{5})-of-(\d{5})\.gguf$/;
const MAX_PARTS = 10_000;

function openGguf(path: string): ModelFiles {
  const split = splitName.exec(path);
  const parts = split ? partPaths(path, Number(split[2])) : [path];
  const opened = parts.map((part, index) => readHeader(part, index));
  if (!split && Number(opened[0]!.metadata.get("split.count")?.value ?? 1) > 1) {
    throw unexpected(
      "file_malformed",
      path,
      "a split file's own name, NAME-00001-of-000NN.gguf",
      quote(basename(path)),
    );
  }
  return describeGguf(path, {
    ...opened[0]!,
    tensors: split ? joinParts(opened, parts) : opened[0]!.tensors,
    files: opened.flatMap((g) => g.files),
  });
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

function readHeader(path: string, index: number): Gguf {
  using source = openFile(path);
  return parseGguf(source, index);
}

function partPaths(path: string, count: number): string[] {
  if (count < 1 || count > MAX_PARTS)
    throw unexpected("file_malformed", path, `1 to ${MAX_PARTS} parts`, count);
  const five = (n: number): string => String(n).padStart(5, "0");
  const parts = Array.from({ length: count }, (_, i) =>
    join(dirname(path), basename(path).replace(splitName, `-${five(i + 1)}-of-${five(count)}.gguf`)),
  );
  const missing = parts.find((part) => !existsSync(part));
  if (missing) throw unexpected("file_not_found", path, `all ${count} parts`, `no ${basename(missing)}`);
  return parts;
}

function joinParts(
  opened: readonly Gguf[],
  parts: readonly string[],
): ReadonlyMap<string, TensorRecord<DType>> {
  const all = new Map<string, TensorRecord<DType>>();
  for (const [i, { metadata, tensors }] of opened.entries()) {
    const number = Number(metadata.get("split.no")?.value ?? -1);
    const count = Number(metadata.get("split.count")?.value ?? -1);
    if (number !== i || count !== opened.length) {
      throw unexpected(
        "file_malformed",
        parts[i]!,
        `split.no ${i} of ${opened.length}`,
        `${number} of ${count}`,
      );
    }
    for (const [name, record] of tensors) {
      if (all.has(name))
        throw unexpected("file_malformed", parts[i]!, "tensors that occur in one part", quote(name));
      all.set(name, record);
    }
  }
  const declared = Number(opened[0]!.metadata.get("split.tensors.count")?.value ?? all.size);
  if (declared !== all.size)
    throw unexpected("file_malformed", parts[0]!, `${declared} tensors in all parts`, all.size);
  return all;
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
  const shards = openShards(path, names, json("model.safetensors.index.json"));
  return {
    ...describeCheckpoint(path, config, shards),
    tokenizer: json("tokenizer.json"),
    tokenizerConfig: json("tokenizer_config.json"),
    generationConfig: json("generation_config.json"),
  };
}

type Checkpoint = Extract<ModelFiles, { kind: "safetensors" }>;
type Shards = Pick<Checkpoint, "tensors" | "files">;

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

function openShards(path: string, names: readonly string[], index: unknown): Shards {
  const shards =
    index === undefined ? names.filter((n) => n.endsWith(".safetensors")).sort() : shardsOf(path, index);
  if (shards.length === 0) throw unexpected("file_not_found", path, "safetensors files", "none");
  const tensors = new Map<string, TensorRecord>();
  const files: ModelFile[] = [];
  for (const [i, shard] of shards.entries()) {
    if (!names.includes(shard))
      throw unexpected("file_not_found", path, `the shard ${quote(shard)}`, "no such file");
    using source = openFile(join(path, shard));
    files.push({ path: source.path, bytes: source.size });
    for (const [name, record] of parseSafetensors(source, i)) {
      if (tensors.has(name))
        throw unexpected("file_malformed", source.path, "tensors that occur once", quote(name));
      tensors.set(name, record);
    }
  }
  return { tensors, files };
}

/** Shards that an index names: plain file names of the same folder. */
function shardsOf(path: string, index: unknown): string[] {
  const map = object(path, object(path, index).weight_map);
  const shards = [...new Set(Object.values(map))];
  for (const shard of shards) {
    if (typeof shard !== "string" || basename(shard) !== shard || !shard.endsWith(".safetensors")) {
      throw unexpected(
        "file_malformed",
        path,
        "file names in weight_map",
        quote(JSON.stringify(shard) ?? "nothing"),
      );
    }
  }
  return (shards as string[]).sort();
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
