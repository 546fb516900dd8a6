import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints } from "../cpu/twins.ts";
import { check, cuda, onDevice } from "./library.ts";
import {
  bytesOf,
  type Case,
  cacheTypes,
  emptyTwins,
  keysAsValues,
  plain,
  span,
  tokenArrays,
  writeTwins,
} from "./paged.ts";

/** Rows whose blocks hold what conversions stumble over: ties, zeros, subnormals, values beyond f16. */
function awkwardRows(count: number): Float32Array {
  const rows = randomFloats(count, 8);
  const special = [0, -0, 1e-40, -6e-8, 70000, -65504, 65519.996, 65520, 1e-30, 0.5];
  for (let i = 0; i < count; i++) {
    const block = Math.floor(i / 32) % 4;
    if (block === 1) rows[i] = i % 32 === 0 ? 127 : (i % 16) - 7.5;
    if (block === 2) rows[i] = 0;
    if (block === 3) rows[i] = special[i % special.length]!;
  }
  return rows;
}

describe("kv_write", () => {
  test.each(
    cacheTypes.flatMap((cacheType): [string, Case][] => [
      [cacheType, { ...plain, cacheType }],
      [`${cacheType}, small pages`, { ...plain, cacheType, headDim: 96, kvHeads: 3, pageSize: 16 }],
    ]),
  )("every byte as the CPU's reference writes it: %s", (_name, c) => {
    const tokens = [...span(0, 0, 70), ...span(1, 5, 40)];
    const twins = emptyTwins(c, [70, 70]);
    writeTwins(c, twins, tokens, awkwardRows(tokens.length * 2 * c.kvHeads * c.headDim));
    const { keys, values } = bytesOf(twins);
    expect(Bun.hash(values)).toBe(Bun.hash(twins.cpu.values));
    expect(Bun.hash(keys)).toBe(Bun.hash(keysAsValues(c, twins.cpu.keys)));
  });

  test("tokens without a sequence, a page or a place in the table are not written", () => {
    const twins = emptyTwins(plain, [40]);
    const before = bytesOf(twins);
    const tokens = [
      { sequence: -1, position: 0 },
      { sequence: 0, position: -1 },
      { sequence: 0, position: twins.cpu.maxPages * plain.pageSize },
      { sequence: 0, position: 3 },
    ];
    const table = onDevice(ints(Array(twins.cpu.maxPages).fill(-1)));
    const rows = onDevice(randomFloats(4 * 256, 1));
    check(
      cuda.psi_kv_write!(
        ...[twins.keys, twins.values, rows, rows, table, ...tokenArrays(tokens)],
        ...[4, 256, 0, 256, 128, 2, 64, 32, twins.cpu.maxPages, 0],
      ),
    );
    expect(bytesOf(twins)).toEqual(before);
  });

  test.each([
    ["page size", { pageSize: 24 }, /multiple of 16, got 24/],
    ["head width", { headDim: 40 }, /multiple of 16 up to 512, got 40/],
    ["head width", { headDim: 48, type: 8 }, /multiple of 32 up to 512, got 48/],
    ["dtype", { type: 2 }, /f32, f16, bf16, fp8 or q8_0, got dtype 2/],
    ["offset", { offset: 100 }, /128 elements inside rows of 200 and 200/],
  ])("refuses a wrong %s", (_name, wrong, text) => {
    const c = { pageSize: 32, headDim: 64, type: 0, offset: 0, ...wrong };
    const at = onDevice(floats(16));
    const call = () =>
      check(
        cuda.psi_kv_write!(
          ...[at, at, at, at, at, at, at],
          ...[1, 200, c.offset, 200, 0, 2, c.headDim, c.pageSize, 1, c.type],
        ),
      );
    expect(call).toThrow(text);
  });
});
