import type { Cost } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";

/** FLOPs and bytes moved by a program: in all, and by op. */
export function programCost(program: Program): {
  readonly total: Cost;
  readonly byOp: ReadonlyMap<string, Cost>;
} {
  const byOp = new Map<string, { flops: number; bytes: number }>();
  const total = { flops: 0, bytes: 0 };
  for (const { op, cost } of program.calls) {
    const sum = byOp.get(op) ?? { flops: 0, bytes: 0 };
    sum.flops += cost.flops;
    sum.bytes += cost.bytes;
    byOp.set(op, sum);
    total.flops += cost.flops;
    total.bytes += cost.bytes;
  }
  return { total, byOp };
}
