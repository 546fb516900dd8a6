import { unexpected } from "../../core/error.ts";
import { elementCount } from "../../core/shape.ts";
import type { ApplyOp, Op, TensorSpec } from "../op.ts";
import { plainSpec, trainingBackends } from "../real.ts";
import { describe, dtypeCode, expectSpec, totalBytes } from "../spec.ts";
import { cast } from "./cast.ts";
import { columnSum } from "./column_sum.ts";

export type GemmParams = {
  readonly transA: boolean;
  readonly transB: boolean;
  /** Of the result; f64 only where a and b are. */
  readonly dtype: "f32" | "bf16" | "f64";
};

const panel = 48;

type Sizes = { readonly batch: number; readonly m: number; readonly n: number; readonly k: number };

function sizes(a: TensorSpec | undefined, b: TensorSpec | undefined, p: GemmParams): Sizes {
  const rank = a?.shape.length ?? 0;
  if (!a || !b || (rank !== 2 && rank !== 3) || b.shape.length !== rank || a.packed || b.packed) {
    throw unexpected(
      "invalid_argument",
      "gemm",
      "two matrices, or as many of each",
      `${describe(a)}, ${describe(b)}`,
    );
  }
  const [m, k] = (p.transA ? [a.shape.at(-1), a.shape.at(-2)] : a.shape.slice(-2)) as [number, number];
  const [inner, n] = (p.transB ? [b.shape.at(-1), b.shape.at(-2)] : b.shape.slice(-2)) as [number, number];
  const batch = rank === 3 ? a.shape[0]! : 1;
  if (inner !== k || (rank === 3 && b.shape[0] !== batch)) {
    throw unexpected("invalid_argument", "gemm", `an inner size of ${k}`, `${describe(a)}, ${describe(b)}`);
  }
  return { batch, m, n, k };
}

/** c = a' b' (+ bias), with a' = a or its transpose and b' likewise; rank 3: one product per matrix. */
export const gemm: Op<GemmParams> = {
  name: "gemm",
  summary: "product of unpacked matrices, either transposed, for training",
  backends: trainingBackends,
  inputs: [{ name: "a" }, { name: "b" }, { name: "bias", optional: true }, { name: "c", optional: true }],
  params: ["transA", "transB", "dtype"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", ...Array.from({ length: 10 }, () => "i32" as const), "f64"],
  outputs([a, b, bias, c], p) {
    const { batch, m, n } = sizes(a, b, p);
    const wide = p.dtype === "f64";
    if ((a!.dtype === "f64") !== wide || (b!.dtype === "f64") !== wide) {
      throw unexpected("invalid_argument", "gemm", "f64 for all or none", `${describe(a)}, ${describe(b)}`);
    }
    if (bias) expectSpec("gemm bias", bias, wide ? "f64" : "f32", [n]);
    const shape = a!.shape.length === 3 ? [batch, m, n] : [m, n];
    if (c) expectSpec("gemm c", c, p.dtype, shape);
    return [plainSpec(p.dtype, ...shape)];
  },
  scratchBytes([a, b], p) {
    const { n, k } = sizes(a, b, p);
    return p.dtype === "f64" ? 0 : Math.ceil(n / panel) * panel * k * 4;
  },
  cost([a, b, bias], p, [c]) {
    const { batch, m, n, k } = sizes(a, b, p);
    return { flops: 2 * batch * m * n * k, bytes: totalBytes(a, b, bias, c) };
  },
  saves: ["a", "b"],
  grad(f, [dc], { a, b }, p, { wanted, sum, place }) {
    const [da, db] = [0, 1].map((i) => (wanted(i) ? place(i) : undefined));
    // where gradients are bf16 both products round dc, as slower ones than of bf16 alone; narrow ones (a router's) are slow anyway
    const wide = dc!.dtype === "f32" && dc!.shape.at(-1)! >= 64;
    const d =
      wide && b!.dtype === "bf16" && da?.into.dtype === "bf16" ? f(cast, [dc], { dtype: "bf16" })[0]! : dc!;
    // each operand's gradient is dc times the other, transposed as it was
    if (da) {
      if (p.transA) product(f, b!, d, p.transB, true, da);
      else product(f, d, b!, false, !p.transB, da);
    }
    if (db) {
      if (p.transB) product(f, d, a!, true, p.transA, db);
      else product(f, a!, d, !p.transA, false, db);
    }
    if (wanted(2)) f(columnSum, [sum(2), dc, undefined], {});
    return [da?.into, db?.into, wanted(2) ? sum(2) : undefined];
  },
  arguments([out], [a, b, bias, c], p, scratch) {
    const { batch, m, n, k } = sizes(a, b, p);
    return [
      ...[out!.address, a!.address, b!.address, bias!.address, scratch.address, batch, m, n, k],
      ...[p.transA ? 1 : 0, p.transB ? 1 : 0, dtypeCode(a!), dtypeCode(b!), dtypeCode(out!)],
      ...[c!.address !== 0 && elementCount(c!.shape) > 0 ? 1 : 0, scratch.bytes],
    ];
  },
};

/** The same, added to its input c. */
export const gemmAdd: Op<GemmParams> = { ...gemm, inPlace: 3 };

function product<T extends TensorSpec>(
  f: ApplyOp<T>,
  a: T,
  b: T,
  transA: boolean,
  transB: boolean,
  { into, add }: { readonly into: T; readonly add: boolean },
): void {
  const params = { transA, transB, dtype: into.dtype as GemmParams["dtype"] };
  if (add) f(gemmAdd, [a, b, undefined, into], params);
  else f(gemm, [a, b, undefined, undefined], params, [into]);
}
