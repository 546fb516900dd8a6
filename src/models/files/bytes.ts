import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { PsionicError, unexpected } from "../../core/error.ts";

/** Random access to the bytes of one file; parsers read headers through it and never the whole file. */
export type ByteSource = {
  /** How messages name the file. */
  readonly path: string;
  /** Length in bytes, taken when the source was opened. */
  readonly size: number;
  /** Fills `target` from `offset`; the range must lie inside the file. */
  readonly read: (offset: number, target: Uint8Array) => void;
};

/** Reads positioned ranges of an open file; closed by `using`. */
export type FileSource = ByteSource & Disposable;

/** Opens a regular file for positioned reads. */
export function openFile(path: string): FileSource {
  let fd: number;
  try {
    // Without waiting: opening a named pipe would otherwise hang until someone writes to it.
    fd = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  } catch (cause) {
    throw fileError(path, cause);
  }
  const stat = fstatSync(fd);
  if (!stat.isFile()) {
    closeSync(fd);
    throw unexpected(
      "file_malformed",
      path,
      "a regular file",
      stat.isDirectory() ? "a directory" : "a special file",
    );
  }
  return {
    path,
    size: stat.size,
    read: (offset, target) => readFully(path, fd, offset, target),
    [Symbol.dispose]: () => closeSync(fd),
  };
}

/** A source over bytes already in memory, for tests and fuzzing. */
export function memorySource(path: string, bytes: Uint8Array): ByteSource {
  return {
    path,
    size: bytes.byteLength,
    read: (offset, target) => {
      if (offset + target.byteLength > bytes.byteLength) throw endedEarly(path, offset, target.byteLength);
      target.set(bytes.subarray(offset, offset + target.byteLength));
    },
  };
}

function readFully(path: string, fd: number, offset: number, target: Uint8Array): void {
  let done = 0;
  while (done < target.byteLength) {
    let n: number;
    try {
      n = readSync(fd, target, done, target.byteLength - done, offset + done);
    } catch (cause) {
      throw fileError(path, cause);
    }
    if (n === 0) throw endedEarly(path, offset, target.byteLength);
    done += n;
  }
}

function endedEarly(path: string, offset: number, length: number): PsionicError {
  return unexpected("file_malformed", path, `${length} bytes at offset ${offset}`, "the end of the file", {
    fix: "The file is truncated or was changed while being read",
  });
}

/** Turns a file system failure into the typed error for it. */
export function fileError(path: string, cause: unknown): PsionicError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  if (code === "ENOENT" || code === "ENOTDIR") {
    return unexpected("file_not_found", path, "an existing file or folder", "no such path", { cause });
  }
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new PsionicError("io_failed", `[${path}] expected a readable file, got ${reason}`, { path }, cause);
}
