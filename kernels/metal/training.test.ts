/** Training's kernels on Metal against the references, with the calls of the CPU's and CUDA's tests. */
import { describe, expect, test } from "bun:test";
import { floats } from "../cpu/library.ts";
import { calls } from "../cpu/training_calls.ts";
import { ints } from "../cpu/twins.ts";
import { path } from "./library.ts";
import {
  expectReference,
  expectRefusals,
  F32,
  runMetal,
  small,
  type TrainingCall,
} from "./training_calls.ts";

/** optimizers.test.ts has them, halves.test.ts the last. */
const elsewhere = [
  ...["cast", "fill", "sum", "spread", "sum_squares", "clip_factor", "adam", "sgd", "momentum"],
  ...["unit_norm", "muon_update", "block_round"],
];
/** Places of scratch that Metal's kernels do not use. */
const unused: Readonly<Record<string, number>> = { gemm: 4, grouped_gemm: 5 };
const own: readonly TrainingCall[] = calls
  .filter(({ name }) => !elsewhere.includes(name))
  .map((c) => (c.name in unused ? { ...c, optional: [...(c.optional ?? []), unused[c.name]!] } : c));
const titled = own.map((c, i) => [`${c.name} (${i})`, c] as const);

describe.skipIf(!path)("training on Metal", () => {
  test.each(titled)("%s is the reference's", (_title, call) => expectReference(call));
  test.each(titled)("%s refuses what it cannot do", (_title, call) => expectRefusals(call));

  test("ids out of range: rows of them are no numbers, and nothing is added anywhere", () => {
    const [table, ids] = [small(10 * 5), ints([3, -1, 10])];
    const [y] = runMetal("lookup", [floats(15), table, ids, 3, 5, 10, F32], 1) as [Float32Array];
    expect(y.subarray(0, 5)).toEqual(table.subarray(15, 20));
    expect(y.subarray(5).every(Number.isNaN)).toBeTrue();
    const dy = small(15, 4);
    const [dtable] = runMetal("lookup_grad", [table, dy, ids, 3, 5, 10, F32], 1) as [Float32Array];
    const want = table.slice();
    for (let i = 0; i < 5; i++) want[15 + i]! += dy[i]!;
    expect(dtable).toEqual(want);
  });
});
