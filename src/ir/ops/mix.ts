import { unexpected } from "../../core/error.ts";
import { elementCount } from "../../core/shape.ts";
import type { Op, PlacedSpec, TensorSpec } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";
import { cast } from "./cast.ts";

export type MixParams = {
  readonly alpha: number;
  readonly beta: number;
  /** Of the result; absent: bf16 where a and b are, else f32 (f64 where a is). */
  readonly dtype?: "f32" | "bf16";
};

function checked(
  a: TensorSpec | undefined,
  b: TensorSpec | undefined,
  wa: TensorSpec | undefined,
  wb: TensorSpec | undefined,
): TensorSpec {
  const spec = expectReal("mix a", a, a?.shape ?? []);
  if (b) expectReal("mix b", b, spec.shape, spec);
  if (wb && !b) throw unexpected("invalid_argument", "mix", "b where wb is given", "none");
  for (const w of [wa, wb]) if (w) expectReal("mix w", w, [spec.shape.at(-1) ?? 1], spec);
  return spec;
}

const shapeArguments = (a: PlacedSpec, code: number, p: MixParams): number[] => [
  ...[a.shape.at(-1) ?? 1, code, elementCount(a.shape), p.alpha, p.beta],
];

/** `passed`: a's gradient is dy itself and is not made. */
type MixGradParams = MixParams & { readonly passed?: boolean };

export const mixGrad: Op<MixGradParams> = {
  name: "mix_grad",
  summary: "gradient of mix; those of the scales per column are added",
  backends: trainingBackends,
  inputs: [
    ...[{ name: "dy" }, { name: "a" }, { name: "b", optional: true }, { name: "wa", optional: true }],
    ...[
      { name: "wb", optional: true },
      { name: "dwa", optional: true },
      { name: "dwb", optional: true },
    ],
  ],
  params: ["alpha", "beta", "passed"],
  signature: [...Array.from({ length: 9 }, () => "ptr" as const), "i32", "i32", "f64", "f64", "f64"],
  outputs([dy, a, b, wa, wb, dwa, dwb], p) {
    const spec = checked(a, b, wa, wb);
    expectReal("mix_grad dy", dy, spec.shape, spec);
    for (const w of [dwa, dwb]) if (w) expectReal("mix_grad dw", w, [spec.shape.at(-1) ?? 1], spec);
    const made = [p.passed ? undefined : spec, b].filter((t) => t !== undefined);
    return made.map(({ dtype, shape }) => plainSpec(dtype, ...shape));
  },
  cost: elementWise(4),
  arguments: (made, [dy, a, b, wa, wb, dwa, dwb], p) => {
    const [da, db] = p.passed ? [undefined, made[0]] : made;
    return [
      ...[da?.address ?? 0, db?.address ?? 0, dwa!.address, dwb!.address, dy!.address],
      ...[a!.address, b!.address, wa!.address, wb!.address],
      ...shapeArguments(a!, realCode(da, db, dwa, dwb, dy, a, b, wa, wb), p),
    ];
  },
};

/** y = alpha wa a + beta wb b, with scales per column wa, wb [D] or none, and b or none: residuals, skips, averages. */
export const mix: Op<MixParams> = {
  name: "mix",
  summary: "weighted sum of one or two tensors, by number and by column",
  backends: trainingBackends,
  inputs: [
    ...[{ name: "a" }, { name: "b", optional: true }],
    ...[
      { name: "wa", optional: true },
      { name: "wb", optional: true },
    ],
  ],
  params: ["alpha", "beta", "dtype"],
  signature: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "f64", "f64", "f64"],
  outputs([a, b, wa, wb], p) {
    const spec = checked(a, b, wa, wb);
    const narrow = spec.dtype === "bf16" && (b ?? spec).dtype === "bf16";
    return [plainSpec(p.dtype ?? (narrow ? "bf16" : wideType(spec)), ...spec.shape)];
  },
  cost: elementWise(3),
  saves: ["a", "b", "wa", "wb"],
  grad(f, [dy], { a, b, wa, wb }, p, { wanted, sum }) {
    if (!wa && !wb && p.alpha === 1 && (!b || p.beta === 1)) {
      // a plain sum passes its gradient on
      return [a, b].map((t, i) => {
        if (!t || !wanted(i)) return undefined;
        return t.dtype === dy!.dtype ? dy : f(cast, [dy], { dtype: t.dtype as "f32" | "bf16" })[0];
      });
    }
    const dwa = wanted(2) ? sum(2) : undefined;
    const dwb = wanted(3) ? sum(3) : undefined;
    const given = [dy, a, b, wa, wb, dwa, dwb];
    if (!wa && p.alpha === 1 && b && a!.dtype === dy!.dtype) {
      return [dy, ...f(mixGrad, given, { ...p, passed: true }), dwa, dwb];
    }
    const [da, db] = f(mixGrad, given, p);
    return [da, db, dwa, dwb];
  },
  arguments: ([y], [a, b, wa, wb], p) => [
    ...[y!.address, a!.address, b!.address, wa!.address, wb!.address],
    ...shapeArguments(a!, realCode(y, a, b, wa, wb), p),
  ],
};

/** y = a * b, element by element. */
export const multiply: Op<Record<string, never>> = {
  name: "multiply",
  summary: "element-wise product",
  backends: trainingBackends,
  inputs: [{ name: "a" }, { name: "b" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "f64"],
  outputs([a, b]) {
    const spec = expectReal("multiply a", a, a?.shape ?? []);
    const narrow = spec.dtype === "bf16" && expectReal("multiply b", b, spec.shape, spec).dtype === "bf16";
    return [plainSpec(narrow ? "bf16" : wideType(spec), ...spec.shape)];
  },
  cost: elementWise(1),
  saves: ["a", "b"],
  grad(f, [dy], { a, b }, _p, { wanted }) {
    const product = (other: typeof a) => f(multiply, [dy, other], {})[0];
    return [wanted(0) ? product(b) : undefined, wanted(1) ? product(a) : undefined];
  },
  arguments: ([y], [a, b]) => [y!.address, a!.address, b!.address, realCode(y, a, b), elementCount(a!.shape)],
};
