import type { Pointer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import {
  bits,
  floats,
  native,
  normalisedError,
  PACKED,
  random,
  randomFloats,
  randomWeights,
} from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";
import { roundedBytes } from "./weights.ts";

/** Squared. Inputs and weights rounded to bf16: 2^-9 of each, seldom both at their most; with bf16 weights neither. */
const tolerance = 1e-5;
const tolerances: Partial<Record<DType, number>> = { f32: 1e-10, bf16: 1e-9 };
const experts = 5;

type Case = {
  readonly dtype: DType;
  readonly tokens: number;
  readonly used: number;
  readonly outputs: number;
  readonly columns: number;
  readonly perSlot?: boolean;
  readonly bias?: boolean;
};
type Data = Case & {
  readonly weights: Uint8Array;
  readonly w: Pointer;
  readonly x: Float32Array;
  readonly biases: Float32Array | null;
  readonly ids: Int32Array;
};

function ids(count: number, seed: number): Int32Array {
  const next = random(seed);
  return new Int32Array(new ArrayBuffer(Math.max(2048, count * 4)), 0, count).map(
    () => (next() >>> 3) % experts,
  );
}

/** All experts' matrices in the device's layout. */
function packed(c: Case, weights: Uint8Array): Pointer {
  const size = new Float64Array(256);
  const id = dtypes[c.dtype].id;
  check(cuda.psi_packed_bytes!(size, c.outputs, c.columns, id));
  const address = deviceBytes(experts * size[0]!);
  const fileBytes = c.outputs * rowBytes(c.dtype, c.columns);
  for (let e = 0; e < experts; e++) {
    const target = ((address as number) + e * size[0]!) as Pointer;
    const source = weights.slice(e * fileBytes, (e + 1) * fileBytes);
    check(cuda.psi_pack!(target, source, c.outputs, c.columns, id));
  }
  return address;
}

function data(c: Case): Data {
  const weights = randomWeights(c.dtype, experts * c.outputs, c.columns, c.columns);
  const slots = c.tokens * c.used;
  return {
    ...c,
    weights,
    w: packed(c, weights),
    x: randomFloats((c.perSlot ? slots : c.tokens) * c.columns, slots),
    biases: c.bias ? randomFloats(experts * c.outputs, 3) : null,
    ids: ids(slots, slots + 1),
  };
}

/** The case of tokens first..first+count-1 alone. */
function part(d: Data, first: number, count: number): Data {
  const perToken = d.columns * (d.perSlot ? d.used : 1);
  return {
    ...d,
    tokens: count,
    x: d.x.slice(first * perToken, (first + count) * perToken),
    ids: d.ids.slice(first * d.used, (first + count) * d.used),
  };
}

function scratch(d: Data): readonly [Pointer, number] {
  const bytes =
    roundedBytes(d.dtype, d.x.length / d.columns, d.columns) + 64 + 4 * (d.ids.length + 3 * experts + 16);
  return [deviceBytes(bytes), bytes];
}

function matmul(d: Data): Pointer {
  const y = onDevice(floats(d.ids.length * d.outputs).fill(Number.NaN));
  const [place, bytes] = scratch(d);
  const sizes = [d.tokens, d.used, experts, d.outputs, d.columns, dtypes[d.dtype].id | PACKED];
  const bias = d.biases && onDevice(d.biases);
  const inputs = [onDevice(d.x), d.w, bias, onDevice(d.ids), place];
  check(cuda.psi_moe_matmul!(y, ...inputs, ...sizes, d.perSlot ? 1 : 0, bytes));
  return y;
}
const product = (d: Data): Float32Array => floatsFromDevice(matmul(d), d.ids.length * d.outputs);

function reference(d: Data): Float32Array {
  const y = floats(d.ids.length * d.outputs);
  const sizes = [d.tokens, d.used, experts, d.outputs, d.columns, dtypes[d.dtype].id] as const;
  const [x, own] = [floats(d.x.length), new Int32Array(new ArrayBuffer(2048 + 4 * d.ids.length))];
  x.set(d.x);
  own.set(d.ids);
  const status = native.psi_moe_matmul_ref(
    y,
    x,
    d.weights,
    d.biases,
    own,
    null,
    ...sizes,
    d.perSlot ? 1 : 0,
    0,
  );
  if (status !== 0) throw new Error(String(native.psi_last_error()));
  return y;
}

type Gate = readonly [kind: number, alpha: number, limit: number];

function gated(d: Data, gate: Gate): Float32Array {
  const count = (d.ids.length * d.outputs) / 2;
  const y = onDevice(floats(count).fill(Number.NaN));
  const [place, bytes] = scratch(d);
  const sizes = [d.tokens, d.used, experts, d.outputs / 2, d.columns, dtypes[d.dtype].id | PACKED];
  const bias = d.biases && onDevice(d.biases);
  const inputs = [onDevice(d.x), d.w, bias, onDevice(d.ids), place];
  check(cuda.psi_moe_glu!(y, ...inputs, ...sizes, ...gate, bytes));
  return floatsFromDevice(y, count);
}

/** The same by psi_moe_matmul and psi_glu. */
function gatedPlainly(d: Data, gate: Gate): Float32Array {
  const [rows, width] = [d.ids.length, d.outputs / 2];
  const [y, both] = [deviceBytes(rows * width * 4), matmul(d)];
  const up = ((both as number) + 4 * width) as Pointer;
  check(cuda.psi_glu!(y, both, up, rows, width, d.outputs, d.outputs, ...gate));
  return floatsFromDevice(y, rows * width);
}

describe("moe_matmul", () => {
  test.each(["mxfp4", "q8_0", "q4_k", "q6_k", "bf16", "f16", "f32"] as const)(
    "%s agrees with the reference",
    (dtype) => {
      const columns = dtype === "q4_k" || dtype === "q6_k" ? 768 : 352;
      for (const [tokens, used, outputs, perSlot, bias] of [
        [1, 4, 43, false, true],
        [1, 3, 16, true, false],
        [7, 2, 33, true, true],
        [19, 1, 16, false, false],
      ] as const) {
        const d = data({ dtype, tokens, used, outputs, columns, perSlot, bias });
        expect(normalisedError(product(d), reference(d))).toBeLessThan(tolerances[dtype] ?? tolerance);
      }
    },
  );

  test("rows of odd length, and many slots", () => {
    for (const [dtype, tokens, columns] of [
      ["bf16", 5, 67],
      ["f32", 3, 129],
      ["bf16", 90, 136],
    ] as const) {
      const d = data({ dtype, tokens, used: 3, outputs: 21, columns, bias: true });
      expect(normalisedError(product(d), reference(d))).toBeLessThan(tolerances[dtype] ?? tolerance);
    }
  });

  test.each(["mxfp4", "q5_k", "bf16", "f32"] as const)(
    "%s: a slot's bits are the same alone, among few and among many",
    (dtype) => {
      const columns = dtype === "q5_k" ? 1280 : 1184; // 19 or 20 units: segments of 3, the last shorter
      for (const perSlot of [false, true]) {
        const d = data({ dtype, tokens: 90, used: 3, outputs: 24, columns, perSlot, bias: true });
        const many = bits(product(d));
        for (const [first, count] of [
          [17, 1],
          [40, 6],
          [60, 20],
        ] as const) {
          const few = bits(product(part(d, first, count)));
          const rows = d.used * d.outputs;
          expect(few).toEqual(many.slice(first * rows, (first + count) * rows));
        }
      }
    },
  );

  test("mxfp4 scales above 2, which take another path, few and many slots", () => {
    const c: Case = { dtype: "mxfp4", tokens: 90, used: 3, outputs: 16, columns: 192 };
    const weights = randomWeights(c.dtype, experts * c.outputs, c.columns, 9);
    for (let block = 0; block < experts * c.outputs * 6; block += 17) weights[block * 17] = 130 + (block % 7);
    const d = { ...data(c), weights, w: packed(c, weights) };
    const many = product(d);
    expect(normalisedError(many, reference(d))).toBeLessThan(tolerance);
    const few = product(part(d, 30, 4));
    expect(bits(few)).toEqual(bits(many).slice(90 * 16, 102 * 16));
  });

  test("a token may choose an expert more than once", () => {
    const d = data({ dtype: "mxfp4", tokens: 2, used: 40, outputs: 16, columns: 128 });
    expect(normalisedError(product(d), reference(d))).toBeLessThan(tolerance);
  });
});

describe("moe_glu", () => {
  const gates: readonly Gate[] = [
    [0, 0, 0],
    [1, 0, 0],
    [2, 1.702, 7],
  ];

  test.each(["mxfp4", "q8_0", "bf16", "f32"] as const)("%s: the bits of moe_matmul, then glu", (dtype) => {
    for (const [tokens, used, outputs, bias] of [
      [1, 4, 64, true],
      [11, 2, 96, true],
      [90, 3, 32, false],
    ] as const) {
      if (dtype === "f32" && tokens > 11) continue; // it has no other form for many slots
      const d = data({ dtype, tokens, used, outputs, columns: 160, bias });
      for (const gate of gates) expect(bits(gated(d, gate))).toEqual(bits(gatedPlainly(d, gate)));
    }
  });

  test("bits alone and in company", () => {
    const d = data({ dtype: "mxfp4", tokens: 90, used: 3, outputs: 32, columns: 1184, bias: true });
    const many = bits(gated(d, gates[2]!));
    for (const [first, count] of [
      [5, 1],
      [30, 12],
    ] as const) {
      const few = bits(gated(part(d, first, count), gates[2]!));
      expect(few).toEqual(many.slice((first * 3 * 32) / 2, ((first + count) * 3 * 32) / 2));
    }
  });
});

test("sizes out of contract are refused", () => {
  const place = deviceBytes(4096);
  const text = (status: number): string => `${status} ${cuda.psi_last_error!()}`;
  const code = dtypes.mxfp4.id | PACKED;
  const five = [place, place, null, place, place] as const;
  const product = (dtype: number, perSlot: number, bytes: number): string =>
    text(cuda.psi_moe_matmul!(place, ...five, 1, 1, 2, 16, 64, dtype, perSlot, bytes));
  expect(product(code, 2, 4096)).toContain("1 [psi_moe_matmul] expected x_per_slot 0 or 1, got 2.");
  expect(product(code, 0, 100)).toContain("expected 284 bytes of scratch, got 100.");
  expect(product(dtypes.mxfp4.id, 0, 4096)).toContain("expected packed weights");
  expect(product(dtypes.f64.id | PACKED, 0, 4096)).toStartWith("2 [psi_moe_matmul]");
  const gate = (features: number, kind: number): string =>
    text(cuda.psi_moe_glu!(place, ...five, 1, 1, 2, features, 64, code, kind, 0, 0, 4096));
  expect(gate(24, 0)).toContain("2 [psi_moe_glu] expected features in multiples of 16, got 24.");
  expect(gate(32, 3)).toContain("expected kind 0, 1 or 2, got 3.");
});
