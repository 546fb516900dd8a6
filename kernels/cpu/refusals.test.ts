import { expect, test } from "bun:test";
import { floats, opened } from "./library.ts";
import { ints, run } from "./twins.ts";

const f = () => floats(4096);
const i = () => ints(Array(16).fill(0));

/**
 * A call of each op that is good, the pointers that may be null, and the sizes (by place) of which -1 must be refused.
 * All arrays are long enough for what the good call reads and writes.
 */
const calls: readonly [
  name: string,
  args: () => (number | ArrayBufferView | null)[],
  optional: number[],
  sizes: number[],
][] = [
  ["router", () => [i(), f(), f(), null, null, 2, 4, 2, 1, 1, 1], [3, 4], [5, 6, 7, 8]],
  ["moe_combine", () => [f(), f(), f(), 2, 2, 16], [], [3, 4, 5]],
  ["rms_norm", () => [f(), f(), f(), 2, 32, 0, 2, 16, 1e-5], [2], [3, 4, 5, 6, 7]],
  ["add_rms_norm", () => [f(), f(), f(), f(), f(), 2, 32, 1e-5], [], [5, 6]],
  ["rope", () => [f(), i(), f(), 2, 64, 0, 2, 32, 32, 1, 1], [], [3, 4, 5, 6, 7, 8]],
  ["glu", () => [f(), f(), f(), 2, 16, 16, 16, 0, 1, 1], [], [3, 4, 5, 6, 7]],
  ["add", () => [f(), f(), f(), 16], [], [3]],
  ["add_scaled", () => [f(), f(), f(), 16, 0.5], [], [3]],
  [
    "causal_conv1d",
    () => [f(), f(), f(), f(), i(), i(), i(), 1, 16, 0, 16, 4, 1, 2],
    [],
    [7, 8, 9, 10, 11, 12, 13],
  ],
  [
    "gated_delta_rule",
    () => [
      ...Array.from({ length: 7 }, f),
      i(),
      i(),
      i(),
      1,
      64,
      0,
      16,
      32,
      2,
      0,
      2,
      0,
      1,
      2,
      16,
      16,
      1,
      2,
      1,
    ],
    [],
    [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25],
  ],
  ["rms_norm_gated", () => [f(), f(), f(), f(), 2, 2, 16, 32, 0, 1e-6], [], [4, 5, 6, 7, 8]],
  ["sigmoid_gate", () => [f(), f(), f(), 2, 2, 16, 64, 16, 32], [], [3, 4, 5, 6, 7, 8]],
  ["add_gated", () => [f(), f(), f(), f(), 2, 16], [], [4, 5]],
  ["gather_rows", () => [f(), f(), i(), 2, 16, 4], [], [3, 4, 5]],
  ["softcap", () => [f(), f(), 16, 3], [], [2, 3]],
  ["argmax", () => [i(), f(), 2, 16], [], [2, 3]],
  ["top_k", () => [f(), i(), f(), 2, 16, 4], [], [3, 4, 5]],
  ["log_sum_exp", () => [f(), f(), 2, 16], [], [2, 3]],
  [
    "kv_write",
    () => [f(), f(), f(), f(), i(), i(), i(), 2, 64, 0, 64, 32, 2, 16, 16, 1, 0],
    [],
    [7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
  ],
  [
    "attention",
    () => [f(), f(), f(), f(), i(), i(), i(), f(), f(), 2, 64, 0, 4, 2, 16, 16, 1, 0, 0, 0.25, 0, 16384],
    [7],
    [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 21],
  ],
];

test.each([...calls])("%s refuses null pointers and sizes below 0 by name", (name, args, optional, sizes) => {
  opened("", 2, () => {
    run(name, ...args());
    const good = args();
    const bad = good.flatMap((value, at) => {
      if (typeof value === "number" ? !sizes.includes(at) : optional.includes(at)) return [];
      return [good.map((v, j) => (j === at ? (typeof value === "number" ? -1 : null) : v))];
    });
    for (const call of bad) expect(() => run(name, ...call)).toThrow(`[psi_${name}]`);
  });
});

test.each([...calls])("%s refuses to run on a closed device", (name, args) => {
  expect(() => run(name, ...args())).toThrow(/psi_open/);
});
