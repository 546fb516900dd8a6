import { checkStatus } from "../../../ffi/call.ts";
import { cpuLibrary } from "./library.ts";

/** A read-only mapping of a whole file. `drop` takes a range out of the resident set; the file keeps the data. */
export type MappedFile = {
  readonly address: number;
  readonly bytes: number;
  drop(offset: number, bytes: number): void;
  unmap(): void;
};

/** Maps a file; its length must have been checked against its contents before. */
export function mapFile(path: string): MappedFile {
  const { functions, lastError } = cpuLibrary();
  const out = new Float64Array(2);
  const outBytes = out.subarray(1);
  checkStatus(functions.get("psi_map")!(out, outBytes, path), "psi_map", lastError);
  const [address, bytes] = out as unknown as [number, number];
  return {
    address,
    bytes,
    drop(offset, length) {
      checkStatus(functions.get("psi_advise")!(address + offset, length, 1), "psi_advise", lastError);
    },
    unmap() {
      checkStatus(functions.get("psi_unmap")!(address, bytes), "psi_unmap", lastError);
    },
  };
}
