import { basename, join } from "node:path";
import { unexpected } from "../../core/error.ts";
import { openFile } from "./bytes.ts";
import { parseSafetensors } from "./safetensors.ts";
import { isObject } from "./strict_json.ts";
import { type ModelFile, quote, type TensorRecord } from "./tensors.ts";

/** The tensors of a checkpoint's safetensors files. */
export type Shards = {
  readonly tensors: ReadonlyMap<string, TensorRecord>;
  readonly files: readonly ModelFile[];
};

export const indexName = "model.safetensors.index.json";
const whole = "model.safetensors";

/** Opens the shards that `index` (parsed) names, or `model.safetensors`, or without either all safetensors files. */
export function openShards(folder: string, names: readonly string[], index: unknown): Shards {
  const wanted = index === undefined ? undefined : weightMap(join(folder, indexName), index);
  const shards = wanted ? [...new Set(wanted.values())].sort() : withoutIndex(folder, names);
  const tensors = new Map<string, TensorRecord>();
  const files: ModelFile[] = [];
  for (const [i, shard] of shards.entries()) {
    if (!names.includes(shard)) {
      throw unexpected("file_not_found", folder, `the shard ${quote(shard)} of ${indexName}`, "no such file");
    }
    using source = openFile(join(folder, shard));
    files.push({ path: source.path, bytes: source.size });
    for (const [name, record] of parseSafetensors(source, i)) {
      const other = tensors.get(name);
      if (other) {
        const places = `${quote(name)} in ${shards[other.file]} and ${shard}`;
        throw unexpected("file_malformed", folder, "tensors that occur in one file", places);
      }
      tensors.set(name, record);
    }
  }
  for (const [tensor, shard] of wanted ?? []) {
    const record = tensors.get(tensor);
    if (record && shards[record.file] === shard) continue;
    const got = record ? `it in ${shards[record.file]}` : "no such tensor";
    throw unexpected("file_malformed", join(folder, indexName), `${quote(tensor)} in ${shard}`, got);
  }
  return { tensors, files };
}

function withoutIndex(folder: string, names: readonly string[]): readonly string[] {
  if (names.includes(whole)) return [whole];
  const shards = names.filter((n) => n.endsWith(".safetensors")).sort();
  if (shards.length > 0) return shards;
  const pytorch = names.find((n) => /\.(bin|pt|pth)$/.test(n));
  const got = pytorch ? `only a PyTorch checkpoint, ${quote(pytorch)}` : "none";
  throw unexpected("file_not_found", folder, "safetensors files beside config.json", got, {
    fix: pytorch ? "Convert it to safetensors" : "",
  });
}

/** Tensor to shard; shards are plain names of files in the same folder, so that an index cannot point elsewhere. */
function weightMap(path: string, index: unknown): ReadonlyMap<string, string> {
  const map = isObject(index) ? index.weight_map : undefined;
  if (!isObject(map)) throw unexpected("file_malformed", path, "an object in weight_map", describe(map));
  const entries = new Map<string, string>();
  for (const [tensor, shard] of Object.entries(map)) {
    if (typeof shard !== "string" || basename(shard) !== shard || !shard.endsWith(".safetensors")) {
      throw unexpected(
        "file_malformed",
        path,
        `a safetensors file name for ${quote(tensor)}`,
        describe(shard),
      );
    }
    entries.set(tensor, shard);
  }
  return entries;
}

function describe(value: unknown): string {
  return quote(JSON.stringify(value) ?? "nothing");
}
