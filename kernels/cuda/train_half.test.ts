/** Training's kernels on bf16 tensors, against the CPU's plain loops on the same numbers. */

import type { Pointer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { ints, runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, fromDevice, onDevice } from "./library.ts";

const [F32, BF16, MIXED] = [0, 30, 256];

type Halves = { readonly bits: Uint16Array; readonly values: Float32Array };

/** Numbers as bf16, and those as f32. */
function rounded(numbers: Float32Array): Halves {
  const count = numbers.length;
  const values = floats(count);
  values.set(numbers);
  const words = new Uint32Array(values.buffer, values.byteOffset, count);
  const bits = new Uint16Array(new ArrayBuffer(Math.max(2048, count * 2)), 0, count);
  for (let i = 0; i < count; i++) {
    const w = words[i]!;
    bits[i] = (w + 0x7fff + ((w >>> 16) & 1)) >>> 16;
    words[i] = bits[i]! << 16;
  }
  return { bits, values };
}
/** bf16s of a range. */
const halves = (count: number, seed: number, scale = 0.5): Halves =>
  rounded(randomFloats(count, seed).map((v) => v * scale));

function halvesFrom(address: Pointer, count: number): Float32Array {
  const raw = fromDevice(address, count * 2);
  const bits = new Uint16Array(raw.buffer, 0, count);
  const out = floats(count);
  new Uint32Array(out.buffer, out.byteOffset, count).set(Uint32Array.from(bits, (b) => b << 16));
  return out;
}
const floatsFrom = (address: Pointer, count: number): Float32Array =>
  new Float32Array(fromDevice(address, count * 4).buffer, 0, count);

/** Root of the mean squared difference over that of `want`. */
function relative(got: Float32Array, want: Float32Array): number {
  let [error, size] = [0, 1e-12];
  for (let i = 0; i < want.length; i++) {
    error += (got[i]! - want[i]!) ** 2;
    size += want[i]! ** 2;
  }
  return Math.sqrt(error / size);
}

/** A result rounded to bf16, and sums of products of such roundings. */
const tolerance = 6e-3;

describe("matrix products", () => {
  const shapes = [
    // Hopper's form: whole tiles, parts of tiles, k cut into parts, several matrices
    { batch: 1, m: 128, n: 256, k: 128 },
    { batch: 1, m: 200, n: 328, k: 200 },
    { batch: 1, m: 64, n: 64, k: 1088 },
    { batch: 2, m: 72, n: 80, k: 64 },
    // the other form: sides that no tensor map describes
    { batch: 2, m: 19, n: 101, k: 70 },
  ] as const;
  const layouts = [0, 1, 2, 3];
  test.each(shapes)("%p in all layouts", ({ batch, m, n, k }) => {
    for (const layout of layouts) {
      const [transA, transB] = [layout & 1, layout >> 1];
      const [a, b, bias] = [halves(batch * m * k, 1), halves(batch * n * k, 2), randomFloats(n, 3)];
      // bf16 with a bias, f32 added to what is there, bf16 added
      for (const [type, add] of layout === 0
        ? ([
            [BF16, 0],
            [F32, 1],
            [BF16, 1],
          ] as const)
        : ([[F32, layout & 1]] as const)) {
        const before = halves(batch * m * n, 4);
        const want = before.values.slice();
        const scratch = Math.ceil(n / 48) * 48 * k * 4;
        const sizes = [batch, m, n, k, transA, transB];
        runReference("gemm", want, a.bits, b.bits, bias, null, ...sizes, BF16, BF16, F32, add, 0);
        const c = onDevice(type === BF16 ? before.bits : before.values);
        const args = [c, onDevice(a.bits), onDevice(b.bits), onDevice(bias), deviceBytes(scratch), ...sizes];
        check(cuda.psi_gemm!(...args, BF16, BF16, type, add, scratch));
        const got = type === BF16 ? halvesFrom(c, want.length) : floatsFrom(c, want.length);
        expect(relative(got, want)).toBeLessThan(type === BF16 ? tolerance : 1e-5);
      }
    }
  });

  test("an f32 side is rounded, and experts' rows are theirs alone", () => {
    const [m, n, k] = [40, 48, 64];
    const [a, b] = [halves(m * k, 1), halves(n * k, 2)];
    const want = floats(m * n);
    runReference("gemm", want, a.values, b.bits, null, null, 1, m, n, k, 0, 1, F32, BF16, F32, 0, 0);
    const c = deviceBytes(m * n * 4);
    check(
      cuda.psi_gemm!(
        c,
        onDevice(a.values),
        onDevice(b.bits),
        null,
        null,
        1,
        m,
        n,
        k,
        0,
        1,
        F32,
        BF16,
        F32,
        0,
        0,
      ),
    );
    expect(relative(floatsFrom(c, m * n), want)).toBeLessThan(1e-5);

    const [rows, experts, outputs, columns] = [23, 3, 50, 40];
    const starts = ints([0, 5, 5, rows]);
    for (const mode of [0, 1, 2]) {
      const x = halves(rows * (mode === 0 ? columns : outputs), 5);
      const w = halves(mode === 2 ? rows * columns : experts * outputs * columns, 6);
      const count = mode === 0 ? rows * outputs : mode === 1 ? rows * columns : experts * outputs * columns;
      const expected = floats(count);
      const shape = [mode, rows, experts, outputs, columns];
      runReference("grouped_gemm", expected, x.values, w.values, null, starts, null, ...shape, F32, 0);
      const half = mode !== 2;
      const y = deviceBytes(count * 4);
      check(
        cuda.psi_grouped_gemm!(
          y,
          onDevice(x.bits),
          onDevice(w.bits),
          null,
          onDevice(starts),
          null,
          ...shape,
          MIXED + (half ? 7 : 6),
          0,
        ),
      );
      const got = half ? halvesFrom(y, count) : floatsFrom(y, count);
      expect(relative(got, expected)).toBeLessThan(half ? tolerance : 1e-5);
    }
  });
});

describe("attention", () => {
  const one = { sequences: 1, heads: 2, kvHeads: 1 };
  const several = { sequences: 2, heads: 4, kvHeads: 2 };
  const cases = [
    { ...one, length: 150, headDim: 64, window: 0, softcap: 0, documents: false, sinks: false },
    { ...one, length: 200, headDim: 64, window: 70, softcap: 0, documents: false, sinks: true },
    { ...several, length: 130, headDim: 64, window: 0, softcap: 0, documents: true, sinks: true },
    { ...one, length: 66, headDim: 64, window: 0, softcap: 5, documents: false, sinks: false },
    { ...one, length: 130, headDim: 20, window: 40, softcap: 3, documents: true, sinks: true },
    { ...one, length: 70, headDim: 128, window: 0, softcap: 0, documents: false, sinks: true },
    { ...several, length: 70, headDim: 20, window: 40, softcap: 3, documents: true, sinks: true },
  ];
  test.each(cases)("%p", (given) => {
    const { sequences, heads, kvHeads, length, headDim, window, softcap, documents, sinks } = given;
    const rows = sequences * length;
    const [wide, narrow] = [rows * heads * headDim, rows * kvHeads * headDim];
    const [q, k, v, dy] = [halves(wide, 1), halves(narrow, 2), halves(narrow, 3), halves(wide, 4)];
    const first = documents ? ints(Array.from({ length: rows }, (_, r) => (r % length > 40 ? 40 : 0))) : null;
    const sink = sinks ? randomFloats(heads, 5) : null;
    const shape = [sequences, length, heads, kvHeads, headDim, window];
    const scale = headDim ** -0.5;
    const [y, lse] = [floats(wide), floats(rows * heads)];
    const ends = [sink, first, ...shape, F32, scale, softcap] as const;
    runReference("causal_attention", y, lse, null, q.values, k.values, v.values, ...ends);
    const at = { q: onDevice(q.bits), k: onDevice(k.bits), v: onDevice(v.bits), dy: onDevice(dy.bits) };
    const [sinkAt, firstAt] = [sink && onDevice(sink), first && onDevice(first)];
    const [yAt, lseAt] = [deviceBytes(wide * 2), deviceBytes(rows * heads * 4)];
    const endsAt = [sinkAt, firstAt, ...shape, MIXED + 0b111101, scale, softcap] as const;
    check(cuda.psi_causal_attention!(yAt, lseAt, null, at.q, at.k, at.v, ...endsAt));
    expect(relative(halvesFrom(yAt, wide), y)).toBeLessThan(tolerance);
    expect(relative(floatsFrom(lseAt, rows * heads), lse)).toBeLessThan(1e-4);

    const [dq, dk, dv, dsinks] = [floats(wide), floats(narrow), floats(narrow), floats(heads)];
    const wanted = sink ? dsinks : null;
    // the rest is as large as y, so that one that is not added would be seen; with sinks alone, for it may be absent
    const [made, rest] = [rounded(y), sink && halves(wide, 6, 0.1)];
    const passed = [dy.values, q.values, k.values, v.values, made.values, lse, rest?.values ?? null] as const;
    runReference(
      "causal_attention_grad",
      ...[dq, dk, dv, wanted, ...passed, sink, first, null],
      ...[...shape, F32, scale, softcap, 0],
    );
    const bytes = heads * sequences * 8 * (64 * Math.ceil(length / 64) + 1);
    const [madeAt, restAt] = [onDevice(made.bits), rest && onDevice(rest.bits)];
    const inputs = [at.dy, at.q, at.k, at.v, madeAt, lseAt, restAt, sinkAt, firstAt, deviceBytes(bytes)];
    const call = (code: number, ...outputs: readonly (Pointer | null)[]) =>
      cuda.psi_causal_attention_grad!(...outputs, ...inputs, ...shape, MIXED + code, scale, softcap, bytes);
    for (const [code, from] of [
      [0b10111110111, halvesFrom],
      // dq and dk not rounded
      [0b10111110100, floatsFrom],
    ] as const) {
      const [dqAt, dkAt, dvAt] = [deviceBytes(wide * 4), deviceBytes(narrow * 4), deviceBytes(narrow * 2)];
      const dsAt = sink && deviceBytes(heads * 4);
      check(call(code, dqAt, dkAt, dvAt, dsAt));
      expect(relative(from(dqAt, wide), dq)).toBeLessThan(2 * tolerance);
      expect(relative(from(dkAt, narrow), dk)).toBeLessThan(2 * tolerance);
      expect(relative(halvesFrom(dvAt, narrow), dv)).toBeLessThan(2 * tolerance);
      if (dsAt) expect(relative(floatsFrom(dsAt, heads), dsinks)).toBeLessThan(2 * tolerance);
    }
    const refused = "expected q, k, v, y, its rest and their gradients of one type";
    for (const code of [0b10111110101, 0b00000000011])
      expect(() => check(call(code, at.q, at.k, at.v, null))).toThrow(refused);
  });

  // queries of zeros: every weight before division is 1, which bf16 has, so that y alone is rounded
  test.each(cases)("y and what rounding took from it, %p", (given) => {
    const { sequences, heads, kvHeads, length, headDim, window, softcap, documents, sinks } = given;
    const rows = sequences * length;
    const [wide, narrow] = [rows * heads * headDim, rows * kvHeads * headDim];
    const [k, v] = [halves(narrow, 2), halves(narrow, 3)];
    const first = documents ? ints(Array.from({ length: rows }, (_, r) => (r % length > 40 ? 40 : 0))) : null;
    const sink = sinks ? randomFloats(heads, 5).map((s) => -Math.abs(s)) : null;
    const [want, lse] = [floats(wide), floats(rows * heads)];
    const ends = [first, sequences, length, heads, kvHeads, headDim, window] as const;
    runReference(
      "causal_attention",
      ...[want, lse, null, floats(wide).fill(0), k.values, v.values, sink, ...ends, F32, 1, softcap],
    );
    const [yAt, restAt] = [deviceBytes(wide * 2), deviceBytes(wide * 2)];
    const inputs = [new Uint16Array(wide), k.bits, v.bits].map((t) => onDevice(t));
    const last = [sink && onDevice(sink), first && onDevice(first), ...ends.slice(1)] as const;
    check(
      cuda.psi_causal_attention!(
        ...[yAt, deviceBytes(rows * heads * 4), restAt, ...inputs, ...last, MIXED + 0b111101, 1, softcap],
      ),
    );
    const [y, rest] = [halvesFrom(yAt, wide), halvesFrom(restAt, wide)];
    // sums of values have errors of their size, some 0.1, however small they are
    const off = (got: number, i: number): number => Math.abs(got - want[i]!) / (0.1 + Math.abs(want[i]!));
    expect(Math.max(...y.map((v, i) => off(v, i)))).toBeGreaterThan(2 ** -11);
    expect(Math.max(...y.map((v, i) => off(v + rest[i]!, i)))).toBeLessThan(2 ** -16);
  });
});

test.each([0, 5])("the loss of a head, soft-cap %p", (softcap) => {
  const [tokens, width, vocabulary] = [70, 72, 301];
  const [x, w, bias, dloss] = [
    halves(tokens * width, 1),
    halves(vocabulary * width, 2),
    randomFloats(vocabulary, 3),
    randomFloats(tokens, 4),
  ];
  const targets = ints(Array.from({ length: tokens }, (_, t) => (t === 3 ? -1 : (t * 31) % vocabulary)));
  const [loss, lse] = [floats(tokens), floats(tokens)];
  const shape = [tokens, width, vocabulary];
  runReference(
    "cross_entropy",
    loss,
    lse,
    x.values,
    w.values,
    bias,
    targets,
    null,
    ...shape,
    F32,
    softcap,
    0,
  );
  // room for fewer rows of logits than there are
  const bytes = 320 * 2 * 40;
  const [lossAt, lseAt, scratch] = [deviceBytes(tokens * 4), deviceBytes(tokens * 4), deviceBytes(bytes)];
  const inputs = [onDevice(x.bits), onDevice(w.bits), onDevice(bias), onDevice(targets)] as const;
  check(cuda.psi_cross_entropy!(lossAt, lseAt, ...inputs, scratch, ...shape, MIXED + 0b1100, softcap, bytes));
  expect(relative(floatsFrom(lossAt, tokens), loss)).toBeLessThan(2e-3);
  expect(relative(floatsFrom(lseAt, tokens), lse)).toBeLessThan(2e-3);
  const [dx, dw, dbias] = [floats(tokens * width), floats(vocabulary * width), floats(vocabulary)];
  runReference(
    "cross_entropy_grad",
    dx,
    dw,
    dbias,
    dloss,
    x.values,
    w.values,
    bias,
    targets,
    lse,
    null,
    ...shape,
    F32,
    softcap,
    0,
  );
  const [dxAt, dwAt, dbiasAt] = [
    deviceBytes(dx.length * 2),
    deviceBytes(dw.length * 4),
    deviceBytes(dbias.length * 4),
  ];
  const [xAt, wAt, biasAt, targetsAt] = inputs;
  const places = [dxAt, dwAt, dbiasAt, onDevice(dloss), xAt, wAt, biasAt, targetsAt, lseAt, scratch];
  check(cuda.psi_cross_entropy_grad!(...places, ...shape, MIXED + 0b110001, softcap, bytes));
  expect(relative(halvesFrom(dxAt, dx.length), dx)).toBeLessThan(2 * tolerance);
  expect(relative(floatsFrom(dwAt, dw.length), dw)).toBeLessThan(2 * tolerance);
  expect(relative(floatsFrom(dbiasAt, dbias.length), dbias)).toBeLessThan(2 * tolerance);
});

test("the loss of a head with its gradient is the two steps' of its own", () => {
  const [tokens, width, vocabulary, softcap, scale] = [70, 72, 301, 5, 0.25];
  const [x, w] = [halves(tokens * width, 1), halves(vocabulary * width, 2)];
  const targets = ints(Array.from({ length: tokens }, (_, t) => (t === 3 ? -1 : (t * 31) % vocabulary)));
  const [loss, lse] = [floats(tokens), floats(tokens)];
  const shape = [tokens, width, vocabulary];
  runReference(
    "cross_entropy",
    loss,
    lse,
    x.values,
    w.values,
    null,
    targets,
    null,
    ...shape,
    F32,
    softcap,
    0,
  );
  const [dx, dw] = [floats(tokens * width), floats(vocabulary * width)];
  const dloss = new Float32Array(512).fill(scale);
  runReference(
    "cross_entropy_grad",
    ...[dx, dw, null, dloss, x.values, w.values, null, targets, lse, null],
    ...[...shape, F32, softcap, 0],
  );
  const rows = 32;
  const bytes = 320 + rows * 320 * 2 + rows * width * 8;
  const [lossAt, dxAt, dwAt] = [deviceBytes(4), deviceBytes(dx.length * 2), deviceBytes(dw.length * 4)];
  const inputs = [onDevice(x.bits), onDevice(w.bits), onDevice(targets), deviceBytes(bytes)];
  check(cuda.psi_head_loss!(lossAt, dxAt, dwAt, ...inputs, ...shape, rows, scale, softcap, bytes));
  const total = loss.reduce((a, b) => a + b, 0) * scale;
  expect(Math.abs(floatsFrom(lossAt, 1)[0]! / total - 1)).toBeLessThan(1e-3);
  expect(relative(halvesFrom(dxAt, dx.length), dx)).toBeLessThan(2 * tolerance);
  expect(relative(floatsFrom(dwAt, dw.length), dw)).toBeLessThan(2 * tolerance);
  const sum = onDevice(dw);
  check(
    cuda.psi_scale_by!(
      sum,
      dwAt,
      onDevice(Float32Array.of(-1, ...new Array(511).fill(0))),
      1,
      F32,
      dw.length,
    ),
  );
  const left = floatsFrom(sum, dw.length).map(Math.abs);
  expect(Math.max(...left)).toBeLessThan(0.1 * Math.max(...dw.map(Math.abs)));
});

test.each([44, 45, 200, 603])("the gradient of a norm of rows of %p, added to what is there", (width) => {
  const rows = 37;
  const count = rows * width;
  const [dy, x, w] = [halves(count, 1), randomFloats(count, 2), randomFloats(width, 3)];
  const stats = floats(2 * rows);
  runReference("norm", floats(count), stats, x, w, null, rows, width, 1, F32, 1e-5);
  const start = [randomFloats(count, 4), randomFloats(width, 5), randomFloats(width, 6)] as const;
  const want = start.map((a) => a.slice()) as [Float32Array, Float32Array, Float32Array];
  runReference("norm_grad", ...want, dy.values, x, w, stats, rows, width, 3, F32);
  const got = start.map((a) => onDevice(a));
  const inputs = [onDevice(dy.bits), onDevice(x), onDevice(w), onDevice(stats)];
  check(cuda.psi_norm_grad!(...got, ...inputs, rows, width, 3, MIXED + 8));
  for (const [i, expected] of want.entries())
    expect(relative(floatsFrom(got[i]!, expected.length), expected)).toBeLessThan(1e-5);
});

test("element-wise ops, norms and lookups take both types side by side", () => {
  const [rows, width] = [9, 44];
  const count = rows * width;
  const [a, b, w] = [halves(count, 1), halves(count, 2), randomFloats(width, 3)];
  const [at, bt, wt] = [onDevice(a.bits), onDevice(b.bits), onDevice(w)];
  const compared = (
    name: string,
    halfResult: boolean,
    reference: (y: Float32Array) => void,
    call: (y: Pointer) => number,
  ) => {
    const [want, y] = [floats(count), deviceBytes(count * 4)];
    reference(want);
    check(call(y));
    const got = halfResult ? halvesFrom(y, count) : floatsFrom(y, count);
    if (!(relative(got, want) < (halfResult ? 4e-3 : 1e-5)))
      throw new Error(`${name}: ${relative(got, want)}`);
  };
  for (const half of [0, 1]) {
    compared(
      "mix",
      half === 1,
      (y) => runReference("mix", y, a.values, b.values, w, null, width, F32, count, 0.5, 2),
      (y) => cuda.psi_mix!(y, at, bt, wt, null, width, MIXED + 6 + half, count, 0.5, 2),
    );
    compared(
      "norm",
      half === 1,
      (y) => runReference("norm", y, floats(2 * rows), a.values, w, null, rows, width, 1, F32, 1e-5),
      (y) => cuda.psi_norm!(y, deviceBytes(8 * rows), at, wt, null, rows, width, 1, MIXED + 4 + half, 1e-5),
    );
    compared(
      "activation",
      half === 1,
      (y) => runReference("activation", y, a.values, b.values, 0, F32, count, 0, 0),
      (y) => cuda.psi_activation!(y, at, bt, 0, MIXED + 6 + half, count, 0, 0),
    );
  }
  const ids = ints([3, 1, 3, 0, 2, 1, 8, 3, 3]);
  compared(
    "lookup",
    false,
    (y) => runReference("lookup", y, a.values, ids, rows, width, rows, F32),
    (y) => cuda.psi_lookup!(y, at, onDevice(ids), rows, width, rows, MIXED + 2),
  );
  const positions = ints(Array.from({ length: rows }, (_, i) => 7 * i));
  const frequencies = randomFloats(5, 6);
  for (const half of [0, 1])
    for (const [x, given] of [
      [at, 2],
      [onDevice(a.values), 0],
    ] as const)
      compared(
        "rotate",
        half === 1,
        (y) => runReference("rotate", y, a.values, positions, frequencies, rows, 4, 11, 10, 1, 0, F32, 1),
        (y) => {
          const tables = [onDevice(positions), onDevice(frequencies)];
          const code = given + half === 0 ? F32 : MIXED + given + half;
          return cuda.psi_rotate!(y, x, ...tables, rows, 4, 11, 10, 1, 0, code, 1);
        },
      );
});
