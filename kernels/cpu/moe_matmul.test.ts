import type { Pointer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import {
  A16,
  bits,
  bytesAt,
  check,
  floats,
  levels,
  native,
  normalisedError,
  opened,
  PACKED,
  packed,
  random,
  randomFloats,
  randomWeights,
} from "./library.ts";

const experts = 7;
const outputs = 43;
const columns = 512;
/** Inputs rounded to 8 or 16 bits; f32 sums against f64 sums. */
const tolerance = (dtype: DType, width: number) =>
  dtypes[dtype].blockElements === 1 ? 1e-10 : width === A16 ? 1e-8 : 2e-4;
const scratch = bytesAt(4 << 20);

type Call = {
  readonly dtype: DType;
  readonly x: Float32Array;
  readonly ids: Int32Array;
  readonly used: number;
  readonly perSlot: boolean;
  readonly bias: Float32Array | null;
  readonly width: number;
};
const scratchBytes = (c: Call) => c.x.length * (c.width ? 4 : 2) + 64 + 4 * (c.ids.length + 3 * experts + 16);

function run(c: Call, w: Pointer): Float32Array {
  const y = floats(c.ids.length * outputs).fill(Number.NaN);
  const sizes = [c.ids.length / c.used, c.used, experts, outputs, columns] as const;
  const code = dtypes[c.dtype].id | PACKED | c.width;
  check(
    native.psi_moe_matmul(
      y,
      c.x,
      w,
      c.bias,
      c.ids,
      scratch,
      ...sizes,
      code,
      c.perSlot ? 1 : 0,
      scratchBytes(c),
    ),
  );
  return y;
}
function reference(c: Call, w: Uint8Array): Float32Array {
  const y = floats(c.ids.length * outputs);
  const sizes = [c.ids.length / c.used, c.used, experts, outputs, columns] as const;
  const code = dtypes[c.dtype].id;
  check(native.psi_moe_matmul_ref(y, c.x, w, c.bias, c.ids, null, ...sizes, code, c.perSlot ? 1 : 0, 0));
  return y;
}
function randomIds(count: number, seed: number): Int32Array {
  const next = random(seed);
  return new Int32Array(new ArrayBuffer(Math.max(2048, count * 4)), 0, count).map(() => next() % experts);
}

describe.each(levels)("moe_matmul at level %s", (level) => {
  test.each(["mxfp4", "q8_0", "q4_k", "q6_k", "f16", "f32"] as const)(
    "%s agrees with the reference",
    (dtype) => {
      const weights = randomWeights(dtype, experts * outputs, columns, 1);
      opened(level, 2, () => {
        const w = packed(dtype, weights, outputs, columns, experts);
        for (const [tokens, used, perSlot] of [
          [1, 4, false],
          [1, 1, true],
          [5, 2, true],
          [33, 3, false],
          [96, 3, false],
        ] as const) {
          const x = randomFloats((perSlot ? tokens * used : tokens) * columns, tokens);
          const bias = used === 1 ? null : randomFloats(experts * outputs, 3);
          for (const width of [0, A16]) {
            const c: Call = { dtype, x, ids: randomIds(tokens * used, tokens), used, perSlot, bias, width };
            expect(normalisedError(run(c, w), reference(c, weights))).toBeLessThan(tolerance(dtype, width));
          }
        }
      });
    },
  );

  test.each(["mxfp4", "q5_k", "bf16"] as const)(
    "%s: a slot's bits do not depend on who shares its expert",
    (dtype) => {
      const weights = randomWeights(dtype, experts * outputs, columns, 1);
      const tokens = 160;
      const x = randomFloats(tokens * columns, 2);
      const ids = randomIds(tokens * 2, 3);
      opened(level, 2, () => {
        const w = packed(dtype, weights, outputs, columns, experts);
        for (const width of [0, A16]) {
          const c: Call = { dtype, x, ids, used: 2, perSlot: false, bias: null, width };
          const all = bits(run(c, w));
          for (const token of [0, 13, 159]) {
            const row = floats(columns);
            row.set(x.subarray(token * columns, (token + 1) * columns));
            const own = randomIds(2, 0);
            own.set(ids.subarray(token * 2, token * 2 + 2));
            const alone = bits(run({ ...c, x: row, ids: own }, w));
            expect(alone).toEqual(all.slice(token * 2 * outputs, (token + 1) * 2 * outputs));
          }
        }
      });
    },
  );
});

test("expert ids out of range, wrong flags and little scratch are refused", () => {
  opened("", 1, () => {
    const x = floats(columns);
    const call = (id: number, perSlot: number, bytes: number) => {
      const ids = new Int32Array(512).fill(id);
      const sizes = [1, 1, experts, outputs, columns, dtypes.q8_0.id | PACKED] as const;
      const status = native.psi_moe_matmul(
        floats(outputs),
        x,
        scratch,
        null,
        ids,
        scratch,
        ...sizes,
        perSlot,
        bytes,
      );
      return `${status} ${native.psi_last_error()}`;
    };
    expect(call(7, 0, 1e6)).toBe("1 [psi_moe_matmul] expected expert ids from 0 to 6, got 7 at slot 0.");
    expect(call(-1, 0, 1e6)).toContain("got -1 at slot 0");
    expect(call(0, 2, 1e6)).toContain("x_per_slot 0 or 1");
    expect(call(0, 0, 100)).toContain("bytes of scratch, got 100.");
  });
});
