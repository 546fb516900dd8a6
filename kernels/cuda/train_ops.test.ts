/** Training's kernels on f32 tensors against the CPU's plain loops, and what they refuse. */
import { expect, test } from "bun:test";
import { ops } from "../../src/ir/ops/index.ts";
import { floats } from "../cpu/library.ts";
import { type Argument, calls } from "../cpu/training_calls.ts";
import { largestError, runReference } from "../cpu/twins.ts";
import { check, cuda, fromDevice, onDevice } from "./library.ts";

/** Sums in f32, in another order than the references' in f64. */
const least = 2e-5;

const titled = calls.map((c, i) => [`${c.name} (${i})`, c] as const);

test.each(titled)("%s", (_title, { name, args, outputs, tolerance = 0 }) => {
  const [given, want] = [args(), args()];
  runReference(name, ...want);
  const onCard = given.map((a) => (ArrayBuffer.isView(a) ? onDevice(a) : a));
  check(cuda[`psi_${name}`]!(...(onCard as (number | null)[])));
  for (let i = 0; i < outputs; i++) {
    const expected = want[i] as ArrayBufferView;
    const bytes = fromDevice(onCard[i] as never, expected.byteLength);
    if (expected instanceof Float32Array) {
      const got = floats(expected.length);
      got.set(new Float32Array(bytes.buffer, 0, expected.length));
      expect(largestError(got, expected)).toBeLessThan(Math.max(least, 2 * tolerance));
    } else if (expected instanceof Float64Array) {
      const got = new Float64Array(bytes.buffer, 0, expected.length);
      for (const [at, v] of expected.entries())
        expect(Math.abs(got[at]! - v)).toBeLessThanOrEqual(1e-12 * Math.abs(v));
    } else {
      expect(bytes).toEqual(new Uint8Array(expected.buffer, expected.byteOffset, expected.byteLength));
    }
  }
});

test.each(titled)(
  "%s refuses null pointers and negative sizes by its name",
  (_title, { name, args, optional = [], sizes }) => {
    const good: Argument[] = args();
    const pointers = good.flatMap((a, i) =>
      typeof a === "number" || a === null || optional.includes(i) ? [] : [i],
    );
    // pointers of scratch come before the sizes; a kernel that needs none does not look at it
    const unread = ["gemm", "grouped_gemm"].includes(name) ? [name === "gemm" ? 4 : 5] : [];
    for (const [places, bad] of [
      [pointers.filter((p) => !unread.includes(p)), null],
      [sizes, -1],
    ] as const) {
      for (const place of places) {
        const changed = args().map((a) => (ArrayBuffer.isView(a) ? onDevice(a) : a));
        changed[place] = bad;
        expect(() => check(cuda[`psi_${name}`]!(...(changed as (number | null)[])))).toThrow(`[psi_${name}]`);
      }
    }
  },
);

test("f64 is refused", () => {
  const code = 28;
  for (const op of ops.filter(({ name }) => ["norm", "mix", "activation", "sum", "lookup"].includes(name))) {
    const a = onDevice(new Float32Array(512));
    const args = op.signature.map((t, i) =>
      t === "ptr" ? a : t === "i32" && op.signature[i + 1] !== "i32" ? code : 4,
    );
    expect(() => check(cuda[`psi_${op.name}`]!(...args))).toThrow(
      /expected f32, or f32 and bf16, on CUDA, got dtype 28/,
    );
  }
});
