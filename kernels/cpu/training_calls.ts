/** Calls of training's kernels over odd sizes: the CPU's tests and CUDA's run them against the references. */
import { floats, randomFloats } from "./library.ts";
import { ints, runReference } from "./twins.ts";

export type Argument = number | ArrayBufferView | null;
export type Call = {
  readonly name: string;
  /** Fresh arguments; the first `outputs` are compared. */
  readonly args: () => Argument[];
  readonly outputs: number;
  /** Sums of some hundred terms in f32 against f64, over 1 + the largest. */
  readonly tolerance?: number;
  /** Places of pointers that may be null, and of sizes that may not be -1. */
  readonly optional?: readonly number[];
  readonly sizes: readonly number[];
};

const F32 = 0;
const f = (count: number, seed = 1): Float32Array => {
  const values = randomFloats(count, seed);
  for (let i = 0; i < count; i++) values[i]! *= 0.2;
  return values;
};
/** Blocks of 32 of every size from subnormal on, one of zeros among them; none whose scale is beyond f16, for NaNs have no one code. */
const scaled = (count: number): Float32Array =>
  f(count, 5).map((v, i) => v * 2 ** ((Math.floor(i / 32) % 34) * 4 - 130) * (i < 32 ? 0 : 1));
const scratch = (bytes: number): Float32Array => floats(Math.ceil(bytes / 4));
const packed = (n: number, k: number): number => Math.ceil(n / 48) * 48 * k * 4;

const gemm = (transA: number, transB: number, accumulate: number): Call => {
  const [batch, m, n, k] = [2, 19, 101, 270];
  return {
    name: "gemm",
    args: () => [
      ...[f(batch * m * n, 9), f(batch * m * k, 1), f(batch * n * k, 2), f(n, 3), scratch(packed(n, k))],
      ...[batch, m, n, k, transA, transB, F32, F32, F32, accumulate, packed(n, k)],
    ],
    outputs: 1,
    tolerance: 1e-5,
    optional: [3],
    sizes: [5, 6, 7, 8],
  };
};

const grouped = (mode: number): Call => {
  const [rows, experts, outputs, columns] = [23, 3, 50, 33];
  const bytes = packed(50, 50);
  const wide = Math.max(outputs, columns);
  const a = mode === 0 ? rows * columns : rows * outputs;
  const w = mode === 2 ? rows * columns : experts * outputs * columns;
  return {
    name: "grouped_gemm",
    args: () => [
      ...[
        f(Math.max(rows * wide, experts * outputs * columns), 9),
        f(a, 1),
        f(w, 2),
        mode === 0 ? f(experts * outputs, 3) : null,
      ],
      ...[ints([0, 5, 5, rows]), scratch(bytes), mode, rows, experts, outputs, columns, F32, bytes],
    ],
    outputs: 1,
    tolerance: 1e-5,
    optional: [3],
    sizes: [6, 7, 8, 9, 10],
  };
};

const attention = (window: number, cap: number): Call[] => {
  const [sequences, length, heads, kvHeads, headDim] = [2, 83, 4, 2, 20];
  const rows = sequences * length;
  const [wide, narrow] = [rows * heads * headDim, rows * kvHeads * headDim];
  const first = ints(Array.from({ length: rows }, (_, r) => (r % length > 40 ? 40 : 0)));
  const shape = [sequences, length, heads, kvHeads, headDim, window, F32, 0.3, cap];
  const inputs = () => [f(wide, 1), f(narrow, 2), f(narrow, 3)] as const;
  const [y, lse] = [floats(wide), floats(rows * heads)];
  runReference("causal_attention", y, lse, null, ...inputs(), f(heads, 4), first, ...shape);
  const bytes = heads * sequences * 8 * (64 * Math.ceil(length / 64) + 1);
  return [
    {
      name: "causal_attention",
      args: () => [
        ...[floats(wide), floats(rows * heads), f(wide, 6), ...inputs(), f(heads, 4), first],
        ...shape,
      ],
      outputs: 3,
      tolerance: 1e-5,
      optional: [2, 6, 7],
      sizes: [8, 9, 10, 11, 12, 13],
    },
    {
      name: "causal_attention_grad",
      args: () => [
        ...[floats(wide), floats(narrow), floats(narrow), f(heads, 8), f(wide, 5), ...inputs()],
        ...[y, lse, f(wide, 7), f(heads, 4), first, scratch(bytes), ...shape, bytes],
      ],
      outputs: 4,
      tolerance: 2e-5,
      optional: [3, 10, 11, 12, 13],
      sizes: [14, 15, 16, 17, 18, 19],
    },
  ];
};

const crossEntropy = (cap: number): Call[] => {
  const [tokens, width, vocabulary] = [11, 37, 350];
  const targets = ints(Array.from({ length: tokens }, (_, t) => (t === 3 ? -1 : t * 31)));
  const bytes = 4 * (tokens * (vocabulary + 3) + 398 * 350);
  const inputs = () => [f(tokens * width, 1), f(vocabulary * width, 2), f(vocabulary, 3)] as const;
  const [loss, lse] = [floats(tokens), floats(tokens)];
  const shape = [tokens, width, vocabulary, F32, cap];
  runReference("cross_entropy", loss, lse, ...inputs(), targets, null, ...shape, 0);
  return [
    {
      name: "cross_entropy",
      args: () => [floats(tokens), floats(tokens), ...inputs(), targets, scratch(bytes), ...shape, bytes],
      outputs: 2,
      optional: [4],
      sizes: [7, 8, 9],
    },
    {
      name: "cross_entropy_grad",
      args: () => [
        ...[floats(tokens * width), f(vocabulary * width, 6), f(vocabulary, 7), f(tokens, 8), ...inputs()],
        ...[targets, lse, scratch(bytes), ...shape, bytes],
      ],
      outputs: 3,
      tolerance: 5e-6,
      optional: [1, 2, 6],
      sizes: [10, 11, 12],
    },
  ];
};

const count = 333;
const activations = [0, 1, 2, 3].flatMap((kind): Call[] => [
  {
    name: "activation",
    args: () => [floats(count), f(count, 1), f(count, 2), kind, F32, count, 1.702, 0.7],
    outputs: 1,
    optional: kind === 2 ? [] : [2],
    sizes: [3, 4, 5],
  },
  {
    name: "activation_grad",
    args: () => [
      floats(count),
      floats(count),
      f(count, 3),
      f(count, 1),
      f(count, 2),
      kind,
      F32,
      count,
      1.702,
      0.7,
    ],
    outputs: 2,
    optional: kind === 2 ? [1] : [1, 4],
    sizes: [5, 6, 7],
  },
]);

const one = Float32Array.of(0.9, ...new Array(511).fill(0));
const rates = Float64Array.of(0.01, 1.5, 2.5, ...new Array(253).fill(0));
export const calls: readonly Call[] = [
  ...[gemm(0, 0, 0), gemm(0, 1, 0), gemm(1, 0, 1), gemm(1, 1, 1)],
  ...[grouped(0), grouped(1), grouped(2)],
  ...[...attention(0, 0), ...attention(17, 3)],
  ...[...crossEntropy(0), ...crossEntropy(2)],
  ...activations,
  {
    name: "column_sum",
    args: () => [f(150, 2), f(700, 1), ints([0, 4, 4, 10]), 14, 50, 3, F32],
    outputs: 1,
    optional: [],
    sizes: [3, 4, 5],
  },
  {
    name: "lookup",
    args: () => [floats(150), f(500, 1), ints([1, 7, 1]), 3, 50, 10, F32],
    outputs: 1,
    sizes: [3, 4, 5],
  },
  {
    name: "lookup_grad",
    args: () => [f(500, 2), f(150, 1), ints([1, 7, 1]), 3, 50, 10, F32],
    outputs: 1,
    sizes: [3, 4, 5],
  },
  ...[0, 1].flatMap((center): Call[] => [
    {
      name: "norm",
      args: () => [floats(7 * 45), floats(14), f(7 * 45, 1), f(45, 2), f(45, 3), 7, 45, center, F32, 1e-5],
      outputs: 2,
      optional: [3, 4],
      sizes: [5, 6],
    },
    {
      name: "norm_grad",
      args: () => {
        const [x, stats] = [f(7 * 45, 1), floats(14)];
        runReference("norm", floats(7 * 45), stats, x, null, null, 7, 45, center, F32, 1e-5);
        return [floats(7 * 45), f(45, 5), f(45, 6), f(7 * 45, 4), x, f(45, 2), stats, 7, 45, center, F32];
      },
      outputs: 3,
      optional: [1, 2, 5],
      sizes: [7, 8],
    },
  ]),
  {
    name: "rotate",
    args: () => [floats(120), f(120, 1), ints([0, 900, 3]), f(8, 2), 3, 2, 20, 16, 1, 1, F32, 1.1],
    outputs: 1,
    sizes: [4, 5, 6, 7],
  },
  {
    name: "route",
    args: () => [ints(Array(16).fill(0)), floats(10), f(35, 1), 5, 7, 2, 3, F32],
    outputs: 2,
    sizes: [3, 4, 5, 6],
  },
  {
    name: "route_grad",
    args: () => [
      floats(35),
      f(10, 1),
      f(10, 2),
      ints([0, 1, 2, 3, 4, 5, 6, 0, 1, 2]),
      f(35, 3),
      5,
      7,
      2,
      1,
      F32,
    ],
    outputs: 1,
    sizes: [5, 6, 7, 8],
  },
  {
    name: "expert_order",
    args: () => [
      ints(Array(16).fill(0)),
      ints(Array(16).fill(0)),
      ints(Array(16).fill(0)),
      ints([2, 1, 0, 2, 1, 2]),
      3,
      2,
      4,
    ],
    outputs: 3,
    sizes: [4, 5, 6],
  },
  {
    name: "expert_rows",
    args: () => [floats(200), f(100, 1), ints([3, 0, 1, 2]), 2, 2, 50, F32],
    outputs: 1,
    sizes: [3, 4, 5],
  },
  {
    name: "expert_rows_grad",
    args: () => [floats(100), f(200, 1), ints([3, 0, 1, 2]), 2, 2, 50, F32],
    outputs: 1,
    sizes: [3, 4, 5],
  },
  {
    name: "expert_combine",
    args: () => [floats(100), f(200, 1), f(4, 2), ints([3, 0, 1, 2]), 2, 2, 50, F32],
    outputs: 1,
    sizes: [4, 5, 6],
  },
  {
    name: "expert_combine_grad",
    args: () => [floats(200), floats(4), f(100, 1), f(200, 2), f(4, 3), ints([3, 0, 1, 2]), 2, 2, 50, F32],
    outputs: 2,
    sizes: [6, 7, 8],
  },
  {
    name: "balance_loss",
    args: () => [floats(1), f(35, 1), ints([0, 1, 2, 3, 4]), 5, 7, 1, F32],
    outputs: 1,
    sizes: [3, 4, 5],
  },
  {
    name: "balance_loss_grad",
    args: () => [floats(35), f(1, 2), f(35, 1), ints([0, 1, 2, 3, 4]), 5, 7, 1, F32],
    outputs: 1,
    sizes: [4, 5, 6],
  },
  {
    name: "mix",
    args: () => [floats(330), f(330, 1), f(330, 2), f(33, 3), f(33, 4), 33, F32, 330, 0.5, -2],
    outputs: 1,
    optional: [3, 4],
    sizes: [5, 7],
  },
  {
    name: "mix_grad",
    args: () => [
      ...[330, 330, 33, 33].map(floats),
      f(330, 5),
      f(330, 1),
      f(330, 2),
      f(33, 3),
      f(33, 4),
      33,
      F32,
      330,
      0.5,
      -2,
    ],
    outputs: 4,
    optional: [0, 1, 2, 3, 7, 8],
    sizes: [9, 11],
  },
  {
    name: "multiply",
    args: () => [floats(count), f(count, 1), f(count, 2), F32, count],
    outputs: 1,
    sizes: [4],
  },
  {
    name: "head_scale",
    args: () => [floats(7 * 57), f(7 * 57, 1), f(3, 2), 7, 3, 19, F32],
    outputs: 1,
    sizes: [3, 4, 5],
  },
  {
    name: "head_scale_grad",
    args: () => [floats(7 * 57), f(3, 4), f(7 * 57, 3), f(7 * 57, 1), f(3, 2), 7, 3, 19, F32],
    outputs: 2,
    optional: [1],
    sizes: [5, 6, 7],
  },
  {
    name: "cast",
    args: () => [new Uint16Array(2048), f(count, 1), F32, 30, count],
    outputs: 1,
    sizes: [2, 4],
  },
  ...[
    [39, F32],
    [8, F32],
    [39, 30],
    [8, 30],
  ].map(
    ([format, to]): Call => ({
      name: "block_round",
      args: () => [to === F32 ? floats(9024) : new Uint16Array(9024), scaled(9024), format!, to!, 9024],
      outputs: 1,
      sizes: [2, 3, 4],
    }),
  ),
  { name: "fill", args: () => [floats(count), F32, count, 0.25], outputs: 1, sizes: [2] },
  { name: "sum", args: () => [floats(1), f(count, 1), F32, count, 0.5], outputs: 1, sizes: [3] },
  { name: "spread", args: () => [floats(count), f(1, 1), F32, count, 0.5], outputs: 1, sizes: [3] },
  {
    name: "sum_squares",
    args: () => [new Float64Array(256), f(9000, 1), scratch(64), F32, 9000, 64],
    outputs: 1,
    sizes: [4],
  },
  {
    name: "clip_factor",
    args: () => [
      ...[floats(1), new Float64Array(256), Float64Array.of(3, 4, ...new Array(254).fill(0))],
      ...[f(256, 1), 2, 3, 1.5],
    ],
    outputs: 2,
    sizes: [4, 5, 6],
  },
  {
    name: "adam",
    args: () => [
      f(count, 1),
      f(count, 2),
      f(count, 3).map(Math.abs),
      f(count, 4),
      one,
      rates,
      1,
      count,
      0.9,
      0.99,
      1e-8,
      0.1,
    ],
    outputs: 3,
    sizes: [7],
  },
  {
    name: "sgd",
    args: () => [f(count, 1), f(count, 2), f(count, 3), one, rates, count, 0.9, 0.1],
    outputs: 2,
    optional: [1],
    sizes: [5],
  },
  {
    name: "momentum",
    args: () => [floats(count), f(count, 2), f(count, 3), one, rates, 1, count],
    outputs: 2,
    sizes: [6],
  },
  { name: "unit_norm", args: () => [floats(100), f(100, 1), 4, 25, 1e-7], outputs: 1, sizes: [2, 3] },
  {
    name: "muon_update",
    args: () => [f(count, 1), f(count, 2), one, rates, count, 1.5, 0.1],
    outputs: 1,
    sizes: [4],
  },
];
