import { type MappedFile, mapFile } from "../backends/index.ts";
import { unexpected } from "../core/error.ts";
import type { FileMapping } from "../runtime/device.ts";
import { type FileSource, openFile } from "./files/bytes.ts";
import type { ModelFile } from "./files/tensors.ts";

/** The files of a model in this process's address space, or only by their names when nothing will be computed. */
export type MappedFiles = {
  readonly mapped: boolean;
  /** 0 when the files are not mapped. */
  address(file: number, offset: number): number;
  /** A copy of a range, read through the file system. */
  read(file: number, offset: number, bytes: number): Uint8Array;
  drop(file: number, offset: number, bytes: number): void;
  path(file: number): string;
  /** Where the whole file lies; undefined when it is not mapped. */
  mapping(file: number): FileMapping | undefined;
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
  const reader = new RangeReader(files);
  return {
    mapped,
    address: (file, offset) => (mapped ? maps[file]!.address + offset : 0),
    read: (file, offset, bytes) => (mapped ? reader.read(file, offset, bytes) : new Uint8Array(bytes)),
    drop(file, offset, bytes) {
      if (mapped) maps[file]!.drop(offset, bytes);
    },
    path: (file) => files[file]!.path,
    mapping: (file) => maps[file],
    close() {
      for (const m of maps) m.unmap();
      maps.length = 0;
      reader.close();
    },
  };
}

/** Reads ranges of several files; the file of the last read stays open, since tensors are mostly read in file order. */
class RangeReader {
  readonly #files: readonly ModelFile[];
  #open: { readonly file: number; readonly source: FileSource } | undefined;

  constructor(files: readonly ModelFile[]) {
    this.#files = files;
  }

  read(file: number, offset: number, bytes: number): Uint8Array {
    if (this.#open?.file !== file) {
      this.close();
      this.#open = { file, source: openFile(this.#files[file]!.path) };
    }
    const data = new Uint8Array(bytes);
    this.#open.source.read(offset, data);
    return data;
  }

  close(): void {
    this.#open?.source[Symbol.dispose]();
    this.#open = undefined;
  }
}
