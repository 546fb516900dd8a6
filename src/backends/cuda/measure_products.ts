import { gemm } from "../../ir/ops/gemm.ts";
import { apply } from "../../runtime/apply.ts";
import type { Device } from "../../runtime/device.ts";
import { type Tensor, tensorBytes } from "../../runtime/tensor.ts";
import type { Cublaslt, ProductShape } from "./cublaslt.ts";

/** How long a product takes, milliseconds, and the algorithm of cuBLASLt that was timed; without one there is no time. */
export type MeasuredProduct = ProductShape & {
  readonly ownMs: number;
  readonly cublasltMs: number | null;
  readonly algorithm: string | null;
};

/** Of psionic's time, what cuBLASLt must stay below to be taken: less is within what measurements differ by. */
export const fasterShare = 0.97;

/** Whether a product goes to cuBLASLt. */
export const isFaster = ({ ownMs, cublasltMs }: MeasuredProduct): boolean =>
  cublasltMs !== null && cublasltMs < fasterShare * ownMs;

const samples = 5;
const sampleMs = 4;

/** Times each product by psionic's kernels and by cuBLASLt, on numbers made up; all shapes end with psionic's. */
export function measureProducts(
  device: Device,
  library: Cublaslt,
  shapes: readonly ProductShape[],
): MeasuredProduct[] {
  return shapes.map((shape) => {
    using operands = new Operands(device, shape);
    const ownMs = timed(device, operands);
    const algorithm = library.find(shape);
    if (algorithm === undefined) return { ...shape, ownMs, cublasltMs: null, algorithm: null };
    library.use(shape, algorithm);
    try {
      return { ...shape, ownMs, cublasltMs: timed(device, operands), algorithm };
    } finally {
      library.use(shape, undefined);
    }
  });
}

/** Median over samples of some milliseconds each. */
function timed(device: Device, operands: Operands): number {
  const run = (count: number): number => {
    device.backend.synchronize();
    const begun = performance.now();
    for (let i = 0; i < count; i++) operands.multiply();
    device.backend.synchronize();
    return (performance.now() - begun) / count;
  };
  run(1);
  const count = Math.max(1, Math.min(1000, Math.round(sampleMs / Math.max(run(1), 1e-3))));
  const times = Array.from({ length: samples }, () => run(count)).sort((a, b) => a - b);
  return times[samples >> 1]!;
}

/** Matrices of a product: bf16s of 1/8 to 2 in size, since zeros take less power, and so less time, than what is trained. */
export class Operands implements Disposable {
  readonly #device: Device;
  readonly #shape: ProductShape;
  readonly #a: Tensor;
  readonly #b: Tensor;
  readonly result: Tensor;

  constructor(device: Device, shape: ProductShape) {
    const { batch, m, n, k, transA, transB, dtype } = shape;
    this.#device = device;
    this.#shape = shape;
    const matrices = (rows: number, columns: number): readonly number[] =>
      batch > 1 ? [batch, rows, columns] : [rows, columns];
    this.#a = device.empty("bf16", transA ? matrices(k, m) : matrices(m, k));
    this.#b = device.empty("bf16", transB ? matrices(n, k) : matrices(k, n));
    this.result = device.empty(dtype, matrices(m, n));
    for (const t of [this.#a, this.#b]) fill(device, t);
  }

  multiply(): void {
    const { transA, transB, dtype } = this.#shape;
    using _scope = this.#device.scope();
    apply(gemm, [this.#a, this.#b, undefined, undefined], { transA, transB, dtype }, [this.result]);
  }

  [Symbol.dispose](): void {
    this.#device.backend.synchronize();
    for (const t of [this.#a, this.#b, this.result]) this.#device.free(t);
  }
}

/** A thousand times longer than the longest cycle of what tensor cores do at once. */
const blockBytes = 2 ** 20;

function fill(device: Device, t: Tensor): void {
  const words = new Uint16Array(new ArrayBuffer(blockBytes));
  let state = 2463534242;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    // a sign, and one of the 512 numbers from 1/8 on
    words[i] = ((state >>> 16) & 0x8000) | (0x3e00 + ((state >>> 4) & 0x1ff));
  }
  const bytes = new Uint8Array(words.buffer);
  const all = tensorBytes(t);
  for (let at = 0; at < all; at += blockBytes)
    device.backend.write(t.address + at, bytes.subarray(0, Math.min(blockBytes, all - at)));
}
