/** Normalised, rotated heads in one pass and their gradient, against the plain loops of the ops they stand for. */
import type { Pointer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, fromDevice, onDevice } from "./library.ts";

const [F32, MIXED] = [0, 256];
const eps = 1e-6;

/** bf16s and what they are in f32. */
function halves(count: number, seed: number) {
  const values = floats(count);
  values.set(randomFloats(count, seed));
  const words = new Uint32Array(values.buffer, values.byteOffset, count);
  const bits = new Uint16Array(new ArrayBuffer(Math.max(2048, count * 2)), 0, count);
  for (let i = 0; i < count; i++) {
    bits[i] = (words[i]! + 0x7fff + ((words[i]! >>> 16) & 1)) >>> 16;
    words[i] = bits[i]! << 16;
  }
  return { bits, values };
}

type Shape = { readonly rows: number; readonly heads: number; readonly headDim: number };

const shapes: readonly Shape[] = [
  { rows: 37, heads: 8, headDim: 64 },
  { rows: 21, heads: 4, headDim: 64 },
  { rows: 19, heads: 3, headDim: 8 },
  { rows: 5, heads: 32, headDim: 128 },
  { rows: 3, heads: 1, headDim: 256 },
];

describe.each(shapes)("%p", ({ rows, heads, headDim }) => {
  const count = rows * heads * headDim;
  const [x, dy] = [halves(count, 1), halves(count, 2)];
  const positions = ints(Array.from({ length: rows }, (_, i) => (7 * i) % 1000));
  const frequencies = floats(headDim / 2);
  frequencies.set(Array.from({ length: headDim / 2 }, (_, i) => 10000 ** ((-2 * i) / headDim)));
  const gain = floats(heads);
  gain.set(Array.from({ length: heads }, (_, i) => 0.5 + 0.3 * i));

  /** y, dx and what the gains' gradient gets, by plain loops. */
  function wanted(withGain: boolean, inverse: number) {
    const [normed, stats, turned, y] = [
      floats(count),
      floats(2 * rows * heads),
      floats(count),
      floats(count),
    ];
    const [scaled, back, dx, dgain] = [floats(count), floats(count), floats(count), floats(heads)];
    runReference("norm", normed, stats, x.values, null, null, rows * heads, headDim, 0, F32, eps);
    const turn = (to: Float32Array, from: Float32Array, way: number): void => {
      const sizes = [rows, heads, headDim, headDim, 1, way, F32, 1];
      runReference("rotate", to, from, positions, frequencies, ...sizes);
    };
    turn(turned, normed, inverse);
    if (withGain) {
      runReference("head_scale", y, turned, gain, rows, heads, headDim, F32);
      runReference("head_scale_grad", scaled, dgain, dy.values, turned, gain, rows, heads, headDim, F32);
    }
    turn(back, withGain ? scaled : dy.values, 1 - inverse);
    runReference("norm_grad", dx, null, null, back, x.values, null, stats, rows * heads, headDim, 0, F32);
    return { y: withGain ? y : turned, dx, dgain };
  }

  function made(withGain: boolean, inverse: number, half: boolean) {
    const bytes = count * (half ? 2 : 4);
    const [y, dx] = [deviceBytes(bytes), deviceBytes(bytes)];
    const [input, up] = [x, dy].map((t) => onDevice(half ? t.bits : t.values)) as [Pointer, Pointer];
    const [at, angles] = [onDevice(positions), onDevice(frequencies)];
    const g = withGain ? onDevice(gain) : null;
    const before = floats(heads).fill(2);
    const dgain = withGain ? onDevice(before) : null;
    const sizes = [rows, heads, headDim, inverse];
    check(cuda.psi_qk_norm_rope!(y, input, at, angles, g, ...sizes, half ? MIXED + 3 : F32, eps));
    const type = half ? MIXED + 1 + 4 + 8 : F32;
    check(cuda.psi_qk_norm_rope_grad!(dx, dgain, up, input, at, angles, g, ...sizes, type, eps));
    const read = (address: typeof y, n: number): Float32Array => {
      if (!half) return new Float32Array(fromDevice(address, n * 4).buffer, 0, n);
      const bits = new Uint16Array(fromDevice(address, n * 2).buffer, 0, n);
      return new Float32Array(Uint32Array.from(bits, (b) => b << 16).buffer);
    };
    const sums = dgain ? new Float32Array(fromDevice(dgain, heads * 4).buffer, 0, heads) : floats(heads);
    return { y: read(y, count), dx: read(dx, count), dgain: sums.map((v) => (withGain ? v - 2 : v)) };
  }

  const relative = (got: Float32Array, want: Float32Array): number => {
    const size = want.reduce((sum, v) => sum + v * v, 1e-12);
    return Math.sqrt(got.reduce((sum, v, i) => sum + (v - want[i]!) ** 2, 0) / size);
  };

  test.each([
    [true, 0],
    [true, 1],
    [false, 1],
  ])("gain %p, inverse %i", (withGain, inverse) => {
    const want = wanted(withGain, inverse);
    for (const half of [false, true]) {
      const got = made(withGain, inverse, half);
      expect(relative(got.y, want.y)).toBeLessThan(half ? 3e-3 : 2e-6);
      expect(relative(got.dx, want.dx)).toBeLessThan(half ? 3e-3 : 5e-6);
      if (withGain) expect(relative(got.dgain, want.dgain)).toBeLessThan(1e-5);
      expect(made(withGain, inverse, half)).toEqual(got);
    }
  });
});

test("what the kernels do not take is refused", () => {
  const p = deviceBytes(4096);
  const call = (heads: number, headDim: number, at = p): number =>
    cuda.psi_qk_norm_rope!(p, at, p, p, null, 1, heads, headDim, 0, F32, eps);
  expect(call(1, 12)).not.toBe(0);
  expect(call(33, 8)).not.toBe(0);
  expect(call(1, 264)).not.toBe(0);
  expect(call(1, 8)).toBe(0);
});
