/** The golden checkpoint of the fixtures, whose weights and logits are unpacked beside their compressed files at first use. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliDecompressSync } from "node:zlib";

export const goldenRoot = join(import.meta.dir, "../../../fixtures/golden");

/**
 * Bytes of a number. In `<name>.planes.br` each number is turned left by one bit, so that its exponent is a byte, and the first
 * bytes of all numbers come first, then the second ones: they compress better apart.
 */
const widths = { "model.safetensors": 2, "logits.f32": 4 } as const;

function unpacked(folder: string): string {
  for (const [name, width] of Object.entries(widths)) {
    const path = join(folder, name);
    if (existsSync(path)) continue;
    const aside = `${path}.${process.pid}`;
    writeFileSync(aside, together(brotliDecompressSync(readFileSync(`${path}.planes.br`)), width));
    renameSync(aside, path);
  }
  return folder;
}

function together(planes: Uint8Array, width: number): Uint8Array {
  const bytes = new Uint8Array(planes.length);
  let from = 0;
  for (let plane = 0; plane < width; plane++)
    for (let at = plane; at < bytes.length; at += width) bytes[at] = planes[from++]!;
  for (let at = 0; at < bytes.length; at += width) {
    const lowest = bytes[at]!;
    for (let i = 0; i < width; i++) {
      const above = i + 1 < width ? bytes[at + i + 1]! : lowest;
      bytes[at + i] = (bytes[at + i]! >> 1) | ((above & 1) << 7);
    }
  }
  return bytes;
}

export const goldenFolder = unpacked(join(goldenRoot, "gpt_oss"));
