import { unexpected } from "../../core/error.ts";

/** A long list of strings (a vocabulary, a merge list) kept as UTF-8 bytes and decoded when asked for. */
export type StringTable = {
  readonly length: number;
  /** The string at `index`; an index outside the table is an error. */
  readonly at: (index: number) => string;
  /** The UTF-8 bytes at `index`, a view that must not be written. */
  readonly bytesAt: (index: number) => Uint8Array;
  /** All strings, decoded once and kept. */
  readonly toArray: () => readonly string[];
};

/** A table over checked UTF-8: string i lies in `bytes[starts[i], ends[i])`. */
export function stringTable(bytes: Buffer, starts: Uint32Array, ends: Uint32Array): StringTable {
  let all: readonly string[] | undefined;
  const check = (index: number): void => {
    if (Number.isInteger(index) && index >= 0 && index < starts.length) return;
    throw unexpected("invalid_argument", "string table", `an index below ${starts.length}`, index);
  };
  return {
    length: starts.length,
    at: (index) => {
      check(index);
      return all?.[index] ?? bytes.toString("utf8", starts[index], ends[index]);
    },
    bytesAt: (index) => {
      check(index);
      return bytes.subarray(starts[index], ends[index]);
    },
    toArray: () => {
      all ??= Array.from(starts, (start, i) => bytes.toString("utf8", start, ends[i]));
      return all;
    },
  };
}
