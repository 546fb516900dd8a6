import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MetadataValue, writeGguf } from "../../files/gguf_writer.ts";

/** A small GGUF file of about so many bytes; `seed` makes its bytes differ. */
export function ggufBytes(
  bytes: number,
  seed = 1,
  more: Record<string, MetadataValue> = {},
): Uint8Array<ArrayBuffer> {
  const folder = mkdtempSync(join(tmpdir(), "gguf-"));
  try {
    const path = join(folder, "model.gguf");
    const count = Math.ceil(bytes / 4 / 32) * 32;
    const content = new Uint8Array(count * 4);
    let state = seed * 2654435761;
    for (let i = 0; i < content.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      content[i] = state >>> 24;
    }
    const metadata = { "general.architecture": { type: "string", value: "llama" }, ...more } as const;
    const tensor = { name: "t", dtype: "f32", shape: [count], chunks: () => [content] } as const;
    writeGguf(path, metadata, [tensor], { sync: false });
    return new Uint8Array(readFileSync(path));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A safetensors file with one tensor. */
export function safetensorsBytes(name: string): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(256).fill(7);
  const header = JSON.stringify({ [name]: { dtype: "F32", shape: [64], data_offsets: [0, data.length] } });
  const length = new Uint8Array(new BigUint64Array([BigInt(header.length)]).buffer);
  return new Uint8Array(Buffer.concat([length, Buffer.from(header), data]));
}
