/** Other ways of writing the same random model: dequantised, fused, renamed. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { RandomModel } from "../../../scripts/random-model.ts";
import { cpuLibrary } from "../../backends/cpu/library.ts";
import { type DType, dtypes } from "../../core/dtype.ts";
import { openFile } from "../files/bytes.ts";
import { parseGguf } from "../files/gguf.ts";
import { type MetadataValue, type TensorToWrite, writeGguf } from "../files/gguf_writer.ts";

/** A folder that is removed at the end of the scope. */
export function temporaryFolder(): { readonly path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "psionic-test-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** A GGUF file of one part, with integers below 2^53 in its metadata, to be written in another way. */
export function readModel(path: string): RandomModel {
  const source = openFile(path);
  const { metadata, tensors } = parseGguf(source);
  const values = [...metadata].map(([key, value]): [string, MetadataValue] => {
    if (value.type === "string" || value.type === "bool") return [key, value];
    if (value.type !== "array") return [key, { type: value.type, value: Number(value.value) }];
    const list = value.elementType === "string" ? value.value.toArray() : Array.from(value.value, Number);
    return [key, { type: "array", elementType: value.elementType, value: list }];
  });
  const read = (offset: number, bytes: number): Uint8Array => {
    const data = new Uint8Array(bytes);
    source.read(offset, data);
    return data;
  };
  return {
    metadata: Object.fromEntries(values),
    tensors: [...tensors].map(([name, { dtype, shape, offset, bytes }]) => ({
      name,
      dtype,
      shape,
      chunks: () => [read(offset, bytes)],
    })),
  };
}

export function tensorBytes(tensor: TensorToWrite): Uint8Array {
  return new Uint8Array(Buffer.concat([...tensor.chunks()]));
}

/** The tensor's values by the kernels' own dequantisation. */
export function dequantised(tensor: TensorToWrite): Float32Array {
  const columns = tensor.shape.at(-1)!;
  const rows = tensor.shape.slice(0, -1).reduce((a, b) => a * b, 1);
  const bytes = tensorBytes(tensor);
  if (tensor.dtype === "f64") return Float32Array.from(new Float64Array(bytes.buffer));
  const values = new Float32Array(rows * columns);
  const dequantize = cpuLibrary().functions.get("psi_dequantize")!;
  const status = dequantize(values, bytes, rows, columns, dtypes[tensor.dtype].id);
  if (status !== 0) throw new Error(`psi_dequantize of ${tensor.dtype} returned ${status}`);
  return values;
}

export function holding(
  tensor: Pick<TensorToWrite, "name" | "shape">,
  dtype: DType,
  data: ArrayBufferView,
): TensorToWrite {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { name: tensor.name, shape: tensor.shape, dtype, chunks: () => [bytes] };
}

/** The same model with every tensor as f32. */
export function dequantisedTwin({ metadata, tensors }: RandomModel): RandomModel {
  return { metadata, tensors: tensors.map((t) => holding(t, "f32", dequantised(t))) };
}

/** The same model with its tensors changed one by one. */
export function mapTensors(
  model: RandomModel,
  change: (tensor: TensorToWrite) => TensorToWrite | readonly TensorToWrite[],
): RandomModel {
  return { ...model, tensors: model.tensors.flatMap(change) };
}

/** Replaces tensors by one that holds their rows one after the other (per expert for stacks). */
export function joinRows(model: RandomModel, names: readonly string[], joined: string): RandomModel {
  const parts = names.map((name) => model.tensors.find((t) => t.name === name)!);
  const first = parts[0]!;
  const stacked = first.shape.length === (joined.endsWith(".bias") ? 2 : 3);
  const experts = stacked ? first.shape[0]! : 1;
  const bytes = parts.map(tensorBytes);
  const pieces: Uint8Array[] = [];
  for (let e = 0; e < experts; e++) {
    for (const b of bytes) pieces.push(b.subarray((e * b.length) / experts, ((e + 1) * b.length) / experts));
  }
  // The dimension of the rows: the last but one of a matrix or stack of them, the last of a vector or its stack.
  const at = joined.endsWith(".bias") ? first.shape.length - 1 : first.shape.length - 2;
  const rows = parts.reduce((sum, part) => sum + part.shape[at]!, 0);
  const whole = { name: joined, shape: first.shape.with(at, rows) };
  const kept = model.tensors.filter((t) => !names.includes(t.name));
  return { ...model, tensors: [...kept, holding(whole, first.dtype, Buffer.concat(pieces))] };
}

export function writeModel(path: string, { metadata, tensors }: RandomModel): string {
  writeGguf(path, metadata, tensors);
  return path;
}
