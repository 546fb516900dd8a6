import type { Transform } from "node:stream";
import type * as Zstd from "zstd-napi";

/** Decompresses one zstd frame; the binding is loaded at first use, since most runs find everything unpacked. */
export function decompressZstd(bytes: Uint8Array): Uint8Array {
  const { decompress } = require("zstd-napi") as typeof Zstd;
  return decompress(bytes);
}

/** A stream that decompresses frames as they come; it fails where the input is damaged or ends within a frame. */
export function zstdDecompressor(): Transform {
  const { DecompressStream } = require("zstd-napi") as typeof Zstd;
  return new DecompressStream();
}
