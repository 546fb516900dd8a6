import { readFileSync, statSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { openFile } from "./bytes.ts";
import type { ModelFile } from "./tensors.ts";

/** Files below this are hashed faster than their record would be worth. */
const leastRecorded = 64 * 2 ** 20;
const chunkBytes = 8 * 2 ** 20;

/**
 * `sha256:<hex>` of a model's content: of the file, or over the names and digests of its parts. Paid once per file: the
 * digest of a large one is recorded beside it with its size and time of change.
 */
export function contentDigest(
  files: readonly ModelFile[],
  onProgress: (done: number, total: number) => void = () => {},
): string {
  const total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let before = 0;
  const digests = files.map(({ path, bytes }) => {
    const digest = fileDigest(path, (done) => onProgress(before + done, total));
    before += bytes;
    return digest;
  });
  const [only] = digests;
  if (digests.length === 1) return `sha256:${only}`;
  const lines = files.map(({ path }, i) => `${digests[i]}  ${basename(path)}\n`).sort();
  return `sha256:${sha256(lines.join(""))}`;
}

type Recorded = { readonly size: number; readonly mtimeMs: number; readonly sha256: string };

function fileDigest(path: string, onProgress: (done: number) => void): string {
  const { size, mtimeMs } = statSync(path);
  const beside = `${path}.sha256.json`;
  const known = size >= leastRecorded ? recorded(beside) : undefined;
  if (known && known.size === size && known.mtimeMs === mtimeMs) return known.sha256;
  const digest = hash(path, size, onProgress);
  if (size >= leastRecorded) writeRecord(beside, { size, mtimeMs, sha256: digest });
  return digest;
}

function hash(path: string, size: number, onProgress: (done: number) => void): string {
  using source = openFile(path);
  const hasher = new Bun.CryptoHasher("sha256");
  const buffer = new Uint8Array(Math.min(chunkBytes, size));
  for (let at = 0; at < size; at += chunkBytes) {
    const chunk = buffer.subarray(0, Math.min(chunkBytes, size - at));
    source.read(at, chunk);
    hasher.update(chunk);
    onProgress(at + chunk.length);
  }
  return hasher.digest("hex");
}

function recorded(path: string): Recorded | undefined {
  try {
    const value = JSON.parse(readFileSync(path, "utf8")) as Partial<Recorded>;
    const { size, mtimeMs, sha256: digest } = value;
    const sound =
      typeof size === "number" && typeof mtimeMs === "number" && /^[0-9a-f]{64}$/.test(digest ?? "");
    return sound ? (value as Recorded) : undefined;
  } catch {
    // absent, unreadable or not ours: the content is hashed again
    return undefined;
  }
}

function writeRecord(path: string, record: Recorded): void {
  try {
    writeFileSync(path, `${JSON.stringify(record)}\n`);
  } catch {
    // a model in a read-only folder is hashed at every load
  }
}
