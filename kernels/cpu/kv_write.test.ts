import { describe, expect, test } from "bun:test";
import { floats, levels, opened, randomFloats } from "./library.ts";
import { type Case, cacheTypes, emptyCache, plain, span, write } from "./paged.ts";

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

describe.each([...levels])("kv_write on %s", (level) => {
  test.each(
    cacheTypes.flatMap((cacheType): [string, Case][] => [
      [cacheType, { ...plain, cacheType }],
      [`${cacheType}, small pages`, { ...plain, cacheType, headDim: 96, kvHeads: 3, pageSize: 16 }],
    ]),
  )("every byte as the reference writes it: %s", (_name, c) => {
    const tokens = [...span(0, 0, 70), ...span(1, 5, 40)];
    const rows = awkwardRows(tokens.length * 2 * c.kvHeads * c.headDim);
    const [cache, expected] = [emptyCache(c, [70, 70]), emptyCache(c, [70, 70])];
    opened(level, 2, () => write(c, cache, tokens, rows));
    write(c, expected, tokens, rows, true);
    expect(Bun.hash(cache.keys)).toBe(Bun.hash(expected.keys));
    expect(Bun.hash(cache.values)).toBe(Bun.hash(expected.values));
  });
});

test("the layout is the header's", () => {
  const c: Case = { ...plain, kvHeads: 2, headDim: 16, pageSize: 32 };
  const cache = emptyCache(c, [40]);
  const rows = floats(2 * 32);
  for (let i = 0; i < rows.length; i++) rows[i] = i;
  opened("plain", 1, () => write(c, cache, span(0, 37, 39), rows));
  const page = cache.table[1]! * c.pageSize * c.kvHeads * c.headDim;
  const [keys, values] = [new Float32Array(cache.keys.buffer), new Float32Array(cache.values.buffer)];
  // Token 37 is slot 5 of page 1; its head 1, element 3. Keys [kv_heads][tiles][head_dim][16], values [kv_heads][slots][head_dim].
  expect(keys[page + ((1 * 2 + 0) * 16 + 3) * 16 + 5]).toBe(16 + 3);
  expect(values[page + (1 * 32 + 5) * 16 + 3]).toBe(32 + 16 + 3);
});

test("a token without a page, or beyond the table, is refused", () => {
  const cache = emptyCache(plain, [40]);
  const rows = floats(4 * 64);
  cache.table[0] = -1;
  const at = (position: number) => () =>
    opened("plain", 1, () => write(plain, cache, span(0, position, position + 1), rows));
  expect(at(3)).toThrow(/page/);
  expect(at(3 * 32)).toThrow(/position below 96/);
  expect(at(-1)).toThrow(/position/);
});
