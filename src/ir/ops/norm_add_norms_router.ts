import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";
import { type AddNormRouterParams, addNormRouter } from "./add_norm_router.ts";
import { routerModes } from "./router.ts";

/**
 * sum = x + RMS norm of delta times w (written over x); y and z: RMS norms of sum times yW and zW; expert ids and weights of the
 * router over a third one, times rW. Where `routesFused`. Twin: rms_norm, add_rms_norm, two rms_norm, matmul, router.
 */
export const normAddNormsRouter: Op<AddNormRouterParams> = {
  name: "norm_add_norms_router",
  summary: "norm and residual add of few tokens, two norms of the sum, choice of experts by a third",
  backends: ["cuda"],
  inputs: [
    ...[{ name: "x" }, { name: "delta" }, { name: "w" }, { name: "yW" }, { name: "zW" }, { name: "rW" }],
    ...[{ name: "router" }, { name: "expertScale", optional: true }],
  ],
  params: ["eps", "mode", "used", "normalize", "scale"],
  signature: [
    ...(["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "ptr"] as const),
    ...(["i32", "i32", "i32", "i32", "i32", "i32", "f32", "f32"] as const),
  ],
  inPlace: 0,
  outputs([x, delta, w, yW, zW, rW, router, expertScale], p) {
    const [sum, y, ids, weights] = addNormRouter.outputs([x, delta, rW, router, undefined], p);
    const [rows, width] = sum!.shape as [number, number];
    for (const norm of [w, yW, zW]) expectSpec("norm_add_norms_router norm", norm, "f32", [width]);
    if (expertScale) {
      expectSpec("norm_add_norms_router expertScale", expertScale, "f32", [router!.shape[0]!]);
    }
    return [sum!, y!, f32Spec(rows, width), ids!, weights!];
  },
  cost: ([x, delta, w, yW, zW, rW, router], _p, [sum, y, z]) => ({
    flops: 12 * x!.shape[0]! * x!.shape[1]! + 2 * x!.shape[0]! * router!.shape[0]! * router!.shape[1]!,
    bytes: totalBytes(x, delta, w, yW, zW, rW, router, sum, y, z),
  }),
  arguments: ([sum, y, z, ids, weights], [x, delta, w, yW, zW, rW, router, expertScale], p) => [
    ...[sum!.address, y!.address, z!.address, ids!.address, weights!.address, x!.address, delta!.address],
    ...[w!.address, yW!.address, zW!.address, rW!.address, router!.address, expertScale!.address],
    ...(x!.shape as [number, number]),
    ...[router!.shape[0]!, p.used, routerModes[p.mode], p.normalize ? 1 : 0, p.eps, p.scale],
  ],
};
