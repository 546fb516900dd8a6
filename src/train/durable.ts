/** Files that are whole or absent after a crash: written aside, synced, renamed, with the folder synced as well. */
import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync, statfsSync } from "node:fs";
import { dirname, join } from "node:path";
import { AsideFile } from "../core/aside.ts";
import { PsionicError, unexpected } from "../core/error.ts";

/** Makes the files of a folder last, then their names. */
export function syncFiles(folder: string): void {
  for (const name of readdirSync(folder)) syncFolder(join(folder, name));
  syncFolder(folder);
}

/** Makes what was written to a file, or the entries of a folder, last. */
export function syncFolder(path: string): void {
  const handle = openSync(path, "r");
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

/** Writes pretty JSON of two blanks without a final newline, as receipts are kept; the text that was written. */
export function writeJson(path: string, value: unknown): string {
  const text = JSON.stringify(value, null, 2);
  writeWhole(path, [new TextEncoder().encode(text)]);
  return text;
}

/** Replaces a file by the given parts in one step. */
export function writeWhole(path: string, parts: Iterable<Uint8Array>): void {
  mkdirSync(dirname(path), { recursive: true });
  using file = new AsideFile(path, path);
  for (const part of parts) file.write(part);
  file.keep();
  syncFolder(dirname(path));
}

/** What the file system refuses may be met by any write: a full disk as `disk_full`, the rest as `io_failed`, else the error itself. */
export function asFileFailure(error: unknown, where: string): unknown {
  if (error instanceof PsionicError) return error;
  const text = error instanceof Error ? error.message : String(error);
  if (/ENOSPC|EDQUOT/.test(text)) {
    return unexpected("disk_full", where, "room in the folder of the run", text, {
      fix: "Free space and go on; the last checkpoint is intact",
      cause: error,
    });
  }
  const { code, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  if (syscall === undefined || !/^E[A-Z]+$/.test(code ?? "")) return error;
  return unexpected("io_failed", where, "files that can be made and read where they were named", text, {
    fix: "Name a folder that this user may write to",
    cause: error,
  });
}

/** Bytes that may still be written below `path`. */
export function freeBytes(path: string): number {
  const { bavail, bsize } = statfsSync(path);
  return bavail * bsize;
}

/** Throws `disk_full` where `bytes` do not fit. */
export function checkRoom(path: string, bytes: number, free = freeBytes(path)): void {
  if (bytes <= free) return;
  throw unexpected("disk_full", path, `${bytes} bytes free for a checkpoint`, `${free}`, {
    fix: "Free space or choose another run root; the last checkpoint is intact",
    details: { bytes, free },
  });
}
