/** The run root: reading and writing its documents, each replaced in one step, by one process at a time. */
import {
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
} from "node:fs";
import { dirname, join, sep } from "node:path";
import type * as v from "valibot";
import { sha256 } from "../core/digest.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import { orderedJson } from "../core/json.ts";
import { type ExactJson, parseExactJson } from "../core/json_reader.ts";
import { openFile } from "../models/files/bytes.ts";
import { syncFolder, writeWhole } from "../train/durable.ts";
import { lockRun } from "../train/run_root.ts";
import { refuse } from "./contract.ts";
import { type DigestRule, verified } from "./documents.ts";
import type { Binding } from "./manifest.ts";
import { slug, staysInside } from "./names.ts";
import { refuseRoot } from "./unwritable.ts";

/** Larger than any document that this room writes. */
const largestDocument = 16 * 2 ** 20;

/** Files of more bytes are not copied. */
const largestCopy = 64 * 2 ** 20;

/** Whether a file could be given a further name: not across file systems, and not on all of them. */
function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch {
    return false;
  }
}

/** The folder, or the nearest one above it that is there. */
function present(folder: string): string {
  return existsSync(folder) || dirname(folder) === folder ? folder : present(dirname(folder));
}

type Readable<S extends v.GenericSchema> = { readonly schema: S; readonly digest: DigestRule | undefined };

/** A file with what identifies it. */
export type HashedBytes = { readonly bytes: Uint8Array; readonly sha256: string };

/** Where documents lie is told relative to the root; `path` gives the place as packets name it. */
export class RunRoot implements Disposable {
  /** As the manifest gave it. */
  readonly root: string;
  readonly #lock: Disposable;

  private constructor(root: string, lock: Disposable) {
    this.root = root;
    this.#lock = lock;
  }

  /** Makes the root and takes it for this process. A root that another process is at is refused, to be tried again. */
  static open(root: string): RunRoot {
    try {
      mkdirSync(root, { recursive: true });
      return new RunRoot(root, lockRun(root));
    } catch (cause) {
      if (!(cause instanceof PsionicError) || cause.code !== "locked") return refuseRoot(root, cause);
      const taken = "pid" in cause.details;
      return refuse(
        "artifact_incomplete",
        taken ? `another process is at work in ${root}` : cause.message,
        cause,
      );
    }
  }

  path(relative: string): string {
    return join(this.root, relative);
  }

  /** The path as packets have it; null where no such file is. */
  present(relative: string): string | null {
    return this.has(relative) ? this.path(relative) : null;
  }

  has(relative: string): boolean {
    return existsSync(this.path(relative));
  }

  /** Raw bytes of a file below the root. */
  bytes(relative: string): Uint8Array {
    if (!staysInside(relative))
      throw unexpected("file_malformed", this.root, "a path below the run root", JSON.stringify(relative));
    return fileBytes(this.path(relative));
  }

  json(relative: string): ExactJson {
    return jsonOf(this.bytes(relative), this.path(relative));
  }

  /** A document whose digest holds; undefined where there is none. */
  read<S extends v.GenericSchema>(doc: Readable<S>, relative: string): v.InferOutput<S> | undefined {
    if (!this.has(relative)) return undefined;
    return verified(doc, this.json(relative), this.path(relative));
  }

  /** Writes a document in one step; its bytes. */
  write(relative: string, value: object): Uint8Array {
    const bytes = new TextEncoder().encode(orderedJson(value, 2));
    this.writeBytes(relative, bytes);
    return bytes;
  }

  writeBytes(relative: string, bytes: Uint8Array): void {
    writeWhole(this.place(relative), [bytes]);
  }

  /** Removes a file or a folder, where there is one. */
  remove(relative: string): void {
    if (this.has(relative)) rmSync(this.place(relative), { recursive: true, force: true });
  }

  /** A copy of a file; of a large one a further name, since files here are replaced and never written into. */
  snapshot(from: string, to: string): void {
    const [source, target] = [this.path(from), this.place(to)];
    const aside = `${target}.part`;
    rmSync(aside, { force: true });
    if (statSync(source).size <= largestCopy || !linked(source, aside)) {
      copyFileSync(source, aside, constants.COPYFILE_FICLONE);
      syncFolder(aside);
    }
    renameSync(aside, target);
    // renaming one name of a file to another name of it leaves both
    rmSync(aside, { force: true });
    syncFolder(dirname(target));
  }

  /** The path of a file that is about to be written; its folder is made. */
  place(relative: string): string {
    if (!staysInside(relative))
      throw unexpected("internal", this.root, "a path below the run root", JSON.stringify(relative));
    const path = this.path(relative);
    // a link that leads elsewhere must not carry what we write, nor the folders for it, out of the root
    const inside = realpathSync(this.root);
    this.#checkInside(inside, present(dirname(path)), path);
    mkdirSync(dirname(path), { recursive: true });
    this.#checkInside(inside, existsSync(path) ? path : dirname(path), path);
    return path;
  }

  #checkInside(inside: string, at: string, path: string): void {
    const place = realpathSync(at);
    if (place === inside || place.startsWith(inside.endsWith(sep) ? inside : inside + sep)) return;
    refuse("bad_config", `[${path}] expected a place below the run root, got ${place}`);
  }

  /** The binding of a file below the root: identity by content, path relative to the root. */
  bind(role: string, relative: string): Binding {
    return bindingOf(role, this.bytes(relative), relative);
  }

  /** The same of a file of any size. */
  bindFile(role: string, relative: string): Binding {
    const record = fileRecord(this.path(relative));
    return boundAs(role, record.sha256, record.bytes, relative);
  }

  [Symbol.dispose](): void {
    this.#lock[Symbol.dispose]();
  }
}

export function bindingOf(role: string, bytes: Uint8Array, path: string): Binding {
  return boundAs(role, sha256(bytes), bytes.byteLength, path);
}

function boundAs(role: string, digest: string, bytes: number, path: string): Binding {
  return {
    artifact_ref: {
      artifact_id: `psionic.train.artifact.${slug(role)}.${digest}`,
      artifact_digest: digest,
      artifact_bytes: bytes,
    },
    materialized_path: path,
  };
}

type FileRecord = { readonly sha256: string; readonly bytes: number };

/** Large files that this process has hashed, by what changes when one is replaced or written; further names share it. */
const hashed = new Map<string, FileRecord>();

/** Digest and size of a file of any size; a large one is read once, under whatever name. */
export function fileRecord(path: string): FileRecord {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (!stat || stat.size <= largestCopy) return readRecord(path);
  const identity = `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}`;
  const found = hashed.get(identity) ?? readRecord(path);
  hashed.set(identity, found);
  return found;
}

/** Read piece by piece. */
function readRecord(path: string): FileRecord {
  using source = openFile(path);
  const hasher = new Bun.CryptoHasher("sha256");
  const chunk = new Uint8Array(Math.min(source.size, 8 * 2 ** 20));
  for (let at = 0; at < source.size; at += chunk.length) {
    const piece = chunk.subarray(0, Math.min(chunk.length, source.size - at));
    source.read(at, piece);
    hasher.update(piece);
  }
  return { sha256: hasher.digest("hex"), bytes: source.size };
}

/** What is at a path, undefined for nothing; a path that the system does not take (NUL, too long, below a file) is an error of its own. */
function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (cause) {
    const got = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw unexpected("file_not_found", path, "a path that can be looked at", got, { cause });
  }
}

/** The bytes of a regular file of bearable size. */
export function fileBytes(path: string, largest = largestDocument): Uint8Array {
  const stat = statOf(path);
  if (!stat) throw unexpected("file_not_found", path, "a file", "nothing");
  if (!stat.isFile()) throw unexpected("file_malformed", path, "a regular file", "something else");
  if (stat.size > largest) throw unexpected("file_malformed", path, `at most ${largest} bytes`, stat.size);
  return readFileSync(path);
}

/** What a file is read through where its bytes are not kept: memory that is new each time costs more than hashing. */
const passing = new Uint8Array(2 ** 20);

/** Digest and size of a regular file of any size; its bytes as well where they are to be kept and are no more than a document's. */
export function hashedFile(
  path: string,
  keep: boolean,
): { readonly sha256: string; readonly size: bigint; readonly bytes: Uint8Array | undefined } {
  const stat = statOf(path);
  if (!stat?.isFile() || (keep && stat.size <= largestDocument)) {
    const bytes = fileBytes(path);
    return { sha256: sha256(bytes), size: BigInt(bytes.byteLength), bytes };
  }
  const hasher = new Bun.CryptoHasher("sha256");
  const handle = openSync(path, "r");
  let size = 0n;
  try {
    for (let n = readSync(handle, passing); n > 0; n = readSync(handle, passing)) {
      hasher.update(passing.subarray(0, n));
      size += BigInt(n);
    }
  } finally {
    closeSync(handle);
  }
  return { sha256: hasher.digest("hex"), size, bytes: undefined };
}

/** JSON of a file; throws `file_malformed` where it is no UTF-8 or no JSON. */
export function jsonOf(bytes: Uint8Array, where: string): ExactJson {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw unexpected("file_malformed", where, "UTF-8", "other bytes", { cause });
  }
  return parseExactJson(text, where);
}
