import { unexpected } from "../core/error.ts";
import { ConvertedTensors } from "./converted_tensor.ts";
import type { TensorRecord } from "./files/tensors.ts";
import type { MappedFiles } from "./mapped_files.ts";
import type { StoredTensor, WeightSource } from "./weights.ts";

/** Image and audio towers that some writers put into the same file: text passes them by. */
const towers = /^(v|a|mm)\./;

/** The tensors of a GGUF file, as they lie in its mapping. */
export function ggufWeights(tensors: ReadonlyMap<string, TensorRecord>, files: MappedFiles): WeightSource {
  let parameters = 0;
  for (const t of tensors.values()) parameters += t.shape.reduce((a, b) => a * b, 1);
  const converted = new ConvertedTensors(files.mapped);
  const used = new Set<string>();
  return {
    parameters,
    has: (name) => tensors.has(name),
    get(name) {
      const record = tensors.get(name);
      if (!record) throw unexpected("file_malformed", "model", `a tensor ${name}`, "none of that name");
      used.add(name);
      return stored(record, files, converted);
    },
    unused: () => [...tensors.keys()].filter((name) => !used.has(name) && !towers.test(name)),
    close() {
      converted.close();
      files.close();
    },
  };
}

/** A record with the place of its bytes; f64, which no kernel takes, becomes f32. */
export function stored(record: TensorRecord, files: MappedFiles, converted: ConvertedTensors): StoredTensor {
  const { name, dtype, shape, bytes, file, offset } = record;
  const read = (): Uint8Array => files.read(file, offset, bytes);
  if (dtype === "f64") {
    const make = (): Uint8Array =>
      new Uint8Array(Float32Array.from(new Float64Array(read().slice().buffer)).buffer);
    return converted.tensor(name, { dtype: "f32", shape, make });
  }
  if (!isWeightType(dtype)) throw unexpected("unsupported", name, "a tensor type the kernels know", dtype);
  return {
    ...{ name, dtype, shape, bytes, read, mapped: true },
    address: () => files.address(file, offset),
    place: files.mapped ? { path: files.path(file), offset } : undefined,
    mapping: files.mapping(file),
    drop: () => files.drop(file, offset, bytes),
  };
}

function isWeightType(dtype: TensorRecord["dtype"]): dtype is StoredTensor["dtype"] {
  return !["u8", "i8", "u16", "i16", "u32", "i32", "i64", "u64", "bool"].includes(dtype);
}
