/** The gated delta rule by chunks (arXiv:2412.06464), in f64: what the recurrent kernels are compared with. */
import type { DeltaShape, deltaInputs } from "./deltanet.ts";

type Inputs = Pick<ReturnType<typeof deltaInputs>, "qkv" | "a" | "b" | "decay" | "dtBias" | "sizes">;
type Rows = readonly Float64Array[];

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, v, i) => sum + v * b[i]!, 0);

/** The chunk's tokens of one head. */
type Chunk = {
  readonly q: Rows;
  readonly k: Rows;
  readonly v: Rows;
  readonly g: number[];
  readonly beta: number[];
};

function unit(row: Float32Array, scale: number): Float64Array {
  const squares = row.reduce((sum, v) => sum + v * v, 0);
  return Float64Array.from(row, (v) => (v * scale) / Math.sqrt(squares + 1e-6));
}

function readChunk(shape: DeltaShape, inputs: Inputs, h: number, from: number, end: number): Chunk {
  const { keyHeads, valueHeads, keyDim, valueDim, tiled } = shape;
  const [stride, qOffset, kOffset, vOffset, aStride, aOffset, bStride, bOffset] = inputs.sizes as number[];
  const keyHead = tiled ? h % keyHeads : Math.floor(h / (valueHeads / keyHeads));
  const rows = Array.from({ length: end - from }, (_, i) => from + i);
  const part = (t: number, at: number, width: number) =>
    inputs.qkv.subarray(t * stride! + at, t * stride! + at + width);
  return {
    q: rows.map((t) => unit(part(t, qOffset! + keyHead * keyDim, keyDim), 1 / Math.sqrt(keyDim))),
    k: rows.map((t) => unit(part(t, kOffset! + keyHead * keyDim, keyDim), 1)),
    v: rows.map((t) => Float64Array.from(part(t, vOffset! + h * valueDim, valueDim))),
    g: rows.map((t) => {
      const raw = inputs.a[t * aStride! + aOffset! + h]! + inputs.dtBias[h]!;
      return inputs.decay[h]! * Math.log1p(Math.exp(raw));
    }),
    beta: rows.map((t) => 1 / (1 + Math.exp(-inputs.b[t * bStride! + bOffset! + h]!))),
  };
}

/** Outputs of a chunk; `state` [key][value] becomes that after it. */
function chunkStep(c: Chunk, state: Rows, valueDim: number): Float64Array[] {
  const G = c.g.map((_, i) => c.g.slice(0, i + 1).reduce((sum, g) => sum + g, 0));
  const between = (i: number, j: number) => Math.exp(G[i]! - G[j]!);
  const times = (x: Float64Array, j: number) => x.reduce((sum, v, i) => sum + v * state[i]![j]!, 0);
  // (I + A) R = beta (V - exp(G) K S0), A = strictly lower part of beta K K^T exp(G_i - G_j): rows from the top
  const R: Float64Array[] = [];
  for (const [i, k] of c.k.entries()) {
    const row = Float64Array.from({ length: valueDim }, (_, j) => {
      let sum = c.v[i]![j]! - Math.exp(G[i]!) * times(k, j);
      for (let m = 0; m < i; m++) sum -= dot(k, c.k[m]!) * between(i, m) * R[m]![j]!;
      return c.beta[i]! * sum;
    });
    R.push(row);
  }
  const outputs = c.q.map((q, i) =>
    Float64Array.from({ length: valueDim }, (_, j) => {
      let sum = Math.exp(G[i]!) * times(q, j);
      for (let m = 0; m <= i; m++) sum += dot(q, c.k[m]!) * between(i, m) * R[m]![j]!;
      return sum;
    }),
  );
  const last = G.length - 1;
  for (const [d, row] of state.entries()) {
    for (let j = 0; j < valueDim; j++) {
      row[j]! *= Math.exp(G[last]!);
      for (const [m, k] of c.k.entries()) row[j]! += k[d]! * between(last, m) * R[m]![j]!;
    }
  }
  return outputs;
}

/** y [tokens, heads * value] and state [heads, key, value] of one sequence from a state of zeros. */
export function chunkedDeltaRule(shape: DeltaShape, inputs: Inputs, tokens: number, chunk: number) {
  const { valueHeads, keyDim, valueDim } = shape;
  const y = new Float32Array(tokens * valueHeads * valueDim);
  const states = new Float32Array(valueHeads * keyDim * valueDim);
  for (let h = 0; h < valueHeads; h++) {
    const state = Array.from({ length: keyDim }, () => new Float64Array(valueDim));
    for (let from = 0; from < tokens; from += chunk) {
      const read = readChunk(shape, inputs, h, from, Math.min(tokens, from + chunk));
      for (const [i, row] of chunkStep(read, state, valueDim).entries())
        y.set(row, ((from + i) * valueHeads + h) * valueDim);
    }
    for (const [d, row] of state.entries()) states.set(row, (h * keyDim + d) * valueDim);
  }
  return { y, state: states };
}
