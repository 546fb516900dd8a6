/** The paged cache and attention over it: what Metal writes and reads against what the CPU's references do in their layout. */
import { describe, expect, test } from "bun:test";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, deviceBytes, floatsFromDevice, fromDevice, metal, onDevice, path } from "./library.ts";

type Case = {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly sinks?: boolean;
  readonly type?: DType;
  readonly lengths?: readonly number[];
};

const [pageSize, maxPages, pages] = [16, 6, 12];
const pageBytes = (kvHeads: number, headDim: number, type: DType): number => {
  const elements = kvHeads * pageSize * headDim;
  return elements * (type === "f32" ? 4 : type === "q8_0" ? 1 : 2) + (type === "q8_0" ? elements / 16 : 0);
};

/** Writes the sequences token by token position, attends with the last `queries` tokens of each; Metal's result and the reference's. */
function attend(
  { heads, kvHeads, headDim, window = 0, softcap = 0, sinks = false, type = "f32", lengths = [70, 9] }: Case,
  queries: number,
) {
  const { id } = dtypes[type];
  const stride = kvHeads * headDim;
  const tokens = lengths.flatMap((n, s) =>
    Array.from({ length: n }, (_, position) => [s, position] as const),
  );
  const [k, v] = [randomFloats(tokens.length * stride, 1), randomFloats(tokens.length * stride, 2)];
  // pages of the two sequences in turn, from the last down
  const table = ints(
    lengths.flatMap((_, s) => Array.from({ length: maxPages }, (_, p) => pages - 1 - ((2 * p + s) % pages))),
  );
  const sequence = ints(tokens.map(([s]) => s));
  const position = ints(tokens.map(([, p]) => p));
  const bytes = pages * pageBytes(kvHeads, headDim, type);
  const cpu = [new Uint8Array(bytes), new Uint8Array(bytes)] as const;
  const write = [tokens.length, stride, 0, stride, 0, kvHeads, headDim, pageSize, maxPages, id] as const;
  runReference("kv_write", ...cpu, k, v, table, sequence, position, ...write);
  const [keys, values, places] = [deviceBytes(bytes), deviceBytes(bytes), onDevice(table)];
  check(
    metal.psi_kv_write!(
      keys,
      values,
      onDevice(k),
      onDevice(v),
      places,
      onDevice(sequence),
      onDevice(position),
      ...write,
    ),
  );

  const chosen = tokens.filter(([s, p]) => p >= lengths[s]! - queries);
  const qStride = heads * headDim + 8;
  const q = randomFloats(chosen.length * qStride, 3).map((x) => x / 8);
  const of = [ints(chosen.map(([s]) => s)), ints(chosen.map(([, p]) => p))] as const;
  const sink = sinks ? randomFloats(heads, 4) : null;
  const count = chosen.length * heads * headDim;
  const scratch = new Uint8Array(4 * heads * Math.ceil((maxPages * pageSize) / 64) * (headDim + 2) * 4);
  const sizes = [chosen.length, qStride, 8, heads, kvHeads, headDim, pageSize, maxPages, window, id] as const;
  const last = [1 / Math.sqrt(headDim), softcap, scratch.length] as const;
  const want = floats(count);
  runReference("attention", want, q, ...cpu, table, ...of, sink, scratch, ...sizes, ...last);
  const y = deviceBytes(4 * count);
  const given = [
    onDevice(q),
    keys,
    values,
    places,
    ...of.map(onDevice),
    sink && onDevice(sink),
    null,
  ] as const;
  check(metal.psi_attention!(y, ...given, ...sizes, ...last));
  return { got: floatsFromDevice(y, count), want, values: [fromDevice(values, bytes), cpu[1]] as const };
}

const cases: readonly Case[] = [
  { heads: 4, kvHeads: 2, headDim: 64 },
  { heads: 2, kvHeads: 2, headDim: 16, window: 20 },
  { heads: 8, kvHeads: 1, headDim: 32, sinks: true, window: 33 },
  { heads: 2, kvHeads: 1, headDim: 80, softcap: 20 },
  { heads: 1, kvHeads: 1, headDim: 512, lengths: [40, 1] },
  { heads: 2, kvHeads: 1, headDim: 64, type: "f16" },
  { heads: 2, kvHeads: 1, headDim: 64, type: "bf16" },
  { heads: 2, kvHeads: 2, headDim: 64, type: "q8_0" },
];

describe.skipIf(!path)("attention on Metal", () => {
  test.each(cases)("%o", (one) => {
    const { got, want, values } = attend(one, 3);
    expect(largestError(got, want)).toBeLessThan(1e-5);
    // values lie alike in both layouts
    expect(values[0]).toEqual(values[1]);
  });

  test("a token's bits do not depend on the tokens beside it", () => {
    const one = { heads: 2, kvHeads: 1, headDim: 32, window: 40 };
    const [alone, many] = [
      attend({ ...one, lengths: [70] }, 1).got,
      attend({ ...one, lengths: [70] }, 5).got,
    ];
    const whole = attend({ ...one, lengths: [70] }, 1);
    expect(whole.got).toEqual(alone);
    expect(many.length).toBe(5 * alone.length);
  });

  test("tokens of no sequence are not written and give zeros; heads that do not fit are refused", () => {
    const [cache, q] = [deviceBytes(pages * pageBytes(1, 32, "f32")), onDevice(randomFloats(32, 1))];
    const [none, zero, table] = [
      onDevice(ints([-1])),
      onDevice(ints([0])),
      onDevice(ints(new Array(maxPages).fill(0))),
    ];
    check(
      metal.psi_kv_write!(
        cache,
        cache,
        q,
        q,
        table,
        none,
        zero,
        1,
        32,
        0,
        32,
        0,
        1,
        32,
        pageSize,
        maxPages,
        0,
      ),
    );
    expect(floatsFromDevice(cache, 32)).toEqual(new Float32Array(32));
    const y = onDevice(randomFloats(32, 2));
    const sizes = [1, 32, 0, 1, 1, 32, pageSize, maxPages, 0, 0, 1, 0, 0] as const;
    check(metal.psi_attention!(y, q, cache, cache, table, none, zero, null, null, ...sizes));
    expect(floatsFromDevice(y, 32)).toEqual(new Float32Array(32));
    const narrow = [1, 32, 1, 1, 1, 32, pageSize, maxPages, 0, 0, 1, 0, 0] as const;
    expect(() =>
      check(metal.psi_attention!(y, q, cache, cache, table, none, zero, null, null, ...narrow)),
    ).toThrow(/inside rows/);
  });
});
