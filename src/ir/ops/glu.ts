import { unexpected } from "../../core/error.ts";
import type { Op } from "../op.ts";
import { expectSpec, f32Spec, totalBytes } from "../spec.ts";

export const gluKinds = { silu: 0, gelu: 1, clamped: 2 } as const;

export type GluParams = {
  readonly kind: keyof typeof gluKinds;
  /** `clamped` only: slope of the sigmoid (1.702) and clamp limit (7) of GPT-OSS. */
  readonly alpha?: number;
  readonly limit?: number;
  /** Column at which `up` begins in rows wider than the gate's. */
  readonly upOffset?: number;
};

/** y = act(gate) * up. One input [T, 2F] holds gate in its first half and up in its second; two inputs are [T, F] each. */
export const glu: Op<GluParams> = {
  name: "glu",
  summary: "gated activations: SwiGLU, GeGLU and GPT-OSS's clamped SwiGLU",
  inputs: [{ name: "gate" }, { name: "up", optional: true }],
  params: ["kind", "alpha", "limit", "upOffset"],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "i32", "f32", "f32"],
  outputs([gate, up], p) {
    const [rows, width] = expectSpec("glu", gate, "f32", [-1, -1]).shape as [number, number];
    if (p.kind === "clamped" && (p.alpha === undefined || p.limit === undefined)) {
      throw unexpected("invalid_argument", "glu", "alpha and limit for the clamped kind", "none");
    }
    if (up) {
      const wide = p.upOffset !== undefined;
      const columns = expectSpec("glu up", up, "f32", [rows, wide ? -1 : width]).shape[1]!;
      if (wide && !(p.upOffset! >= 0 && p.upOffset! + width <= columns)) {
        throw unexpected(
          "invalid_argument",
          "glu",
          `columns of up to ${columns}`,
          `${width} at ${p.upOffset}`,
        );
      }
      return [f32Spec(rows, width)];
    }
    if (width % 2 !== 0) throw unexpected("invalid_argument", "glu", "rows of even width", width);
    return [f32Spec(rows, width / 2)];
  },
  cost: ([gate, up], _p, [y]) => ({
    flops: 8 * y!.shape[0]! * y!.shape[1]!,
    bytes: totalBytes(gate, up, y),
  }),
  arguments: ([y], [gate, up], p) => {
    const [rows, width] = y!.shape as [number, number];
    const both = up!.address === 0;
    const upAddress = both ? gate!.address + 4 * width : up!.address + 4 * (p.upOffset ?? 0);
    const stride = both ? 2 * width : width;
    const upStride = both ? stride : up!.shape[1]!;
    return [
      ...[y!.address, gate!.address, upAddress, rows, width, stride, upStride],
      ...[gluKinds[p.kind], p.alpha ?? 0, p.limit ?? 0],
    ];
  },
};
