import {
  type BigIntStats,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { type FileSource, fileError, openFile } from "./bytes.ts";
import type { ModelFile } from "./tensors.ts";

/** Files below this are hashed faster than their record would be worth. */
const leastRecorded = 64 * 2 ** 20;
/** Hashed in under a millisecond, so that whoever hashes beside other work can turn to it between two pieces. */
const pieceBytes = 2 ** 20;

/**
 * `sha256:<hex>` of a model's content: of the file, or over the names and digests of its parts. Paid once per file: the
 * digest of a large one is recorded with its size, time of change and inode, beside it or in the user's cache folder.
 * Hashing goes piece by piece, when the owner finds time.
 */
export class ContentDigest implements Disposable {
  readonly #files: readonly ModelFile[];
  readonly #digests: (string | undefined)[];
  #remainingBytes = 0;
  #hashing: FileHash | undefined;

  constructor(files: readonly ModelFile[]) {
    this.#files = files;
    this.#digests = files.map(({ path }) => recordedDigest(path, identityOf(path)));
    for (const [i, { bytes }] of files.entries()) if (!this.#digests[i]) this.#remainingBytes += bytes;
  }

  /** Bytes not hashed yet. */
  get remainingBytes(): number {
    return this.#remainingBytes;
  }

  /** The digest, once everything is hashed or was recorded. */
  get value(): string | undefined {
    if (this.#digests.some((digest) => digest === undefined)) return undefined;
    const [only] = this.#digests;
    if (this.#digests.length === 1) return `sha256:${only}`;
    const lines = this.#files.map(({ path }, i) => `${this.#digests[i]}  ${basename(path)}\n`).sort();
    return `sha256:${sha256(lines.join(""))}`;
  }

  /** Hashes one piece; throws `io_failed` when a file changes meanwhile. */
  advance(): void {
    const next = this.#digests.indexOf(undefined);
    if (next < 0) return;
    this.#hashing ??= new FileHash(this.#files[next]!.path);
    this.#remainingBytes = Math.max(0, this.#remainingBytes - this.#hashing.advance());
    if (!this.#hashing.ended) return;
    this.#digests[next] = this.#hashing.finish();
    this[Symbol.dispose]();
  }

  /** Closes the file that is being hashed. */
  [Symbol.dispose](): void {
    this.#hashing?.[Symbol.dispose]();
    this.#hashing = undefined;
  }
}

/** The digest of files in one go. */
export function contentDigest(
  files: readonly ModelFile[],
  onProgress: (done: number, total: number) => void = () => {},
): string {
  using digest = new ContentDigest(files);
  const total = digest.remainingBytes;
  for (;;) {
    const { value, remainingBytes } = digest;
    if (value !== undefined) return value;
    digest.advance();
    if (digest.remainingBytes < remainingBytes) onProgress(total - digest.remainingBytes, total);
  }
}

/** Keeps a digest that somebody else has computed of a file's present content, so that it is not paid again. */
export function recordDigest(path: string, digest: string): void {
  const identity = identityOf(path);
  if (identity.size >= leastRecorded) writeRecord(path, identity, digest);
}

function writeRecord(path: string, identity: Identity, digest: string): void {
  const text = `${JSON.stringify({ ...identity, sha256: digest })}\n`;
  recordPlaces(path).some((place) => wroteRecord(place, text));
}

/** A file on its way to its digest. */
class FileHash implements Disposable {
  readonly #source: FileSource;
  readonly #identity: Identity;
  readonly #hasher = new Bun.CryptoHasher("sha256");
  readonly #piece: Uint8Array;
  #at = 0;

  constructor(path: string) {
    this.#source = openFile(path);
    this.#identity = identityOf(path);
    this.#piece = new Uint8Array(Math.min(pieceBytes, this.#source.size));
  }

  get ended(): boolean {
    return this.#at >= this.#source.size;
  }

  /** Hashes one piece and gives its bytes. */
  advance(): number {
    const piece = this.#piece.subarray(0, Math.min(pieceBytes, this.#source.size - this.#at));
    this.#source.read(this.#at, piece);
    this.#hasher.update(piece);
    this.#at += piece.length;
    return piece.length;
  }

  /** The digest, recorded where the file is large. */
  finish(): string {
    const { path, size } = this.#source;
    const digest = this.#hasher.digest("hex");
    if (!isSame(this.#identity, identityOf(path))) {
      throw unexpected(
        "io_failed",
        path,
        "a file that stays as it is while being read",
        "a change during hashing",
      );
    }
    if (size >= leastRecorded) writeRecord(path, this.#identity, digest);
    return digest;
  }

  [Symbol.dispose](): void {
    this.#source[Symbol.dispose]();
  }
}

/** What must be unchanged for a recorded digest to hold; 64-bit values as decimal text. */
type Identity = { readonly size: number; readonly mtimeNs: string; readonly inode: string };

function identityOf(path: string): Identity {
  let stat: BigIntStats;
  try {
    stat = statSync(path, { bigint: true });
  } catch (cause) {
    throw fileError(path, cause);
  }
  return { size: Number(stat.size), mtimeNs: String(stat.mtimeNs), inode: String(stat.ino) };
}

function isSame(a: Identity, b: Identity): boolean {
  return a.size === b.size && a.mtimeNs === b.mtimeNs && a.inode === b.inode;
}

/** Beside the file; and, for models in read-only folders, the user's cache folder under a name made of the path. */
function recordPlaces(path: string): readonly string[] {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  const name = `${sha256(resolve(path))}.json`;
  return [`${path}.sha256.json`, join(cache, "psionic", "digests", name)];
}

function recordedDigest(path: string, identity: Identity): string | undefined {
  if (identity.size < leastRecorded) return undefined;
  for (const place of recordPlaces(path)) {
    const known = readRecord(place, identity);
    if (known !== undefined) return known;
  }
  return undefined;
}

function readRecord(place: string, identity: Identity): string | undefined {
  try {
    const value = JSON.parse(readFileSync(place, "utf8")) as Partial<Identity & { sha256: string }>;
    const { size, mtimeNs, inode, sha256: digest } = value;
    const holds = size === identity.size && mtimeNs === identity.mtimeNs && inode === identity.inode;
    return holds && /^[0-9a-f]{64}$/.test(digest ?? "") ? digest : undefined;
  } catch {
    // absent, unreadable or not ours: the next place, or the content, is read
    return undefined;
  }
}

/** Writes aside and renames, so that a reader sees a whole record or none; false where the folder cannot be written. */
function wroteRecord(place: string, text: string): boolean {
  const aside = `${place}.${process.pid}.part`;
  try {
    mkdirSync(dirname(place), { recursive: true });
    writeFileSync(aside, text);
    renameSync(aside, place);
    return true;
  } catch {
    // a record only saves time; without one the file is hashed at the next load
    removeIfPossible(aside);
    return false;
  }
}

function removeIfPossible(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // a folder that cannot be written holds nothing of ours
  }
}
