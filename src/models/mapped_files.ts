import { closeSync, openSync, readSync } from "node:fs";
import { type MappedFile, mapFile } from "../backends/index.ts";
import { unexpected } from "../core/error.ts";
import type { ModelFile } from "./files/tensors.ts";

/** The files of a model in this process's address space, or only by their names when nothing will be computed. */
export type MappedFiles = {
  readonly mapped: boolean;
  /** 0 when the files are not mapped. */
  address(file: number, offset: number): number;
  /** A copy of a range, read through the file system. */
  read(file: number, offset: number, bytes: number): Uint8Array;
  drop(file: number, offset: number, bytes: number): void;
  close(): void;
};

/** Maps every file; throws when one has changed its length since its header was checked. */
export function mapModelFiles(files: readonly ModelFile[], mapped: boolean): MappedFiles {
  const maps: MappedFile[] = [];
  if (mapped) {
    for (const { path, bytes } of files) {
      const map = mapFile(path);
      maps.push(map);
      if (map.bytes !== bytes) {
        for (const m of maps) m.unmap();
        throw unexpected("file_malformed", path, `${bytes} bytes as when it was opened`, map.bytes);
      }
    }
  }
  return {
    mapped,
    address: (file, offset) => (mapped ? maps[file]!.address + offset : 0),
    read: (file, offset, bytes) =>
      mapped ? readRange(files[file]!.path, offset, bytes) : new Uint8Array(bytes),
    drop(file, offset, bytes) {
      if (mapped) maps[file]!.drop(offset, bytes);
    },
    close() {
      for (const m of maps) m.unmap();
      maps.length = 0;
    },
  };
}

function readRange(path: string, offset: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  const handle = openSync(path, "r");
  try {
    let done = 0;
    while (done < bytes) {
      const n = readSync(handle, out, done, bytes - done, offset + done);
      if (n === 0)
        throw unexpected("file_malformed", path, `${bytes} bytes at ${offset}`, `${done}, then the end`);
      done += n;
    }
  } finally {
    closeSync(handle);
  }
  return out;
}
