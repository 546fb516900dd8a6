import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "./digest.ts";
import type { EmbeddedFile } from "./embedded.ts";
import { PsionicError } from "./error.ts";
import { memoryFile } from "./memory_file.ts";
import { decompressZstd } from "./zstd.ts";

/** Folders that may hold unpacked files, in order of preference. */
export function cacheFolders(): readonly string[] {
  const asked = process.env.PSIONIC_CACHE_DIR;
  if (asked) return [asked];
  const home =
    process.platform === "darwin"
      ? join(homedir(), "Library", "Caches", "psionic")
      : join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "psionic");
  return [home, temporaryFolder()];
}

function temporaryFolder(): string {
  return join(tmpdir(), `psionic-${process.getuid?.() ?? 0}`);
}

/**
 * Makes the folder among everybody's temporary files, or throws when it is not this user's alone: whoever may write
 * there could change a file between its check and its use.
 */
function claim(folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const { uid, mode } = lstatSync(folder);
  const user = process.getuid?.();
  const own = (mode & 0o170000) === 0o040000 && (mode & 0o022) === 0 && uid === user;
  if (user !== undefined && !own) throw new Error("it is another user's, or others may write it");
}

/**
 * Path of the unpacked bytes of an embedded file: `<cache>/<digest>/<name>`, written once (aside, then renamed) and
 * checked against the digest before each use, since the folder may be writable by others.
 * Throws `io_failed` with every folder tried when none can be written.
 */
export function unpack(file: EmbeddedFile): string {
  const failures: string[] = [];
  for (const folder of cacheFolders()) {
    const target = join(folder, file.sha256.slice(0, 16), file.name);
    try {
      if (folder === temporaryFolder()) claim(folder);
      if (!(existsSync(target) && sha256(readFileSync(target)) === file.sha256)) write(target, file);
      return target;
    } catch (error) {
      if (error instanceof PsionicError) throw error;
      failures.push(`${folder}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  throw new PsionicError(
    "io_failed",
    `[unpack] expected a writable folder for ${file.name}, got none (${failures.join("; ")}). ` +
      "Set PSIONIC_CACHE_DIR to a writable folder; for the built-in model, -m with another file does too",
    { name: file.name, failures },
  );
}

/** Path of the unpacked bytes in a memory file; undefined where the system has none. */
export function unpackToMemory(file: EmbeddedFile): string | undefined {
  return memoryFile(file.name, contents(file));
}

/** `unpack` for code that is to be loaded: in memory where no folder can be written. */
export function unpackLibrary(file: EmbeddedFile): string {
  try {
    return unpack(file);
  } catch (error) {
    const path = unpackToMemory(file);
    if (path === undefined) throw error;
    return path;
  }
}

function contents(file: EmbeddedFile): Uint8Array {
  const stored = readFileSync(file.path);
  const bytes = file.compression === "zstd" ? decompressZstd(stored) : stored;
  const digest = sha256(bytes);
  if (digest !== file.sha256) {
    throw new PsionicError(
      "internal",
      `[unpack] expected sha256 ${file.sha256} for ${file.name}, got ${digest}`,
    );
  }
  return bytes;
}

function write(target: string, file: EmbeddedFile): void {
  // The folder first: nothing is decompressed for a place that cannot be written.
  mkdirSync(join(target, ".."), { recursive: true, mode: 0o700 });
  const bytes = contents(file);
  const aside = `${target}.${process.pid}.${Math.floor(Math.random() * 2 ** 32).toString(16)}`;
  try {
    writeFileSync(aside, bytes, { mode: 0o700 });
    chmodSync(aside, 0o700);
    renameSync(aside, target);
  } finally {
    rmSync(aside, { force: true });
  }
  if (statSync(target).size !== bytes.length) throw new Error(`expected ${bytes.length} bytes at ${target}`);
}
