import { expect, test } from "bun:test";
import { join } from "node:path";
import { ops } from "./ops/index.ts";
import { trainingOps } from "./ops/training.ts";

const read = (name: string): Promise<string> => Bun.file(join(import.meta.dir, "../../ffi", name)).text();
const header = await read("psionic.h");
const trainingHeader = await read("psionic_train.h");

/** Argument types of each prototype: pointers as `ptr`. */
const prototypes = new Map(
  [...`${header}\n${trainingHeader}`.matchAll(/PSI_API i32 (psi_\w+)\(([^)]*)\);/g)].map(([, name, list]) => [
    name!,
    list!.split(",").map((a) => (a.includes("*") ? "ptr" : a.trim().split(/\s+/)[0]!)),
  ]),
);

test.each(ops.map((op) => [op.name, op] as const))(
  "%s: the header's prototype has the op's signature",
  (name, op) => {
    expect(prototypes.get(`psi_${name}`)).toEqual([...op.signature]);
  },
);

test("every op has a reference of the same signature, and no op is missing from the table", () => {
  // an op that only some backends have is a fusion: its reference is the plain ops it stands for
  for (const op of ops.filter(({ backends }) => !backends)) {
    expect(prototypes.get(`psi_${op.name}_ref`)).toEqual([...op.signature]);
  }
  for (const op of trainingOps.filter(({ backends }) => backends?.includes("cpu"))) {
    expect(prototypes.get(`psi_${op.name}_ref`)).toEqual([...op.signature]);
  }
  const section = `${header.slice(header.indexOf("/* ---- ops ---- */"), header.indexOf("_ref("))}\n${trainingHeader}`;
  const named = [...section.matchAll(/PSI_API i32 psi_(\w+)\(/g)]
    .map((m) => m[1]!)
    .filter((n) => !n.endsWith("_ref"));
  const inTable = new Set(ops.map((op) => op.name));
  expect(named.filter((n) => !inTable.has(n) && !n.startsWith("dequantize"))).toEqual([]);
});

test("pointers come first, then i32 sizes, then scalars", () => {
  const rank = { ptr: 0, i32: 1, f32: 2, f64: 2 } as const;
  for (const op of ops) {
    const ranks = op.signature.map((t) => rank[t]);
    expect(ranks).toEqual([...ranks].sort((a, b) => a - b));
    expect(op.signature.length).toBeLessThanOrEqual(32);
  }
});
