/** Products of training by cuBLASLt: by its stand-in on fibers, by the library itself on a device that has it. */

import type { Pointer } from "bun:ffi";
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { randomFloats } from "../cpu/library.ts";
import { runReference } from "../cpu/twins.ts";
import { check, cuda, deviceBytes, fromDevice, onDevice, onFibers } from "./library.ts";

const [F32, BF16, UNSUPPORTED] = [0, 30, 2];

const cString = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`);
const lastError = (): string => String((cuda.psi_last_error as unknown as () => string)());

/** bf16s that are small whole numbers, whose products and sums f32 holds exactly: no order of adding up can be told. */
function wholes(count: number, seed: number): { readonly bits: Uint16Array; readonly values: Float32Array } {
  const values = Float32Array.from(randomFloats(count, seed), (v) => Math.round(4 * v));
  const words = new Uint32Array(values.buffer);
  const bits = new Uint16Array(new ArrayBuffer(Math.max(2048, count * 2)), 0, count);
  for (let i = 0; i < count; i++) bits[i] = words[i]! >>> 16;
  return { bits, values };
}

async function standin(...more: string[]): Promise<string> {
  const library = join(mkdtempSync(join(tmpdir(), "psionic-cublaslt-")), "libcublaslt_standin.so");
  const source = join(import.meta.dir, "..", "standin", "cublaslt.cpp");
  const built = Bun.spawn([
    ...["g++", "-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror"],
    ...["-shared", "-fPIC", ...more, source, "-o", library],
  ]);
  expect(await built.exited).toBe(0);
  return library;
}

const version = new Float64Array(new ArrayBuffer(8));
const missing = cuda.psi_cublaslt_open!(cString("/nowhere/libcublasLt.so"), version);
const missingText = lastError();
const there = cuda.psi_cublaslt_open!(cString(onFibers ? await standin() : ""), version) === 0;

test("where there is none it is said so, and products are made without it", () => {
  expect(missing).toBe(UNSUPPORTED);
  expect(missingText).toMatch(/expected cuBLASLt .* to load, got: .*nowhere.* Install it, or name its file/);
});

describe.skipIf(!there)("cuBLASLt", () => {
  afterAll(() => check(cuda.psi_cublaslt_close!()));

  const algorithmFor = (sizes: readonly number[], type: number, scratch: number): Uint8Array => {
    const algorithm = new Uint8Array(new ArrayBuffer(2048), 0, 64);
    check(cuda.psi_cublaslt_find!(algorithm, ...sizes, type, scratch));
    return algorithm;
  };

  const product = (sizes: readonly number[], type: number, add: number, bias = false) => {
    const [batch, m, n, k] = sizes as [number, number, number, number];
    const [a, b, before] = [wholes(batch * m * k, 1), wholes(batch * n * k, 2), wholes(batch * m * n, 3)];
    const biases = bias ? randomFloats(n, 4) : null;
    const want = new Float32Array(new ArrayBuffer(Math.max(2048, batch * m * n * 4)), 0, batch * m * n);
    want.set(before.values);
    runReference("gemm", want, a.bits, b.bits, biases, null, ...sizes, BF16, BF16, F32, add, 0);
    const bytes = Math.ceil(n / 48) * 48 * k * 4;
    const scratch = deviceBytes(bytes);
    const c = onDevice(type === BF16 ? before.bits : before.values);
    const from = [onDevice(a.bits), onDevice(b.bits), biases && onDevice(biases), scratch] as const;
    const run = () => check(cuda.psi_gemm!(c, ...from, ...sizes, BF16, BF16, type, add, bytes));
    const results = (): Float32Array => {
      const raw = fromDevice(c, want.length * (type === BF16 ? 2 : 4));
      if (type === F32) return new Float32Array(raw.buffer, 0, want.length);
      return floatsOf(new Uint16Array(raw.buffer, 0, want.length));
    };
    return { run, results, want, before: before.values, scratch, bytes };
  };
  const floatsOf = (halves: Uint16Array): Float32Array =>
    new Float32Array(Uint32Array.from(halves, (b) => b << 16).buffer);
  const rounded = (values: Float32Array): Float32Array => {
    const words = new Uint32Array(Float32Array.from(values).buffer);
    return floatsOf(Uint16Array.from(words, (w) => (w + 0x7fff + ((w >>> 16) & 1)) >>> 16));
  };

  /** The stand-in leaves its mark in the first aligned place of its workspace. */
  const marked = (scratch: Pointer): boolean => {
    const aligned = (Math.ceil(Number(scratch) / 256) * 256) as Pointer;
    return fromDevice(aligned, 1024).every((byte) => byte === 0xff);
  };

  const shapes = [
    [1, 64, 72, 80],
    [1, 200, 64, 136],
    [3, 72, 80, 64],
  ] as const;
  test.each(shapes)(
    "%p x %p x %p x %p in all layouts, added or not, is the reference's",
    (batch, m, n, k) => {
      for (const layout of [0, 1, 2, 3]) {
        for (const [type, add] of [
          [F32, layout & 1],
          [BF16, layout >> 1],
        ] as const) {
          const sizes = [batch, m, n, k, layout & 1, layout >> 1];
          const p = product(sizes, type, add);
          const algorithm = algorithmFor(sizes, type, p.bytes);
          check(cuda.psi_cublaslt_use!(algorithm, ...sizes, type, p.bytes));
          p.run();
          const [got, want] = [p.results(), type === BF16 ? rounded(p.want) : p.want];
          // cuBLASLt itself rounds the product to bf16 before it is added, and the sum again
          if (onFibers || type !== BF16 || !add) expect(got).toEqual(want);
          else {
            const sizeOf = (i: number) => Math.abs(want[i]!) + Math.abs(p.before[i]!);
            for (const [i, v] of got.entries())
              expect(Math.abs(v - want[i]!)).toBeLessThanOrEqual(sizeOf(i) / 128);
          }
          if (onFibers) expect(marked(p.scratch)).toBe(true);
        }
      }
    },
  );

  test("other shapes, other layouts and products with a bias stay with psionic's kernels", () => {
    const sizes = [1, 64, 64, 64, 0, 1];
    const own = product(sizes, F32, 0);
    check(cuda.psi_cublaslt_use!(algorithmFor(sizes, F32, own.bytes), ...sizes, F32, own.bytes));
    const others = [
      product([1, 64, 64, 64, 0, 0], F32, 0),
      product([1, 64, 64, 128, 0, 1], F32, 0),
      product(sizes, BF16, 0),
      product(sizes, F32, 0, true),
    ];
    for (const p of others) {
      p.run();
      if (onFibers) expect(marked(p.scratch)).toBe(false);
    }
    own.run();
    if (onFibers) expect(marked(own.scratch)).toBe(true);
    check(cuda.psi_cublaslt_use!(null, ...sizes, F32, own.bytes));
    const back = product(sizes, F32, 0);
    back.run();
    expect(back.results()).toEqual(back.want);
    if (onFibers) expect(marked(back.scratch)).toBe(false);
  });

  test("a captured product is launched again with what lies there then", () => {
    const sizes = [1, 64, 80, 64, 1, 0];
    const p = product(sizes, F32, 1);
    check(cuda.psi_cublaslt_use!(algorithmFor(sizes, F32, p.bytes), ...sizes, F32, p.bytes));
    const graph = new BigUint64Array(new ArrayBuffer(8));
    check(cuda.psi_capture_begin!());
    p.run();
    check(cuda.psi_capture_end!(graph));
    const address = Number(graph[0]) as Pointer;
    check(cuda.psi_graph_launch!(address));
    expect(p.results()).toEqual(p.want);
    check(cuda.psi_graph_launch!(address));
    const added = wholes(64 * 80, 3).values;
    expect(p.results()).toEqual(p.want.map((v, i) => 2 * v - added[i]!));
    check(cuda.psi_graph_free!(address));
  });

  test("algorithms that it does not know, or that add up parts of k, are declined", () => {
    const sizes = [1, 64, 64, 64, 0, 0];
    const scratch = 96 * 64 * 4;
    const good = algorithmFor(sizes, F32, scratch);
    const use = (change: (words: BigUint64Array) => void): number => {
      const bytes = new Uint8Array(new ArrayBuffer(2048), 0, 64);
      bytes.set(good);
      change(new BigUint64Array(bytes.buffer, 0, 8));
      return cuda.psi_cublaslt_use!(bytes, ...sizes, F32, scratch);
    };
    expect(use((words) => words.fill(0xffffn))).toBe(UNSUPPORTED);
    if (onFibers) {
      expect(use((words) => (words[1] = 2n))).toBe(UNSUPPORTED); // parts
      expect(use((words) => (words[3] = 120805n))).toBe(UNSUPPORTED); // another version's
      expect(lastError()).toContain("expected an algorithm of cuBLASLt 130101");
    }
    expect(cuda.psi_cublaslt_find!(good, 1, 60, 64, 63, 0, 0, F32, scratch)).toBe(UNSUPPORTED);
    expect(lastError()).toContain("multiples of 8, got m 60, n 64, k 63");
  });
});
