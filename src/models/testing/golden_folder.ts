/** The golden checkpoint of the fixtures, whose weights are unpacked beside their compressed file at first use. */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { zstdDecompressSync } from "node:zlib";

export const goldenRoot = join(import.meta.dir, "../../../fixtures/golden");

function unpacked(folder: string): string {
  const weights = join(folder, "model.safetensors");
  if (existsSync(weights)) return folder;
  const aside = `${weights}.${process.pid}`;
  writeFileSync(aside, zstdDecompressSync(readFileSync(`${weights}.zst`)));
  renameSync(aside, weights);
  return folder;
}

export const goldenFolder = unpacked(join(goldenRoot, "gpt_oss"));
