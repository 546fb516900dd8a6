import { unexpected } from "../core/error.ts";
import type { TensorRecord } from "./files/tensors.ts";
import type { MappedFiles } from "./mapped_files.ts";
import type { StoredTensor, WeightSource } from "./weights.ts";

/** The tensors of a GGUF file, as they lie in its mapping. */
export function ggufWeights(tensors: ReadonlyMap<string, TensorRecord>, files: MappedFiles): WeightSource {
  let parameters = 0;
  for (const t of tensors.values()) parameters += t.shape.reduce((a, b) => a * b, 1);
  return {
    parameters,
    has: (name) => tensors.has(name),
    get(name) {
      const record = tensors.get(name);
      if (!record) throw unexpected("file_malformed", "model", `a tensor ${name}`, "none of that name");
      return stored(record, files);
    },
    close: () => files.close(),
  };
}

/** A record of a runtime dtype with the place of its bytes. */
export function stored(record: TensorRecord, files: MappedFiles): StoredTensor {
  const { name, dtype, shape, bytes, file, offset } = record;
  if (!isRuntimeType(dtype)) throw unexpected("unsupported", name, "a tensor type the kernels know", dtype);
  return {
    name,
    dtype,
    shape,
    bytes,
    address: files.address(file, offset),
    read: () => files.read(file, offset, bytes),
    drop: () => files.drop(file, offset, bytes),
  };
}

function isRuntimeType(dtype: TensorRecord["dtype"]): dtype is StoredTensor["dtype"] {
  return !["u8", "i8", "u16", "i16", "u32", "i64", "u64", "bool"].includes(dtype);
}
