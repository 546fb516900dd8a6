/** Training's attention on Metal: heads of several tiles, documents packed into one sequence, bits that do not depend on neighbours. */
import { describe, expect, test } from "bun:test";
import { floats } from "../cpu/library.ts";
import { ints, runReference } from "../cpu/twins.ts";
import { path } from "./library.ts";
import { expectReference, F32, runMetal, scratch, small } from "./training_calls.ts";

/** [sequences, length, heads, key heads, head width, window] */
type Shape = readonly [number, number, number, number, number, number];

const inputs = ([sequences, length, heads, kvHeads, width]: Shape) => {
  const rows = sequences * length;
  return [
    small(rows * heads * width, 1),
    small(rows * kvHeads * width, 2),
    small(rows * kvHeads * width, 3),
  ] as const;
};

describe.skipIf(!path)("causal attention of training on Metal", () => {
  test.each([
    [1, 37, 2, 1, 72, 0],
    [2, 9, 1, 1, 256, 5],
    [1, 1, 2, 2, 3, 0],
  ] as const)("sequences %d of %d, heads %d of %d, width %d, window %d", (...given) => {
    const shape = given.slice(0, 6) as unknown as Shape;
    const [sequences, length, heads, kvHeads, width] = shape;
    const rows = sequences * length;
    const [wide, narrow] = [rows * heads * width, rows * kvHeads * width];
    const last = [...shape, F32, 0.1, 0];
    expectReference({
      name: "causal_attention",
      args: () => [floats(wide), floats(rows * heads), null, ...inputs(shape), null, null, ...last],
      outputs: 2,
      tolerance: 1e-5,
      sizes: [],
    });
    const [y, lse] = [floats(wide), floats(rows * heads)];
    runReference("causal_attention", y, lse, null, ...inputs(shape), null, null, ...last);
    const bytes = heads * (4 * rows + 8 * sequences);
    expectReference({
      name: "causal_attention_grad",
      args: () => [
        ...[floats(wide), floats(narrow), floats(narrow), null, small(wide, 5), ...inputs(shape), y, lse],
        ...[null, null, null, scratch(bytes), ...last, bytes],
      ],
      outputs: 3,
      tolerance: 2e-5,
      sizes: [],
    });
  });

  test("a sequence has the same bits alone and beside another", () => {
    const [both, one] = [
      [2, 20, 2, 1, 16, 0],
      [1, 20, 2, 1, 16, 0],
    ] as const;
    const first = ints(Array.from({ length: 40 }, (_, r) => (r % 20 > 7 ? 8 : 0)));
    const run = (shape: Shape): Float32Array => {
      const [sequences, length, heads, , width] = shape;
      const count = sequences * length * heads;
      const [q, k, v] = inputs(both);
      const last = [...shape, F32, 0.3, 2];
      const args = [floats(count * width), floats(count), null, q, k, v, small(heads, 4), first, ...last];
      return runMetal("causal_attention", args, 1)[0] as Float32Array;
    };
    const alone = run(one);
    expect(run(both).subarray(0, alone.length)).toEqual(alone);
  });
});
