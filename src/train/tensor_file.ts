/** safetensors files of a run: written from device memory tensor by tensor, read back after their digest was checked. */
import { unexpected } from "../core/error.ts";
import { openFile } from "../models/files/bytes.ts";
import { parseSafetensors } from "../models/files/safetensors.ts";
import type { TensorRecord } from "../models/files/tensors.ts";
import type { Device } from "../runtime/device.ts";
import { type Tensor, tensorBytes } from "../runtime/tensor.ts";
import { writeWhole } from "./durable.ts";

export type NamedTensor = { readonly name: string; readonly tensor: Tensor };

/** A file of a checkpoint; `sha256` is that of its bytes. */
export type FileRecord = { readonly path: string; readonly sha256: string; readonly bytes: number };

const chunkBytes = 8 * 2 ** 20;
/** Longer than any header that the parser takes. */
const largestHead = 128 * 2 ** 20;

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

/** A tensor of a file, with its bytes. */
export type StoredTensor = {
  readonly name: string;
  readonly record: TensorRecord;
  readonly data: Uint8Array;
};

/**
 * Tensors of a safetensors file in the order of their bytes. With a digest every byte is hashed as it is read, and what was
 * read is to be trusted only once the last tensor was taken: `digest_mismatch` is thrown after it.
 */
export function* storedTensors(path: string, sha256?: string): Generator<StoredTensor> {
  using source = openFile(path);
  const start = new Uint8Array(8);
  if (source.size >= 8) source.read(0, start);
  const length = Number(new DataView(start.buffer).getBigUint64(0, true));
  // a header is read once, so that what is parsed is what is hashed; one that is too long is the parser's to refuse
  const head = new Uint8Array(8 + length <= Math.min(source.size, largestHead) ? 8 + length : 0);
  source.read(0, head);
  const records = parseSafetensors({
    ...source,
    read(offset, target) {
      if (offset + target.length > head.length) source.read(offset, target);
      else target.set(head.subarray(offset, offset + target.length));
    },
  });
  const hasher = new Bun.CryptoHasher("sha256").update(head);
  for (const [name, record] of [...records].sort(([, a], [, b]) => a.offset - b.offset)) {
    const data = new Uint8Array(record.bytes);
    source.read(record.offset, data);
    if (sha256 !== undefined) hasher.update(data);
    yield { name, record, data };
  }
  if (sha256 === undefined) return;
  const digest = hasher.digest("hex");
  if (digest !== sha256) throw unexpected("digest_mismatch", path, `SHA-256 ${sha256}`, digest);
}

/** Fills the tensors from a safetensors file of exactly these names, shapes and types; with a digest, of exactly these bytes. */
export function readTensors(
  device: Device,
  path: string,
  tensors: readonly NamedTensor[],
  sha256?: string,
): void {
  const wanted = new Map(tensors.map(({ name, tensor }) => [name, tensor]));
  for (const { name, record, data } of storedTensors(path, sha256)) {
    const tensor = wanted.get(name);
    if (!tensor) throw unexpected("file_malformed", path, `${tensors.length} tensors`, `also ${name}`);
    wanted.delete(name);
    const shape = `f32 [${tensor.shape.join(", ")}]`;
    const found = `${record.dtype} [${record.shape.join(", ")}]`;
    if (found !== shape) throw unexpected("file_malformed", path, `${shape} as ${name}`, found);
    device.upload(tensor, data);
  }
  for (const [name, { shape }] of wanted)
    throw unexpected("file_malformed", path, `f32 [${shape.join(", ")}] as ${name}`, "nothing");
}
