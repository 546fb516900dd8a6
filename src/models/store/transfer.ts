import { mkdirSync, readFileSync, rmSync, statfsSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { unexpected } from "../../core/error.ts";
import type { ManifestFile } from "./manifest.ts";
import { PartFile } from "./part_file.ts";
import { cancelled, type RemoteSettings } from "./remote.ts";
import { type Probe, probe, RemoteFile, type WantedFile } from "./remote_file.ts";

export type TransferOptions = {
  readonly settings: RemoteSettings;
  /** Requests at once, over all files. */
  readonly connections: number;
  readonly chunkBytes: number;
  /** Bytes that the folder's disk has free; for tests. */
  readonly freeBytes?: (folder: string) => number;
  readonly onProgress: (stage: "download" | "verify", done: number, total: number) => void;
};

export const defaultConnections = 8;
export const defaultChunkBytes = 16 * 2 ** 20;
/** Left free on the disk. */
const spareBytes = 64 * 2 ** 20;
const mostRounds = 8;

/** Runs so many tasks at once, in the order they were given. */
class Pool {
  private free: number;
  private readonly waiting: (() => void)[] = [];

  constructor(size: number) {
    this.free = size;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free -= 1;
    else await new Promise<void>((resolve) => this.waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free += 1;
    }
  }
}

/**
 * Brings files into a folder, each under its name when it is whole and its digest is right. What an earlier run has
 * left there is gone on with. The first failure ends all requests.
 */
export class Transfer {
  private readonly folder: string;
  private readonly options: TransferOptions;
  private readonly pool: Pool;
  private readonly stop = new AbortController();
  private readonly settings: RemoteSettings;
  private total = 0;
  private done = 0;

  constructor(folder: string, options: TransferOptions) {
    this.folder = folder;
    this.options = options;
    this.pool = new Pool(options.connections);
    const signal = AbortSignal.any([options.settings.signal, this.stop.signal]);
    this.settings = { ...options.settings, signal };
  }

  async run(wanted: readonly WantedFile[]): Promise<ManifestFile[]> {
    const probes = await this.all(wanted.map((file) => this.pool.run(() => probe(file, this.settings))));
    this.checkSpace(wanted, probes);
    return this.all(wanted.map((file, i) => this.bring(file, probes[i]!)));
  }

  /** Waits for all to end, also where one has failed: nobody may write to a file that is closed. */
  private async all<T>(tasks: readonly Promise<T>[]): Promise<T[]> {
    let failure: { readonly error: unknown } | undefined;
    const guarded = tasks.map((task) =>
      task.catch((error: unknown) => {
        failure ??= { error };
        this.stop.abort();
        throw error;
      }),
    );
    const results = await Promise.allSettled(guarded);
    if (this.options.settings.signal.aborted) throw cancelled();
    if (failure) throw failure.error;
    return results.map((result) => (result as PromiseFulfilledResult<T>).value);
  }

  private checkSpace(wanted: readonly WantedFile[], probes: readonly Probe[]): void {
    mkdirSync(this.folder, { recursive: true });
    this.total = probes.reduce((sum, { bytes }) => sum + bytes, 0);
    const there = wanted.reduce((sum, file) => {
      const path = join(this.folder, file.path);
      return sum + allocated(path) + allocated(`${path}.part`);
    }, 0);
    const needed = Math.max(0, this.total - there);
    const free = (this.options.freeBytes ?? freeBytes)(this.folder);
    if (needed + spareBytes <= free || needed === 0) return;
    const got = `${mebibytes(free)} MiB on the disk of ${this.folder}`;
    throw unexpected("disk_full", "pull", `${mebibytes(needed + spareBytes)} MiB free`, got, {
      fix: "Make room, or set PSIONIC_HOME to a folder on another disk",
      details: { neededBytes: needed, spareBytes, freeBytes: free },
    });
  }

  private async bring(wanted: WantedFile, facts: Probe): Promise<ManifestFile> {
    const path = join(this.folder, wanted.path);
    mkdirSync(dirname(path), { recursive: true });
    const expected = wanted.sha256 ?? facts.sha256;
    const content = expected ?? wanted.gitBlob ?? facts.etag;
    const there = finished(path, facts.bytes, content);
    if (there) {
      this.came(facts.bytes);
      return { path: wanted.path, ...there };
    }
    using part = new PartFile(path, { bytes: facts.bytes, chunkBytes: this.options.chunkBytes, content });
    this.came(part.doneBytes);
    const file = new RemoteFile(wanted, facts, part, this.settings, (count) => this.came(count));
    const sha256 = await this.complete(file, part, expected);
    part.keep();
    const entry = {
      bytes: facts.bytes,
      sha256,
      verified: expected !== null || wanted.gitBlob !== null,
      etag: facts.etag,
    };
    writeFileSync(doneName(path), JSON.stringify({ content, entry, mtimeMs: statSync(path).mtimeMs }));
    return { path: wanted.path, ...entry };
  }

  /** Fetches what is missing or wrong until the whole is right; gives its digest. */
  private async complete(file: RemoteFile, part: PartFile, expected: string | null): Promise<string> {
    const { wanted, facts } = file;
    let got = "";
    // what this process has not seen come is checked; otherwise the digest of the whole says whether that is needed
    let byChunk = part.resumed && expected === null;
    const repeats = new Repeats(part);
    for (let round = 0; round < mostRounds; round++) {
      if (part.missing.length > 0) await this.fetch(file, part.missing);
      const digest = await this.verified(part, byChunk);
      if (digest === undefined) continue;
      got = digest;
      const right = expected === null ? true : digest === expected;
      const blobRight = wanted.gitBlob === null || expected !== null || part.gitBlob() === wanted.gitBlob;
      if (right && blobRight) return digest;
      if (!byChunk) {
        byChunk = true;
        continue;
      }
      // each chunk is as it came, so some came wrong: of those that have come alike twice, none
      if (!facts.ranges) part.restart();
      else if (!(await this.fetchAgain(file, part, repeats))) break;
    }
    part.discard();
    const promised = expected ?? wanted.gitBlob;
    throw unexpected(
      "digest_mismatch",
      wanted.path,
      `content with the digest ${promised}`,
      got || "broken chunks",
      {
        fix: "What was fetched is deleted; the host keeps sending other bytes than it promised",
        details: { expected: promised, got },
      },
    );
  }

  private async verified(part: PartFile, byChunk: boolean): Promise<string | undefined> {
    let read = 0;
    const before = part.doneBytes;
    const digest = await part.verify(byChunk, (count) => {
      if (this.settings.signal.aborted) throw cancelled();
      read += count;
      // as long as others are still coming, how far they are says more
      if (this.done >= this.total) this.options.onProgress("verify", read, part.bytes);
    });
    this.came(part.doneBytes - before);
    return digest;
  }

  private async fetch(file: RemoteFile, chunks: readonly number[]): Promise<void> {
    if (file.facts.ranges) {
      await this.all(chunks.map((chunk) => this.pool.run(() => file.fetchChunk(chunk))));
    } else await this.pool.run(() => file.fetchWhole());
  }

  /** Fetches every chunk once more that has not come alike twice; gives whether one came differently. */
  private async fetchAgain(file: RemoteFile, part: PartFile, repeats: Repeats): Promise<boolean> {
    const chunks = repeats.open();
    for (const chunk of chunks) this.came(part.range(chunk)[0] - part.range(chunk)[1]);
    const changed = await this.all(chunks.map((chunk) => this.pool.run(() => file.fetchChunk(chunk))));
    return changed.includes(true);
  }

  private came(bytes: number): void {
    this.done += bytes;
    this.options.onProgress("download", this.done, this.total);
  }
}

/** Which chunks of a file have come alike twice, whatever came between. A host that lies by chance does not tell one lie twice. */
class Repeats {
  private readonly part: PartFile;
  private readonly seen: Set<string>[];
  private readonly settled = new Set<number>();

  constructor(part: PartFile) {
    this.part = part;
    this.seen = Array.from({ length: part.chunkCount }, () => new Set<string>());
  }

  /** The others; takes note of what has come since it was last asked. */
  open(): number[] {
    const chunks = [...this.seen.keys()].filter((chunk) => !this.settled.has(chunk));
    for (const chunk of chunks) {
      const digest = this.part.digest(chunk);
      if (digest === undefined) continue;
      if (this.seen[chunk]!.has(digest)) this.settled.add(chunk);
      this.seen[chunk]!.add(digest);
    }
    return chunks.filter((chunk) => !this.settled.has(chunk));
  }
}

/** A file that an earlier run has brought and checked. */
function finished(
  path: string,
  bytes: number,
  content: string | null,
): Omit<ManifestFile, "path"> | undefined {
  try {
    const stat = statSync(path);
    const record = JSON.parse(readFileSync(doneName(path), "utf8")) as {
      readonly content: string | null;
      readonly mtimeMs: number;
      readonly entry: Omit<ManifestFile, "path">;
    };
    const same = stat.size === bytes && stat.mtimeMs === record.mtimeMs;
    return same && content !== null && record.content === content ? record.entry : undefined;
  } catch {
    // not there, or not whole
    return undefined;
  }
}

function doneName(path: string): string {
  return `${path}.done`;
}

/** Takes away what only the transfer needed. */
export function removeTraces(folder: string, files: readonly { readonly path: string }[]): void {
  for (const { path } of files) rmSync(doneName(join(folder, path)), { force: true });
}

/** Bytes that a file takes on the disk; one being filled has holes. */
function allocated(path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat ? Math.min(stat.size, stat.blocks * 512) : 0;
}

function freeBytes(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}

function mebibytes(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
