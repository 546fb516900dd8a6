import {
  closeSync,
  existsSync,
  fdatasyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { PsionicError, unexpected } from "../../core/error.ts";

/** What must be the same for a file that was begun to be gone on with. */
export type PartIdentity = {
  readonly bytes: number;
  readonly chunkBytes: number;
  /** What the host calls the content, or its digest. */
  readonly content: string | null;
};

/**
 * A file on its way: `NAME.part`, and beside it a journal with the digest of each chunk that is there. The journal only
 * grows, a line at a time and after the bytes, so that a process may end at any moment; what it says is checked against
 * the bytes before the file gets its name.
 */
export class PartFile implements Disposable {
  readonly bytes: number;
  readonly chunkBytes: number;
  /** Whether an earlier process has left some of it. */
  readonly resumed: boolean;
  readonly #path: string;
  readonly #data: number;
  #journal: number;
  readonly #identity: PartIdentity;
  /** Digest of each chunk that is there. */
  readonly #done = new Map<number, string>();

  constructor(path: string, identity: PartIdentity) {
    this.#path = path;
    this.#identity = identity;
    this.bytes = identity.bytes;
    this.chunkBytes = identity.chunkBytes;
    const known = readJournal(this.#journalPath, identity);
    this.#data = disk(path, () =>
      openSync(this.#dataPath, known && existsSync(this.#dataPath) ? "r+" : "w+"),
    );
    this.#journal = disk(path, () => openSync(this.#journalPath, known ? "a" : "w"));
    this.resumed = (known?.size ?? 0) > 0;
    if (known) for (const [index, digest] of known) this.#done.set(index, digest);
    else this.#note(JSON.stringify(identity));
    // a line that was cut must not run into the next one
    if (known) this.#note("");
    disk(path, () => ftruncateSync(this.#data, this.bytes));
  }

  get #dataPath(): string {
    return `${this.#path}.part`;
  }

  get #journalPath(): string {
    return `${this.#path}.part.journal`;
  }

  get chunkCount(): number {
    return Math.ceil(this.bytes / this.chunkBytes);
  }

  /** First byte of a chunk, and the one after its last. */
  range(chunk: number): readonly [from: number, to: number] {
    return [chunk * this.chunkBytes, Math.min(this.bytes, (chunk + 1) * this.chunkBytes)];
  }

  /** Chunks that are not there. */
  get missing(): readonly number[] {
    return Array.from({ length: this.chunkCount }, (_, i) => i).filter((i) => !this.#done.has(i));
  }

  get doneBytes(): number {
    let sum = 0;
    for (const chunk of this.#done.keys()) sum += this.range(chunk)[1] - this.range(chunk)[0];
    return sum;
  }

  /** What a chunk came as; undefined where it is not there. */
  digest(chunk: number): string | undefined {
    return this.#done.get(chunk);
  }

  write(offset: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      at += disk(this.#path, () => writeSync(this.#data, bytes, at, bytes.length - at, offset + at));
    }
  }

  /** A chunk is there whole; gives whether it differs from what was there before. */
  complete(chunk: number, digest: string): boolean {
    const before = this.#done.get(chunk);
    this.#done.set(chunk, digest);
    this.#note(`${chunk} ${digest}`);
    return before !== digest;
  }

  /**
   * Reads everything once and gives the digest of the whole. With `chunks`, those whose bytes are not what the journal
   * says are taken to be missing, and the digest is undefined where there are any. `onBytes` hears how many bytes were
   * read, and ends the reading by throwing.
   */
  async verify(chunks: boolean, onBytes: (count: number) => void): Promise<string | undefined> {
    const whole = new Bun.CryptoHasher("sha256");
    const piece = new Uint8Array(Math.min(2 ** 22, Math.max(1, this.bytes)));
    for (let chunk = 0; chunk < this.chunkCount; chunk++) {
      const [from, to] = this.range(chunk);
      const hasher = chunks ? new Bun.CryptoHasher("sha256") : undefined;
      for (let at = from; at < to; ) {
        const count = disk(this.#path, () =>
          readSync(this.#data, piece, 0, Math.min(piece.length, to - at), at),
        );
        if (count === 0) break;
        hasher?.update(piece.subarray(0, count));
        whole.update(piece.subarray(0, count));
        at += count;
        onBytes(count);
        // signals and other files have a turn
        await Bun.sleep(0);
      }
      if (hasher && this.#done.get(chunk) !== hasher.digest("hex")) this.#done.delete(chunk);
    }
    return this.missing.length === 0 ? whole.digest("hex") : undefined;
  }

  /** SHA-1 as git names the content. */
  gitBlob(): string {
    const hasher = new Bun.CryptoHasher("sha1").update(`blob ${this.bytes}\0`);
    return hasher.update(disk(this.#path, () => readFileSync(this.#dataPath))).digest("hex");
  }

  /** The file is whole: it gets its name. */
  keep(): void {
    disk(this.#path, () => {
      fdatasyncSync(this.#data);
      renameSync(this.#dataPath, this.#path);
      rmSync(this.#journalPath, { force: true });
    });
  }

  /** Nothing of it is worth keeping. */
  discard(): void {
    rmSync(this.#dataPath, { force: true });
    rmSync(this.#journalPath, { force: true });
  }

  /** All over again: the bytes that are there are no longer trusted. */
  restart(): void {
    this.#done.clear();
    closeSync(this.#journal);
    this.#journal = disk(this.#path, () => openSync(this.#journalPath, "w"));
    this.#note(JSON.stringify(this.#identity));
  }

  [Symbol.dispose](): void {
    closeSync(this.#data);
    closeSync(this.#journal);
  }

  #note(line: string): void {
    disk(this.#path, () => writeSync(this.#journal, `${line}\n`));
  }
}

/** Chunks of a journal that was begun for the same content; undefined where there is none. */
function readJournal(path: string, identity: PartIdentity): ReadonlyMap<number, string> | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
  const [head, ...lines] = text.split("\n");
  if (head !== JSON.stringify(identity)) return undefined;
  const chunks = new Map<number, string>();
  const count = Math.ceil(identity.bytes / identity.chunkBytes);
  for (const line of lines) {
    // the last line may have been cut in the middle
    const match = /^(\d+) ([0-9a-f]{64})$/.exec(line);
    if (match && Number(match[1]) < count) chunks.set(Number(match[1]), match[2]!);
  }
  return chunks;
}

/** Does something with the disk; a full one has an error of its own. */
export function disk<T>(path: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    if (cause instanceof PsionicError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    const reason = cause instanceof Error ? cause.message : String(cause);
    const kind = code === "ENOSPC" || code === "EDQUOT" ? "disk_full" : "io_failed";
    throw unexpected(kind, path, "a file that can be written", reason, { cause });
  }
}
