import type { Transform } from "node:stream";
import type * as Zstd from "zstd-napi";

/** Decompresses one zstd frame; the binding is loaded at first use, since most runs find everything unpacked. */
export function decompressZstd(bytes: Uint8Array): Uint8Array {
  const { decompress } = require("zstd-napi") as typeof Zstd;
  return decompress(bytes);
}

/** One zstd frame that names its content's size; fast rather than small. */
export function compressZstd(bytes: Uint8Array): Uint8Array {
  const { compress } = require("zstd-napi") as typeof Zstd;
  return compress(bytes, { compressionLevel: 1 });
}

/** What a frame's header says its content takes, bytes; undefined where it is no frame or does not say. */
export function zstdContentBytes(frame: Uint8Array): bigint | undefined {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
  if (frame.length < 6 || view.getUint32(0, true) !== 0xfd2fb528) return undefined;
  const descriptor = frame[4]!;
  const single = (descriptor & 0x20) !== 0;
  const sizeBytes = [single ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  const at = 5 + (single ? 0 : 1) + [0, 1, 2, 4][descriptor & 3]!;
  if (sizeBytes === 0 || frame.length < at + sizeBytes) return undefined;
  if (sizeBytes === 1) return BigInt(frame[at]!);
  if (sizeBytes === 2) return BigInt(view.getUint16(at, true) + 256);
  return sizeBytes === 4 ? BigInt(view.getUint32(at, true)) : view.getBigUint64(at, true);
}

/** A stream that decompresses frames as they come; it fails where the input is damaged or ends within a frame. */
export function zstdDecompressor(): Transform {
  const { DecompressStream } = require("zstd-napi") as typeof Zstd;
  return new DecompressStream();
}
