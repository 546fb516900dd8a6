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

/** Milliseconds: 34 queries take their time on fibers of a busy machine. */
const patience = 60_000;

const [pageSize, maxPages, pages] = [16, 6, 12];
const pageBytes = (kvHeads: number, headDim: number, type: DType): number => {
  const elements = kvHeads * pageSize * headDim;
  return elements * (type === "f32" ? 4 : type === "q8_0" ? 1 : 2) + (type === "q8_0" ? elements / 16 : 0);
};

/** Writes the sequences token by token position, attends with the last `queries` tokens of each; Metal's result and the reference's. */
function attend(
  { heads, kvHeads, headDim, window = 0, softcap = 0, sinks = false, type = "f32", lengths = [70, 9] }: Case,
  queries: number,
  drawn = queries,
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
  // the last `queries` of `drawn` rows of each sequence
  const all = randomFloats(lengths.length * drawn * qStride, 3).map((x) => x / 8);
  const q = floats(chosen.length * qStride);
  for (const [i, [s, position]] of chosen.entries()) {
    const row = (s + 1) * drawn - (lengths[s]! - position);
    q.set(all.subarray(row * qStride, (row + 1) * qStride), i * qStride);
  }
  const of = [ints(chosen.map(([s]) => s)), ints(chosen.map(([, p]) => p))] as const;
  const sink = sinks ? randomFloats(heads, 4) : null;
  const count = chosen.length * heads * headDim;
  const scratch = new Uint8Array(
    new ArrayBuffer(4 * heads * Math.ceil((maxPages * pageSize) / 64) * (headDim + 2) * 4),
  );
  const sizes = [chosen.length, qStride, 8, heads, kvHeads, headDim, pageSize, maxPages, window, id] as const;
  const last = [1 / Math.sqrt(headDim), softcap, scratch.length] as const;
  const want = floats(count);
  runReference("attention", want, q, ...cpu, table, ...of, sink, scratch, ...sizes, ...last);
  const y = deviceBytes(4 * count);
  const room = onDevice(scratch.fill(0xff));
  const given = [
    onDevice(q),
    keys,
    values,
    places,
    ...of.map(onDevice),
    sink && onDevice(sink),
    room,
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

  test.each<Case>([
    { heads: 8, kvHeads: 1, headDim: 48, sinks: true, type: "f16" },
    { heads: 3, kvHeads: 1, headDim: 80, window: 70 },
    { heads: 20, kvHeads: 2, headDim: 32, type: "q8_0", softcap: 9 },
    { heads: 34, kvHeads: 1, headDim: 16 },
    { heads: 1, kvHeads: 1, headDim: 272, type: "bf16", sinks: true },
  ])(
    "prompt, generation and contexts that are shared give a token the same bits: %o",
    (one) => {
      // 34 queries of two sequences: several tokens a threadgroup, one of which has tokens of both
      const prompt = attend({ ...one, lengths: [70, 35] }, 17);
      expect(largestError(prompt.got, prompt.want)).toBeLessThan(1e-5);
      const width = one.heads * one.headDim;
      // 10: a threadgroup a token; 2: several threadgroups a context
      for (const queries of [5, 1]) {
        const { got } = attend({ ...one, lengths: [70, 35] }, queries, 17);
        for (const s of [0, 1]) {
          const own = got.subarray(s * queries * width, (s + 1) * queries * width);
          expect(own).toEqual(prompt.got.subarray(((s + 1) * 17 - queries) * width, (s + 1) * 17 * width));
        }
      }
    },
    patience,
  );

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
    const room = 2 * 34 * 4;
    const sizes = [1, 32, 0, 1, 1, 32, pageSize, maxPages, 0, 0, 1, 0, room];
    check(metal.psi_attention!(y, q, cache, cache, table, none, zero, null, deviceBytes(room), ...sizes));
    expect(floatsFromDevice(y, 32)).toEqual(new Float32Array(32));
    expect(() =>
      check(metal.psi_attention!(y, q, cache, cache, table, none, zero, null, null, ...sizes.with(-1, 0))),
    ).toThrow(/272 bytes of scratch/);
    const narrow = [1, 32, 1, 1, 1, 32, pageSize, maxPages, 0, 0, 1, 0, 0] as const;
    expect(() =>
      check(metal.psi_attention!(y, q, cache, cache, table, none, zero, null, null, ...narrow)),
    ).toThrow(/inside rows/);
  });
});
