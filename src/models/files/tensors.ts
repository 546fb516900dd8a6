import type { DType } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import type { Shape } from "../../core/shape.ts";

/** Element types a file may store: the runtime's own, and integers that only loaders repack. */
export type StoredType = DType | "u8" | "i8" | "u16" | "i16" | "u32" | "i64" | "u64" | "bool";

/** Where one tensor's bytes lie; the range was checked against the file's length. */
export type TensorRecord<T extends StoredType = StoredType> = {
  readonly name: string;
  readonly dtype: T;
  /** Slowest dimension first: a linear weight is `[out, in]`. */
  readonly shape: Shape;
  /** Index into the model's `files`. */
  readonly file: number;
  /** Absolute byte offset in that file. */
  readonly offset: number;
  readonly bytes: number;
};

/** One file of a model and its length when it was opened. */
export type ModelFile = { readonly path: string; readonly bytes: number };

/** Refuses tensors of one file that run past its end or share bytes. */
export function checkRanges(path: string, fileBytes: number, records: readonly TensorRecord[]): void {
  const byOffset = [...records].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let previous: TensorRecord | undefined;
  let furthest: TensorRecord | undefined;
  for (const record of byOffset) {
    if (previous !== undefined && record.offset < previous.offset + previous.bytes) {
      throw unexpected(
        "file_malformed",
        path,
        "tensors that do not overlap",
        `${quote(previous.name)} and ${quote(record.name)} sharing bytes at ${record.offset}`,
      );
    }
    previous = record;
    if (furthest === undefined || record.offset + record.bytes > furthest.offset + furthest.bytes)
      furthest = record;
  }
  if (furthest === undefined) return;
  const end = furthest.offset + furthest.bytes;
  if (end <= fileBytes) return;
  throw unexpected(
    "file_malformed",
    path,
    `at least ${end} bytes for its tensors (the last is ${quote(furthest.name)})`,
    `${fileBytes} bytes, ${end - fileBytes} too few`,
    { fix: "The download may be incomplete", details: { missingBytes: end - fileBytes } },
  );
}

/** A name from a file made safe and short enough for a message. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text);
}
