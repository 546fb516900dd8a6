/** safetensors files of a run: written from device memory tensor by tensor, read back after their digest was checked. */
import { unexpected } from "../core/error.ts";
import { openFile } from "../models/files/bytes.ts";
import { parseSafetensors } from "../models/files/safetensors.ts";
import type { Device } from "../runtime/device.ts";
import { type Tensor, tensorBytes } from "../runtime/tensor.ts";
import { writeWhole } from "./durable.ts";

export type NamedTensor = { readonly name: string; readonly tensor: Tensor };

/** A file of a checkpoint; `sha256` is that of its bytes. */
export type FileRecord = { readonly path: string; readonly sha256: string; readonly bytes: number };

const chunkBytes = 8 * 2 ** 20;

/** The bytes of a safetensors file of f32 tensors, piece by piece; the same tensors give the same bytes. */
function* fileParts(device: Device, tensors: readonly NamedTensor[]): Generator<Uint8Array> {
  const header: Record<string, unknown> = {};
  let offset = 0;
  for (const { name: key, tensor } of tensors) {
    if (tensor.dtype !== "f32") throw unexpected("internal", "checkpoint", "f32 tensors", tensor.dtype);
    const end = offset + tensorBytes(tensor);
    header[key] = { dtype: "F32", shape: tensor.shape, data_offsets: [offset, end] };
    offset = end;
  }
  const text = JSON.stringify(header);
  // tensors begin at a multiple of 64 bytes
  const head = new TextEncoder().encode(text.padEnd(Math.ceil((text.length + 8) / 64) * 64 - 8));
  yield new Uint8Array(new BigUint64Array([BigInt(head.length)]).buffer);
  yield head;
  for (const { tensor } of tensors) yield device.download(tensor);
}

/** SHA-256 of the file that `writeTensors` would write. */
export function hashTensors(device: Device, tensors: readonly NamedTensor[]): string {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const part of fileParts(device, tensors)) hasher.update(part);
  return hasher.digest("hex");
}

/** Writes f32 tensors as one safetensors file; what was written. */
export function writeTensors(
  device: Device,
  path: string,
  name: string,
  tensors: readonly NamedTensor[],
): FileRecord {
  const hasher = new Bun.CryptoHasher("sha256");
  let bytes = 0;
  function* hashed(): Generator<Uint8Array> {
    for (const part of fileParts(device, tensors)) {
      hasher.update(part);
      bytes += part.length;
      yield part;
    }
  }
  writeWhole(path, hashed());
  return { path: name, sha256: hasher.digest("hex"), bytes };
}

/** Throws `digest_mismatch` where a file is not the recorded one. */
export function checkFile(path: string, record: FileRecord): void {
  using source = openFile(path);
  if (source.size !== record.bytes) {
    throw unexpected("digest_mismatch", path, `${record.bytes} bytes`, source.size);
  }
  const hasher = new Bun.CryptoHasher("sha256");
  const buffer = new Uint8Array(Math.min(chunkBytes, source.size));
  for (let at = 0; at < source.size; at += chunkBytes) {
    const chunk = buffer.subarray(0, Math.min(chunkBytes, source.size - at));
    source.read(at, chunk);
    hasher.update(chunk);
  }
  const digest = hasher.digest("hex");
  if (digest !== record.sha256) throw unexpected("digest_mismatch", path, `SHA-256 ${record.sha256}`, digest);
}

/** Fills the tensors from a safetensors file of exactly these names, shapes and types. */
export function readTensors(device: Device, path: string, tensors: readonly NamedTensor[]): void {
  using source = openFile(path);
  const records = parseSafetensors(source);
  if (records.size !== tensors.length) {
    throw unexpected("file_malformed", path, `${tensors.length} tensors`, records.size);
  }
  for (const { name, tensor } of tensors) {
    const record = records.get(name);
    const wanted = `f32 [${tensor.shape.join(", ")}] as ${name}`;
    const found = record && `${record.dtype} [${record.shape.join(", ")}]`;
    if (!record || found !== `f32 [${tensor.shape.join(", ")}]`) {
      throw unexpected("file_malformed", path, wanted, found ?? "nothing");
    }
    const data = new Uint8Array(record.bytes);
    source.read(record.offset, data);
    device.upload(tensor, data);
  }
}
