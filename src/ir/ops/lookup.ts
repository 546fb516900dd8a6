import type { Op } from "../op.ts";
import { elementWise, expectReal, plainSpec, realCode, trainingBackends, wideType } from "../real.ts";
import { expectSpec } from "../spec.ts";

/** dtable[ids[t]] += dy[t], in the order of the tokens. */
export const lookupGrad: Op<Record<string, never>> = {
  name: "lookup_grad",
  summary: "gradient of lookup, added to the table's",
  backends: trainingBackends,
  inputs: [{ name: "dtable" }, { name: "dy" }, { name: "ids" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  inPlace: 0,
  outputs([dtable, dy, ids]) {
    const [vocabulary, width] = expectReal("lookup_grad dtable", dtable, [-1, -1]).shape as [number, number];
    const tokens = expectReal("lookup_grad dy", dy, [-1, width], dtable).shape[0]!;
    expectSpec("lookup_grad ids", ids, "i32", [tokens]);
    return [plainSpec(dtable!.dtype, vocabulary, width)];
  },
  cost: ([, dy]) => ({ flops: dy!.shape[0]! * dy!.shape[1]!, bytes: 12 * dy!.shape[0]! * dy!.shape[1]! }),
  arguments: ([dtable], [, dy, ids]) => [
    ...[dtable!.address, dy!.address, ids!.address, dy!.shape[0]!, dy!.shape[1]!],
    ...[dtable!.shape[0]!, realCode(dtable, dy)],
  ],
};

/** y[t] = table[ids[t]], in f32, from a plain table (f64 from an f64 one); `embedding` reads the tables of served models. */
export const lookup: Op<Record<string, never>> = {
  name: "lookup",
  summary: "rows of a table that is being trained",
  backends: trainingBackends,
  inputs: [{ name: "table" }, { name: "ids" }],
  params: [],
  signature: ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32"],
  outputs([table, ids]) {
    const width = expectReal("lookup", table, [-1, -1]).shape[1]!;
    const tokens = expectSpec("lookup ids", ids, "i32", [-1]).shape[0]!;
    return [plainSpec(wideType(table!), tokens, width)];
  },
  cost: elementWise(0),
  saves: ["ids"],
  grad(f, [dy], { ids }, _p, { wanted, sum }) {
    if (!wanted(0)) return [];
    f(lookupGrad, [sum(0), dy, ids], {});
    return [sum(0)];
  },
  arguments: ([y], [table, ids]) => [
    ...[y!.address, table!.address, ids!.address, y!.shape[0]!, y!.shape[1]!],
    ...[table!.shape[0]!, realCode(y, table)],
  ],
};
