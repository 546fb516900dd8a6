import { toArrayBuffer } from "bun:ffi";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import { packedBytes } from "../../src/ir/spec.ts";
import { bytesAt, native, opened, packed, randomWeights } from "./library.ts";

const folder = mkdtempSync(join(tmpdir(), "pack-"));
const path = join(folder, "matrix");
afterAll(() => rmSync(folder, { recursive: true }));

const offset = 4097;

function write(weights: Uint8Array): void {
  const file = new Uint8Array(offset + weights.length + 100).fill(0xee);
  file.set(weights, offset);
  writeFileSync(path, file);
}

/** Odd sizes, more than one read for a thread, and panels of just the largest size that is read from a file. */
const cases: readonly (readonly [DType, number, number])[] = [
  ["q8_0", 1, 32],
  ["q8_0", 37, 96],
  ["q8_0", 1001, 2048],
  ["q6_k", 50, 512],
  ["mxfp4", 333, 2880],
  ["bf16", 17, 8192],
  ["f32", 33, 4096],
];

test.each(cases)("%s [%d, %d]: from a file as from memory", (dtype, rows, columns) => {
  const weights = randomWeights(dtype, rows, columns, rows).subarray(0, rows * rowBytes(dtype, columns));
  write(weights);
  const size = packedBytes(dtype, rows, columns);
  for (const threads of [1, 2, 5]) {
    opened("", threads, () => {
      const address = bytesAt(size);
      const status = native.psi_pack_file(address, path, rows, columns, dtypes[dtype].id, offset);
      expect(status).toBe(0);
      const fromMemory = new Uint8Array(toArrayBuffer(packed(dtype, weights, rows, columns), 0, size));
      expect(Buffer.compare(new Uint8Array(toArrayBuffer(address, 0, size)), fromMemory)).toBe(0);
    });
  }
});

test("what cannot be read is told", () => {
  const { id } = dtypes.q8_0;
  write(randomWeights("q8_0", 32, 64, 1).subarray(0, 32 * 68));
  opened("", 2, () => {
    const address = bytesAt(2 ** 20);
    const message = (status: number): string => `${status} ${native.psi_last_error()}`;
    const call = (from: string, rows: number, columns: number, at: number): string =>
      message(native.psi_pack_file(address, from, rows, columns, id, at));
    expect(call(path, 48, 64, offset)).toMatch(
      /^\d \[psi_pack_file\] expected 48 rows in the file, got: its end/,
    );
    expect(call(join(folder, "none"), 16, 64, 0)).toContain("No such file");
    expect(call(path, 16, 64, -1)).toContain("expected an offset");
    expect(call(path, 16, 64, Number.NaN)).toContain("expected an offset");
    expect(call(path, 0, 64, 0)).toContain("rows and columns >= 1");
    expect(call(path, 16, 2 ** 20, 0)).toContain("panels of at most 262144 bytes");
    expect(call(folder, 16, 64, 0)).toContain("[psi_pack_file]");
  });
});
