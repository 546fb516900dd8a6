/** The bytes of a checkpoint as they are handed to a peer: one file, in chunks with a digest each. */
import { closeSync, existsSync, fstatSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { PsionicError, unexpected } from "../core/error.ts";
import { type Content, document } from "./documents.ts";
import { count, digest, filled, listOf } from "./fields.ts";
import { fileRecord } from "./run_root.ts";

export const handoffIndex = document(
  "psionic.train.checkpoint_handoff_index.v1",
  {
    /** Of the handoff receipt that this belongs to. */
    receipt_digest: digest,
    /** Where the object lies below a run root. */
    object_path: filled,
    object_digest: digest,
    object_bytes: count,
    chunk_bytes: count,
    /** SHA-256 of each chunk, in order. */
    chunks: listOf(digest),
    index_digest: digest,
  },
  { field: "index_digest", prefix: "psionic_train_checkpoint_handoff_index|" },
);
export type HandoffIndex = Content<typeof handoffIndex>;

/** Chunks that an index may have, and bytes of one. */
export const mostChunks = 2 ** 20;
export const [leastChunkBytes, mostChunkBytes] = [1024, 2 ** 26];
export const usualChunkBytes = 2 ** 22;

/** Whether a path is where the object of a checkpoint may lie: a plain name in the folder of its step. */
export function isObjectPath(path: string, step: number | bigint): boolean {
  const found = /^checkpoints\/step-0*(\d+)\/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/.exec(path);
  return found?.[1] === String(step);
}

/** The file below a run root that is the object of a checkpoint, by size and digest; undefined where none is. */
export function findObject(
  root: string,
  step: number | bigint,
  objectDigest: string,
  bytes: number | bigint,
): string | undefined {
  const folders = [`checkpoints/step-${step}`, `checkpoints/step-${String(step).padStart(6, "0")}`].concat(
    `checkpoints/backups/step-${step}`,
  );
  for (const folder of new Set(folders)) {
    const names = existsSync(join(root, folder)) ? readdirSync(join(root, folder)).sort() : [];
    for (const name of names) {
      const path = join(root, folder, name);
      const stat = statSync(path, { throwIfNoEntry: false });
      if (!stat?.isFile() || BigInt(stat.size) !== BigInt(bytes)) continue;
      if (fileRecord(path).sha256 === objectDigest) return `${folder}/${name}`;
    }
  }
  return undefined;
}

/** A file that stays open, so that what replaces it under its name changes nothing. */
export class OpenObject implements Disposable {
  readonly bytes: number;
  readonly #handle: number;

  constructor(path: string) {
    this.#handle = openSync(path, "r");
    this.bytes = fstatSync(this.#handle).size;
  }

  read(from: number, to: number): Uint8Array {
    const piece = new Uint8Array(to - from);
    for (let at = 0; at < piece.length; ) {
      const read = readSync(this.#handle, piece, at, piece.length - at, from + at);
      if (read === 0) throw unexpected("io_failed", "checkpoint", `${to} bytes`, from + at);
      at += read;
    }
    return piece;
  }

  /** Digest of the whole and of each chunk, in one reading. */
  digests(chunkBytes: number): { readonly whole: string; readonly chunks: readonly string[] } {
    const whole = new Bun.CryptoHasher("sha256");
    const chunks: string[] = [];
    for (let from = 0; from < this.bytes; from += chunkBytes) {
      const chunk = this.read(from, Math.min(this.bytes, from + chunkBytes));
      whole.update(chunk);
      chunks.push(new Bun.CryptoHasher("sha256").update(chunk).digest("hex"));
    }
    return { whole: whole.digest("hex"), chunks };
  }

  [Symbol.dispose](): void {
    closeSync(this.#handle);
  }
}

/** Throws `digest_mismatch` for an index that does not hold together or is of another checkpoint. */
export function checkIndex(
  index: HandoffIndex,
  expected: {
    readonly receipt_digest: string;
    readonly step: number | bigint;
    readonly digest: string;
    readonly bytes: number | bigint;
  },
): void {
  const wrong = (what: string): never => {
    throw new PsionicError("digest_mismatch", `[handoff index] ${what}`);
  };
  if (index.receipt_digest !== expected.receipt_digest) wrong("it belongs to another receipt");
  if (index.object_digest !== expected.digest || BigInt(index.object_bytes) !== BigInt(expected.bytes))
    wrong("its object is not the receipt's");
  if (!isObjectPath(index.object_path, expected.step))
    wrong(`object_path ${JSON.stringify(index.object_path.slice(0, 80))} is no place of a checkpoint`);
  const { chunk_bytes: size } = index;
  if (size < leastChunkBytes || size > mostChunkBytes) wrong(`chunks of ${size} bytes`);
  const chunks = Math.ceil(index.object_bytes / size);
  if (chunks > mostChunks || index.chunks.length !== chunks)
    wrong(`${index.chunks.length} chunks where its size makes ${chunks}`);
}
