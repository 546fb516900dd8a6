/**
 * GPT-2 (Language Models are Unsupervised Multitask Learners, 2019).
 *
 * Special: layer norms before each part, learned positions, GELU in its tanh form, matrices stored [in, out], a tied head
 * without a bias. Queries, keys and values have a matrix each, where the release keeps them side by side in `c_attn`.
 *
 *   h  = wte[token] + wpe[position]
 *   h += Wo attention(Wq a, Wk a, Wv a) + bo       a = LN(h)
 *   h += Wp gelu(Wf b + bf) + bp                   b = LN(h)
 *   z  = wte LN(h)
 */
import type { Tensor } from "../../runtime/tensor.ts";
import {
  activation,
  causalAttention,
  denseTransposed,
  layerNorm,
  lookup,
  mix,
} from "../../runtime/training.ts";
import { constant, decoderFlopsPerToken, normal, type ParameterSpec, type TrainedModel } from "../model.ts";

export type Gpt2Config = {
  /** D */
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  /** V */
  readonly vocabularySize: number;
  readonly contextLength: number;
};

/** The 124M model; its vocabulary of 50257 may be padded to a multiple of 64. */
export const gpt2Small: Gpt2Config = {
  ...{ width: 768, layers: 12, heads: 12, vocabularySize: 50257, contextLength: 1024 },
};

const eps = 1e-5;
const deviation = 0.02;

export function gpt2(c: Gpt2Config): TrainedModel {
  const parameters = parametersOf(c);
  const headDim = c.width / c.heads;
  const matrixWeights = parameters
    .filter(({ name, shape }) => shape.length === 2 && name !== "wpe.weight")
    .reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0);
  return {
    id: "gpt2",
    vocabularySize: c.vocabularySize,
    contextLength: c.contextLength,
    parameters,
    flopsPerToken: (length) => decoderFlopsPerToken(matrixWeights, c.layers, c.width, length),
    losses({ weight, block, compute, loss }, batch) {
      const norm = (x: Tensor, name: string): Tensor =>
        layerNorm(x, weight(`${name}.weight`), weight(`${name}.bias`), eps, compute);
      const linear = (x: Tensor, name: string): Tensor =>
        denseTransposed(x, weight(`${name}.weight`), weight(`${name}.bias`));
      const wte = weight("wte.weight");
      let h = mix(lookup(wte, batch.tokens), lookup(weight("wpe.weight"), batch.positions));
      for (let layer = 0; layer < c.layers; layer++) {
        const name = `h.${layer}`;
        h = block((x) => {
          const a = norm(x, `${name}.ln_1`);
          const [q, k, v] = (["q", "k", "v"] as const).map((p) => linear(a, `${name}.attn.${p}`));
          const params = { length: batch.length, headDim, scale: headDim ** -0.5, window: 0, softcap: 0 };
          const attended = causalAttention(q!, k!, v!, params, undefined, batch.first);
          const between = mix(x, linear(attended, `${name}.attn.c_proj`));
          const inner = activation(linear(norm(between, `${name}.ln_2`), `${name}.mlp.c_fc`), undefined, {
            kind: "gelu",
          });
          return mix(between, linear(inner, `${name}.mlp.c_proj`));
        }, h);
      }
      return { rows: loss(norm(h, "ln_f"), wte, undefined, batch.targets) };
    },
  };
}

/** Initial values: normal 0.02, those of matrices that write to h 0.02 / sqrt(2 L), norms 1, biases 0. */
function parametersOf(c: Gpt2Config): ParameterSpec[] {
  const D = c.width;
  const writes = deviation / Math.sqrt(2 * c.layers);
  const list: ParameterSpec[] = [
    { name: "wte.weight", shape: [c.vocabularySize, D], class: "embedding", initial: normal(deviation) },
    { name: "wpe.weight", shape: [c.contextLength, D], class: "embedding", initial: normal(deviation) },
  ];
  const norm = (name: string): void => {
    list.push({ name: `${name}.weight`, shape: [D], class: "scalar", initial: constant(1) });
    list.push({ name: `${name}.bias`, shape: [D], class: "bias", initial: constant(0) });
  };
  const linear = (name: string, from: number, to: number, spread: number): void => {
    list.push({ name: `${name}.weight`, shape: [from, to], class: "matrix", initial: normal(spread) });
    list.push({ name: `${name}.bias`, shape: [to], class: "bias", initial: constant(0) });
  };
  for (let layer = 0; layer < c.layers; layer++) {
    const name = `h.${layer}`;
    norm(`${name}.ln_1`);
    for (const p of ["q", "k", "v"]) linear(`${name}.attn.${p}`, D, D, deviation);
    linear(`${name}.attn.c_proj`, D, D, writes);
    norm(`${name}.ln_2`);
    linear(`${name}.mlp.c_fc`, D, 4 * D, deviation);
    linear(`${name}.mlp.c_proj`, 4 * D, D, writes);
  }
  norm("ln_f");
  return list;
}
