/** The golden checkpoint of the fixtures, whose weights and logits are unpacked beside their compressed files at first use. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";

export const goldenRoot = join(import.meta.dir, "../../../fixtures/golden");

function unpacked(folder: string): string {
  for (const name of ["model.safetensors", "logits.f32"]) {
    const path = join(folder, name);
    if (existsSync(path)) continue;
    const aside = `${path}.${process.pid}`;
    writeFileSync(aside, zstdDecompressSync(readFileSync(`${path}.zst`)));
    renameSync(aside, path);
  }
  return folder;
}

export const goldenFolder = unpacked(join(goldenRoot, "gpt_oss"));
