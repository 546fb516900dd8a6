import { randomInt } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { unexpected } from "../../core/error.ts";
import { type BlockName, blockFault, blockFile, blockPattern, headerBytes, sealed } from "./block.ts";

type StoredFile = { readonly path: string; readonly bytes: number; readonly usedMs: number };

/** A block to be kept. `depth`: pages before it. `replace`: what is there under its name is broken. */
export type BlockToKeep = {
  readonly name: BlockName;
  readonly payload: Uint8Array;
  readonly depth: number;
  readonly replace: boolean;
};

/** Blocks behind each other in a prefix count as used one after the other, the root last: it is given up last. */
const depthMs = 1;
/** Unfinished files that nobody has touched for so long were left by a process that was killed. */
const staleMs = 10 * 60_000;
/** After room was needed some is left for what follows. */
const keptShare = 0.95;

/**
 * The files of a folder within a limit, the least recently used given up first. A file appears whole (written aside, then
 * renamed) or not at all. Others may write and remove there at the same time: what is stored is counted again before
 * anything is given up. Files that are no blocks are never touched.
 */
export class BlockFiles {
  private readonly folder: string;
  private readonly limitBytes: number;
  private bytes: number | undefined;
  private sinceCount = 0;
  private distrusts = false;
  evicted = 0;

  constructor(folder: string, limitBytes: number) {
    this.folder = folder;
    this.limitBytes = limitBytes;
  }

  get storedBytes(): number {
    this.bytes ??= total(this.list());
    return this.bytes;
  }

  /** Writes a block unless it is there; gives the bytes written. Throws what the file system says. */
  keep({ name, payload, depth, replace }: BlockToKeep): number {
    const path = join(this.folder, blockFile(name));
    if (!replace && this.holds(name, path)) {
      this.use(path, depth);
      return 0;
    }
    const bytes = headerBytes + payload.length;
    if (!this.makeRoom(bytes)) return 0;
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    // two threads of this process may be at the same block
    const aside = `${path}.${process.pid}-${randomInt(2 ** 31)}.part`;
    try {
      writeFileSync(aside, sealed(name, payload), { mode: 0o600 });
      writeFileSync(aside, payload, { flag: "a" });
      this.date(aside, depth);
      renameSync(aside, path);
    } catch (error) {
      rmSync(aside, { force: true });
      throw error;
    }
    this.bytes = this.storedBytes + bytes;
    this.sinceCount += bytes;
    return bytes;
  }

  /** Whether a block is there; once one was found damaged, whether it is what its name says. */
  private holds(name: BlockName, path: string): boolean {
    if (!this.distrusts) return existsSync(path);
    const bytes = bytesOf(path);
    return bytes !== undefined && isSound(name, bytes);
  }

  /** Reads blocks, about `mostBytes` of them, and removes those that are not what their names say; gives how many. */
  check(names: readonly BlockName[], mostBytes: number): number {
    this.distrusts = true;
    this.bytes = this.storedBytes;
    let [removed, read] = [0, 0];
    for (const name of names) {
      if (read > mostBytes) break;
      const path = join(this.folder, blockFile(name));
      const bytes = bytesOf(path);
      if (!bytes) continue;
      read += bytes.length;
      if (isSound(name, bytes)) continue;
      rmSync(path, { force: true });
      this.bytes -= bytes.length;
      removed += 1;
    }
    return removed;
  }

  /** Counts a block as used now. */
  use(path: string, depth: number): void {
    try {
      this.date(path, depth);
    } catch {
      // another process gave it up
    }
  }

  private date(path: string, depth: number): void {
    const seconds = (Date.now() - depth * depthMs) / 1000;
    utimesSync(path, seconds, seconds);
  }

  /** Gives blocks up until there is room for `bytes` more; false when the limit is below that. */
  private makeRoom(bytes: number): boolean {
    if (bytes > this.limitBytes) return false;
    const counted = this.sinceCount < this.limitBytes / 16;
    if (counted && this.storedBytes + bytes <= this.limitBytes) return true;
    const files = this.list();
    this.sinceCount = 0;
    this.bytes = total(files);
    if (this.bytes + bytes <= this.limitBytes) return true;
    files.sort((a, b) => a.usedMs - b.usedMs);
    const aim = Math.max(0, this.limitBytes * keptShare - bytes);
    for (const file of files) {
      // what is being written is another's
      if (this.bytes <= aim || file.usedMs === Infinity) break;
      rmSync(file.path, { force: true });
      this.bytes -= file.bytes;
      this.evicted += 1;
    }
    return this.bytes + bytes <= this.limitBytes;
  }

  /** All blocks; what killed writers left behind is removed. */
  private list(): StoredFile[] {
    const found: StoredFile[] = [];
    for (const group of names(this.folder)) {
      if (!/^[0-9a-f]{2}$/.test(group)) continue;
      for (const name of names(join(this.folder, group))) {
        const path = join(this.folder, group, name);
        const unfinished = /^[0-9a-f]{64}\.\d{1,3}\.\d+-\d+\.part$/.test(name);
        if (!unfinished && !blockPattern.test(name)) continue;
        const stat = statOf(path);
        if (!stat?.isFile()) continue;
        if (!unfinished) found.push({ path, bytes: stat.size, usedMs: stat.mtimeMs });
        else if (Date.now() - stat.mtimeMs > staleMs) rmSync(path, { force: true });
        else found.push({ path, bytes: stat.size, usedMs: Infinity });
      }
    }
    return found;
  }
}

/** Makes the folder, for this user alone, unless it is there; throws `io_failed`. */
export function makeStore(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    const got = cause instanceof Error ? cause.message : String(cause);
    throw unexpected("io_failed", "prefix-disk-dir", `a folder at ${folder}`, got, { cause });
  }
}

function total(files: readonly StoredFile[]): number {
  return files.reduce((sum, { bytes }) => sum + bytes, 0);
}

function isSound(name: BlockName, bytes: Uint8Array): boolean {
  const payload = bytes.subarray(headerBytes);
  return blockFault(name, bytes, payload.length, payload) === undefined;
}

function bytesOf(path: string): Uint8Array | undefined {
  try {
    return readFileSync(path);
  } catch {
    // another process gave it up, or it never was there
    return undefined;
  }
}

function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    // another process gave it up
    return undefined;
  }
}

/** Names in a folder; none where there is no folder. */
function names(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    // another process may have removed it, or nothing has been stored yet
    return [];
  }
}
