/** Training's kernels on Metal with bf16 tensors beside f32 ones, against the references on the same numbers in f32. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { floats } from "../cpu/library.ts";
import { calls } from "../cpu/training_calls.ts";
import { ints, largestError, runReference } from "../cpu/twins.ts";
import { check, metal, onDevice, onFibers, path } from "./library.ts";
import { type Argument, BF16, F32, F64, runMetal, small } from "./training_calls.ts";

const mixed = 256;

/** Pointers that may be bf16, a bit each: the others are sums, statistics, gains and gradients of parameters. */
const halves: Readonly<Record<string, number>> = {
  ...{ grouped_gemm: 0b111, column_sum: 0b10, lookup: 0b11, lookup_grad: 0b10, norm: 0b101 },
  ...{ norm_grad: 0b11001, rotate: 0b11, causal_attention: 0b111101, causal_attention_grad: 0b10111110111 },
  ...{ activation: 0b111, activation_grad: 0b11111, cross_entropy: 0b1100, cross_entropy_grad: 0b110001 },
  ...{ expert_rows: 0b11, expert_rows_grad: 0b11, expert_combine: 0b11, expert_combine_grad: 0b1101 },
  ...{ mix: 0b111, mix_grad: 0b1110011, multiply: 0b111, head_scale: 0b11, head_scale_grad: 0b1101 },
  ...{ fill: 0b1, sum: 0b11, spread: 0b11, sum_squares: 0b10 },
  ...{ route: 0, route_grad: 0, balance_loss: 0, balance_loss_grad: 0 },
};

const header = await Bun.file(join(import.meta.dir, "../../ffi/psionic_train.h")).text();
/** Names of a function's arguments, and which are pointers. */
function parameters(name: string): readonly { readonly name: string; readonly pointer: boolean }[] {
  const list = new RegExp(`psi_${name}\\(([^)]*)\\)`).exec(header)![1]!;
  return list.split(",").map((p) => ({ name: /\w+$/.exec(p)![0], pointer: p.includes("*") }));
}

function bitsOf(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(words, (w) => (w + 0x7fff + ((w >>> 16) & 1)) >>> 16);
}
function valuesOf(bits: Uint16Array): Float32Array {
  const values = floats(bits.length);
  new Uint32Array(values.buffer, values.byteOffset, bits.length).set(Uint32Array.from(bits, (b) => b << 16));
  return values;
}
/** The most that rounding to bf16 takes of a number, over it. */
const rounding = 2 ** -8;

/** The call's arguments with the tensors of `set` as bf16, and the same numbers as f32. */
function arguments_(args: readonly Argument[], set: number, type: number) {
  const given = args.map((a, i) => ((set >> i) & 1 && a instanceof Float32Array ? bitsOf(a) : a));
  const wide = given.map((a, i) => {
    if (a instanceof Float32Array)
      return floats(a.length)
        .fill(0)
        .map((_, j) => a[j]!);
    return a instanceof Uint16Array && (set >> i) & 1 ? valuesOf(a) : a;
  });
  return { given: given.with(type, set === 0 ? F32 : mixed + set), wide };
}

describe.skipIf(!path)("training on Metal with bf16 tensors", () => {
  const titled = calls.filter(({ name }) => name in halves).map((c, i) => [`${c.name} (${i})`, c] as const);

  test.each(titled)("%s", (_title, { name, args, outputs, tolerance = 3e-6 }) => {
    const list = parameters(name);
    const type = list.findIndex((p) => p.name === "dtype");
    const may = halves[name]!;
    // all of them, and two sets in which each stands with others that are f32
    for (const set of new Set([may, may & 0x5555, may & 0xaaaa])) {
      if (set === 0) continue;
      const { given, wide } = arguments_(args(), set, type);
      const got = runMetal(name, given, outputs);
      runReference(name, ...wide);
      for (let i = 0; i < outputs; i++) {
        const [a, want] = [got[i]!, wide[i] as Float32Array];
        if (!(want instanceof Float32Array)) continue;
        const isHalf = a instanceof Uint16Array;
        const error = largestError(isHalf ? valuesOf(a) : (a as Float32Array), want);
        expect(error).toBeLessThan(isHalf ? rounding + 2 * tolerance : 2 * tolerance);
      }
      expect(runMetal(name, given, outputs)).toEqual(got);
    }
    const placed = args().map((a) => (a === null || typeof a === "number" ? a : onDevice(a)));
    const wrong = (code: number) => () => check(metal[`psi_${name}`]!(...placed.with(type, code)));
    expect(wrong(F64)).toThrow(`[psi_${name}] expected F32 or BF16 on Metal, got F64`);
    for (const [i, p] of list.entries())
      if (p.pointer && !((may >> i) & 1))
        expect(wrong(mixed + (1 << i))).toThrow(`[psi_${name}] expected BF16`);
  });

  test.each([0, 5])("causal_attention: y and what rounding took from it, window %p", (window) => {
    const [sequences, length, heads, kvHeads, width] = [2, 41, 4, 2, 20];
    const rows = sequences * length;
    const [wide, narrow] = [rows * heads * width, rows * kvHeads * width];
    const inputs = [small(wide, 1), small(narrow, 2), small(narrow, 3)].map(bitsOf);
    const ends = [sequences, length, heads, kvHeads, width, window] as const;
    const outputs = [new Uint16Array(wide), floats(rows * heads), new Uint16Array(wide)];
    const given = [...outputs, ...inputs, small(heads, 4), null, ...ends, mixed + 0b111101, 0.3, 0];
    const [y, , rest] = runMetal("causal_attention", given, 3) as [Uint16Array, Float32Array, Uint16Array];
    const want = floats(wide);
    const wider = inputs.map(valuesOf);
    runReference(
      "causal_attention",
      ...[want, floats(rows * heads), null, ...wider, small(heads, 4), null, ...ends, F32, 0.3, 0],
    );
    const [near, left] = [valuesOf(y), valuesOf(rest)];
    // sums of values have errors of their size, some 0.1, however small they are
    const off = (got: number, i: number): number => Math.abs(got - want[i]!) / (0.1 + Math.abs(want[i]!));
    expect(Math.max(...near.map((v, i) => off(v, i)))).toBeGreaterThan(2 ** -11);
    expect(Math.max(...near.map((v, i) => off(v + left[i]!, i)))).toBeLessThan(2 ** -16);
    const without = runMetal("causal_attention", given.with(2, null), 2);
    expect(without[0]).toEqual(y);
  });

  test.each([0, 5])("head_loss is cross_entropy with its gradient, soft-cap %p", (softcap) => {
    const [tokens, width, vocabulary, scale] = [45, 37, 301, 0.25];
    const [x, w] = [bitsOf(small(tokens * width, 1)), bitsOf(small(vocabulary * width, 2))];
    const targets = ints(Array.from({ length: tokens }, (_, t) => (t === 3 ? -1 : (t * 31) % vocabulary)));
    const [loss, lse, dx, dw] = [tokens, tokens, tokens * width, vocabulary * width].map(floats) as [
      Float32Array,
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    const shape = [tokens, width, vocabulary];
    const wide = [valuesOf(x), valuesOf(w), null, targets] as const;
    runReference("cross_entropy", loss, lse, ...wide, null, ...shape, F32, softcap, 0);
    const dloss = floats(tokens).fill(scale);
    runReference("cross_entropy_grad", dx, dw, null, dloss, ...wide, lse, null, ...shape, F32, softcap, 0);
    // rows at a time: some that divide the tokens, some that do not, and all
    for (const rows of [15, 32, tokens]) {
      const bytes = Math.ceil(tokens / 16) * 64 + rows * Math.ceil(vocabulary / 64) * 64 * 2;
      const outputs = [floats(1), new Uint16Array(dx.length), floats(dw.length)];
      const all = [...outputs, x, w, targets, floats(bytes / 4), ...shape, rows, scale, softcap, bytes];
      const got = runMetal("head_loss", all, 3) as [Float32Array, Uint16Array, Float32Array];
      const total = loss.reduce((a, b) => a + b, 0) * scale;
      expect(Math.abs(got[0][0]! / total - 1)).toBeLessThan(1e-3);
      // logits of some 2 are rounded to bf16, and what is made of them again
      expect(largestError(valuesOf(got[1]), dx)).toBeLessThan(4e-3);
      expect(largestError(got[2], dw)).toBeLessThan(4e-3);
      expect(Math.max(...dw.map(Math.abs))).toBeGreaterThan(0.05);
      expect(runMetal("head_loss", all, 3)).toEqual(got);
    }
  });

  test("head_loss: a target beyond the vocabulary is no number, and what it cannot do is refused", () => {
    const [tokens, width, vocabulary] = [2, 8, 40];
    const bytes = 64 + tokens * 64 * 2;
    const [x, w] = [bitsOf(small(tokens * width)), bitsOf(small(vocabulary * width))];
    const outputs = [floats(1), new Uint16Array(tokens * width), floats(vocabulary * width)];
    const all = [
      ...outputs,
      x,
      w,
      ints([3, 40]),
      floats(bytes / 4),
      tokens,
      width,
      vocabulary,
      2,
      1,
      0,
      bytes,
    ];
    const [loss, dx] = runMetal("head_loss", all, 2) as [Float32Array, Uint16Array];
    expect(loss[0]).toBeNaN();
    expect(valuesOf(dx).subarray(0, width).every(Number.isFinite)).toBeTrue();
    expect(valuesOf(dx).subarray(width).every(Number.isNaN)).toBeTrue();
    const placed: (number | null)[] = all.map((a) => (typeof a === "number" ? a : onDevice(a)));
    const changed = (at: number, value: number | null) => () =>
      check(metal.psi_head_loss!(...placed.with(at, value)));
    for (const at of [0, 1, 2, 3, 4, 5, 6]) expect(changed(at, null)).toThrow("[psi_head_loss]");
    for (const at of [7, 8, 9, 10]) expect(changed(at, 0)).toThrow("[psi_head_loss]");
    expect(changed(12, -1)).toThrow("soft-cap");
    expect(changed(13, bytes - 1)).toThrow("scratch");
  });

  test.each([0, 1, 2, 3])("scale_by, types %p, written and added", (set) => {
    const count = 333;
    const given = [small(count, 1), small(count, 2)].map((a, i) => ((set >> i) & 1 ? bitsOf(a) : a));
    const [before, x] = given.map((a) => (a instanceof Uint16Array ? valuesOf(a) : a)) as [
      Float32Array,
      Float32Array,
    ];
    for (const add of [0, 1]) {
      const type = set === 0 ? F32 : mixed + set;
      const [y] = runMetal("scale_by", [...given, Float32Array.of(-1.5), add, type, count], 1);
      const want = x.map((v, i) => (add ? before[i]! : 0) - 1.5 * v);
      const got = y instanceof Uint16Array ? valuesOf(y) : (y as Float32Array);
      expect(largestError(got, want)).toBeLessThan(y instanceof Uint16Array ? rounding : 1e-7);
    }
    const placed = [...given, Float32Array.of(1)].map(onDevice);
    for (const code of [F64, mixed + 4])
      expect(() => check(metal.psi_scale_by!(...placed, 0, code, count))).toThrow("[psi_scale_by] expected");
  });

  test.each([
    [39, F32],
    [8, F32],
    [39, BF16],
    [8, BF16],
  ])("block_round to type %p as type %p gives the reference's bits", (format, to) => {
    const count = 9024;
    // a GPU may take what is subnormal for zero
    const smallest = onFibers ? -130 : -90;
    const x = small(count, 5).map((v, i) => v * 2 ** ((Math.floor(i / 32) % 24) * 4 + smallest));
    x.set([Number.NaN, -0, 0.5, onFibers ? -1e-42 : 0], 64);
    x.fill(0, 96, 128);
    const y = to === F32 ? floats(count) : new Uint16Array(count);
    const want = y.slice();
    runReference("block_round", want, x, format, to, count);
    const bits = (a: Float32Array | Uint16Array) =>
      a instanceof Uint16Array ? a : new Uint32Array(a.buffer, a.byteOffset, count);
    expect(bits(runMetal("block_round", [y, x, format, to, count], 1)[0] as Uint16Array)).toEqual(bits(want));
    const placed = [onDevice(y), onDevice(x), format, to, count];
    for (const [at, wrong] of [
      ...[[0, null] as const, [1, null] as const, [2, F32] as const, [3, F64] as const],
      ...[[4, 33] as const, [4, -32] as const],
    ])
      expect(() => check(metal.psi_block_round!(...placed.map((a, i) => (i === at ? wrong : a))))).toThrow(
        "[psi_block_round] expected",
      );
  });
});
