import { unexpected } from "../../core/error.ts";
import type { Op, TensorSpec } from "../op.ts";
import { describe, expectSpec, f32Spec, i32Spec, totalBytes } from "../spec.ts";
import { type RouterParams, routerModes } from "./router.ts";

export type AddNormRouterParams = RouterParams & { readonly eps: number };

/** Rows for which one kernel beats four; more are worth a kernel each. */
const mostRows = 32;

/** Whether the fused op takes these: an F32 router of no more experts than columns, rows of 516 to 4096 in fours, few of them. */
export function routesFused(x: TensorSpec, router: TensorSpec): boolean {
  const [rows, width] = x.shape as [number, number];
  const fits = width > 512 && width <= 4096 && width % 4 === 0 && router.shape[0]! <= Math.min(1024, width);
  return fits && rows <= mostRows && router.dtype === "f32";
}

/**
 * sum = x + delta (written over x); y = RMS norm of sum times w; expert ids and weights of the router over y. The bits of
 * add_rms_norm, matmul and router one after the other.
 */
export const addNormRouter: Op<AddNormRouterParams> = {
  name: "add_norm_router",
  summary: "residual add, norm and choice of experts of few tokens",
  backends: ["cuda", "metal"],
  inputs: [
    ...[{ name: "x" }, { name: "delta" }, { name: "w" }, { name: "router" }],
    { name: "routerBias", optional: true },
  ],
  params: ["eps", "mode", "used", "normalize", "scale"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "f32", "f32"] as const),
  ],
  inPlace: 0,
  outputs([x, delta, w, router, bias], p) {
    const { shape } = expectSpec("add_norm_router", x, "f32", [-1, -1]);
    const [rows, width] = shape as [number, number];
    expectSpec("add_norm_router delta", delta, "f32", shape);
    expectSpec("add_norm_router w", w, "f32", [width]);
    if (!router?.packed || router.dtype !== "f32" || router.shape[1] !== width) {
      throw unexpected(
        "invalid_argument",
        "add_norm_router",
        `a packed f32 weight [E, ${width}]`,
        describe(router),
      );
    }
    const experts = router.shape[0]!;
    if (bias) expectSpec("add_norm_router bias", bias, "f32", [experts]);
    if (!(p.used >= 1 && p.used <= experts)) {
      throw unexpected("invalid_argument", "add_norm_router", `1..${experts} experts used`, p.used);
    }
    const rowsSpec = f32Spec(rows, width);
    return [rowsSpec, rowsSpec, i32Spec(rows, p.used), f32Spec(rows, p.used)];
  },
  cost: ([x, delta, w, router], _p, [sum, y]) => ({
    flops: 5 * x!.shape[0]! * x!.shape[1]! + 2 * x!.shape[0]! * router!.shape[0]! * router!.shape[1]!,
    bytes: totalBytes(x, delta, w, router, sum, y),
  }),
  arguments: ([sum, y, ids, weights], [x, delta, w, router, bias], p) => [
    ...[sum!.address, y!.address, ids!.address, weights!.address],
    ...[x!.address, delta!.address, w!.address, router!.address, bias!.address],
    ...(x!.shape as [number, number]),
    ...[router!.shape[0]!, p.used, routerModes[p.mode], p.normalize ? 1 : 0, p.eps, p.scale],
  ],
};
