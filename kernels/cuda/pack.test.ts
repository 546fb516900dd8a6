import type { Pointer } from "bun:ffi";
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import { PACKED, randomWeights } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, fromDevice, onDevice } from "./library.ts";
import {
  differences,
  fileBytes,
  fileValues,
  packedBytes,
  packedOnDevice,
  roundedTypes,
  roundToBf16,
} from "./weights.ts";

/** The values that products see: rows of an embedding come out of the same fragments. */
function packedValues(dtype: DType, packed: Pointer, rows: number, columns: number): Float32Array {
  const ids = new Int32Array(Math.max(rows, 512)).map((_, i) => i);
  const y = deviceBytes(rows * columns * 4);
  check(cuda.psi_embedding!(y, packed, onDevice(ids), rows, columns, rows, dtypes[dtype].id | PACKED, 1));
  return floatsFromDevice(y, rows * columns);
}

/** Rows of less than a tile, of more, columns of less than a unit and of more. */
function sizes(dtype: DType): readonly (readonly [rows: number, columns: number])[] {
  const { blockElements } = dtypes[dtype];
  if (blockElements === 256)
    return [
      [1, 256],
      [17, 512],
      [33, 768],
    ]; // prettier-ignore
  if (blockElements === 32)
    return [
      [1, 32],
      [15, 96],
      [16, 64],
      [33, 288],
    ]; // prettier-ignore
  return [
    [1, 1],
    [15, 77],
    [17, 136],
  ]; // prettier-ignore
}

describe("packed weights are the file's, rounded to bf16", () => {
  for (const dtype of roundedTypes)
    test(dtype, () => {
      for (const [rows, columns] of sizes(dtype)) {
        const file = randomWeights(dtype, rows, columns, rows);
        const packed = packedOnDevice(dtype, file, rows, columns);
        const want = roundToBf16(fileValues(dtype, file, rows, columns));
        expect(differences(packedValues(dtype, packed, rows, columns), want)).toBe(0);
      }
    });

  test("mxfp4 with every scale but the smallest", () => {
    const [rows, columns] = [16, 512];
    const file = randomWeights("mxfp4", rows, columns, 1);
    for (let b = 0; b < 255; b++) file[b * 17] = b + 1;
    const packed = packedOnDevice("mxfp4", file, rows, columns);
    const want = roundToBf16(fileValues("mxfp4", file, rows, columns));
    expect(differences(packedValues("mxfp4", packed, rows, columns), want)).toBe(0);
  });

  test("scales that are subnormal, largest or negative zero", () => {
    const halves = [0x0001, 0x03ff, 0x8001, 0x7bff, 0xfbff, 0x8000, 0x0400];
    for (const dtype of ["q8_0", "q4_1", "q5_0", "iq4_nl"] as const) {
      const { blockBytes } = dtypes[dtype];
      const file = randomWeights(dtype, 7, 32, 2);
      const view = new DataView(file.buffer);
      for (const [row, half] of halves.entries()) view.setUint16(row * blockBytes, half, true);
      const packed = packedOnDevice(dtype, file, 7, 32);
      const want = roundToBf16(fileValues(dtype, file, 7, 32));
      expect(differences(packedValues(dtype, packed, 7, 32), want)).toBe(0);
    }
  });
});

describe("layout", () => {
  test("about as many bytes as the file has, in whole lines of 64", () => {
    for (const dtype of [...roundedTypes, "f32" as const]) {
      const size = packedBytes(dtype, 32, 512);
      expect(size % 64).toBe(0);
      expect(size / fileBytes(dtype, 32, 512)).toBeLessThan(1.1);
      expect(size / fileBytes(dtype, 32, 512)).toBeGreaterThanOrEqual(1);
    }
  });

  test("tiles of 16 rows stand one after the other, each by itself", () => {
    for (const dtype of [...roundedTypes, "f32" as const]) {
      const columns = 256;
      const file = randomWeights(dtype, 40, columns, 9);
      const whole = fromDevice(
        packedOnDevice(dtype, file, 40, columns),
        packedBytes(dtype, 40, columns),
      ).slice();
      const later = file.slice(fileBytes(dtype, 16, columns), fileBytes(dtype, 40, columns));
      const size = packedBytes(dtype, 24, columns);
      const rest = fromDevice(packedOnDevice(dtype, later, 24, columns), size);
      expect(Buffer.compare(whole.subarray(packedBytes(dtype, 16, columns)), rest)).toBe(0);
    }
  });
});

describe("from a file", () => {
  const folder = mkdtempSync(join(tmpdir(), "cuda-pack-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "matrix");
  const text = () => String((cuda.psi_last_error as unknown as () => string)());

  test("the bytes that it gives from memory", () => {
    for (const dtype of ["q8_0", "q6_k", "f32", "bf16"] as const) {
      const [rows, columns, offset] = [37, 256, 4097];
      const file = randomWeights(dtype, rows, columns, 5).slice(0, fileBytes(dtype, rows, columns));
      const bytes = new Uint8Array(offset + file.length + 9).fill(0xee);
      bytes.set(file, offset);
      writeFileSync(path, bytes);
      const size = packedBytes(dtype, rows, columns);
      const address = deviceBytes(size);
      check(cuda.psi_pack_file!(address, Buffer.from(`${path}\0`), rows, columns, dtypes[dtype].id, offset));
      const got = fromDevice(address, size).slice();
      const want = fromDevice(packedOnDevice(dtype, file, rows, columns), size);
      expect(Buffer.compare(got, want)).toBe(0);
    }
  });

  test("matrices one after the other, more than there are buffers, whose copies run on streams of their own", () => {
    const [rows, columns, dtype] = [19, 256, "q8_0"] as const;
    const size = packedBytes(dtype, rows, columns);
    const each = fileBytes(dtype, rows, columns);
    const files = Array.from({ length: 20 }, (_, i) =>
      randomWeights(dtype, rows, columns, 50 + i).slice(0, each),
    );
    writeFileSync(path, Buffer.concat(files));
    const places = files.map(() => deviceBytes(size));
    for (const [i, place] of places.entries())
      check(cuda.psi_pack_file!(place, Buffer.from(`${path}\0`), rows, columns, dtypes[dtype].id, i * each));
    // the stand-in's copies on other streams than the first run when they are waited for, not before
    for (const [i, place] of places.entries()) {
      const got = fromDevice(place, size).slice();
      const want = fromDevice(packedOnDevice(dtype, files[i]!, rows, columns), size);
      expect([i, Buffer.compare(got, want)]).toEqual([i, 0]);
    }
  });

  test("a file that ends early or is not there is named as the reason", () => {
    writeFileSync(path, new Uint8Array(100));
    const address = deviceBytes(packedBytes("q8_0", 16, 32));
    expect(cuda.psi_pack_file!(address, Buffer.from(`${path}\0`), 16, 32, dtypes.q8_0.id, 0)).toBe(4);
    expect(cuda.psi_pack_file!(address, Buffer.from(`${path}.none\0`), 16, 32, dtypes.q8_0.id, 0)).toBe(4);
    expect(text()).toMatch(/matrix\.none/);
  });
});

describe("refusals", () => {
  const size = new Float64Array(256);
  const file = new Uint8Array(4096);
  test.each([
    ["f64 has no products", () => cuda.psi_packed_bytes!(size, 1, 32, dtypes.f64.id), 2],
    ["an unknown type", () => cuda.psi_packed_bytes!(size, 1, 32, 99), 2],
    ["columns that cut a block", () => cuda.psi_packed_bytes!(size, 1, 40, dtypes.q8_0.id), 1],
    ["no rows", () => cuda.psi_packed_bytes!(size, 0, 32, dtypes.q8_0.id), 1],
    ["no destination", () => cuda.psi_pack!(null, file, 1, 32, dtypes.q8_0.id), 1],
    ["no source", () => cuda.psi_pack!(deviceBytes(4096), null, 1, 32, dtypes.q8_0.id), 1],
    ["f64 is not packed", () => cuda.psi_pack!(deviceBytes(4096), file, 1, 32, dtypes.f64.id), 2],
  ] as const)("%s", (_name, body, status) => expect(body()).toBe(status));
});
