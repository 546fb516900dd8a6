/**
 * The decoder of the CS336 A1 demo, of any size.
 *
 * Special: RMS norms before each part, rotary positions in neighbouring pairs, a gated SiLU feed-forward, no biases, a head
 * with weights of its own.
 *
 *   h += Wo attention(rope(Wq a), rope(Wk a), Wv a)     a = RMS(h)
 *   h += W2 (silu(W1 b) * W3 b)                         b = RMS(h)
 *   z  = W RMS(h)
 */
import { rotary } from "../../models/rotary.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import {
  activation,
  causalAttention,
  dense,
  lookup,
  mix,
  rootMeanSquareNorm,
  rotate,
} from "../../runtime/training.ts";
import { constant, decoderFlopsPerToken, type ParameterSpec, type TrainedModel, uniform } from "../model.ts";

export type Cs336Config = {
  readonly vocabularySize: number;
  readonly contextLength: number;
  /** D, of which each head has its share */
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  /** F */
  readonly feedForward: number;
};

/** 1,070 parameters: bytes, two of them at a time. */
export const cs336Demo: Cs336Config = {
  ...{ vocabularySize: 256, contextLength: 2, width: 2, layers: 1, heads: 1, feedForward: 4 },
};

const eps = 1e-5;
const ropeBase = 10000;

export function cs336(c: Cs336Config): TrainedModel {
  const headDim = c.width / c.heads;
  const { invFreq, mscale } = rotary(ropeBase, headDim, { type: "none" });
  const perLayer = 4 * c.width * c.width + 3 * c.width * c.feedForward;
  return {
    id: "psion-cs336-a1-demo-v1",
    vocabularySize: c.vocabularySize,
    contextLength: c.contextLength,
    parameters: parametersOf(c),
    flopsPerToken: (length) =>
      decoderFlopsPerToken(c.layers * perLayer + c.vocabularySize * c.width, c.layers, c.width, length),
    losses({ weight, constant: host, block, compute, loss }, batch) {
      const frequencies = host("f32", [invFreq.length], invFreq);
      const turn = (x: Tensor): Tensor =>
        rotate(x, batch.positions, frequencies, { headDim, neox: false, mscale });
      const params = { length: batch.length, headDim, scale: headDim ** -0.5, window: 0, softcap: 0 };
      let h = lookup(weight("token_embeddings.weight"), batch.tokens);
      for (let layer = 0; layer < c.layers; layer++) {
        const of = (name: string): Tensor => weight(`layers.${layer}.${name}.weight`);
        h = block((x) => {
          const a = rootMeanSquareNorm(x, of("ln1"), eps, compute);
          const [q, k, v] = (["q", "k", "v"] as const).map((p) => dense(a, of(`attn.${p}_proj`)));
          const attended = causalAttention(turn(q!), turn(k!), v!, params, undefined, batch.first);
          const between = mix(x, dense(attended, of("attn.output_proj")));
          const b = rootMeanSquareNorm(between, of("ln2"), eps, compute);
          const inner = activation(dense(b, of("ffn.w1")), dense(b, of("ffn.w3")), { kind: "silu" });
          return mix(between, dense(inner, of("ffn.w2")));
        }, h);
      }
      const last = rootMeanSquareNorm(h, weight("ln_final.weight"), eps, compute);
      return { rows: loss(last, weight("lm_head.weight"), undefined, batch.targets) };
    },
  };
}

/** Initial values: norms 1, everything else between -0.04 and 0.04. */
function parametersOf({ width: D, feedForward: F, ...c }: Cs336Config): ParameterSpec[] {
  const spread = uniform(0.04);
  const list: ParameterSpec[] = [];
  const norm = (name: string): void => {
    list.push({ name: `${name}.weight`, shape: [D], class: "scalar", initial: constant(1) });
  };
  const matrix = (name: string, to: number, from: number): void => {
    list.push({ name: `${name}.weight`, shape: [to, from], class: "matrix", initial: spread });
  };
  const vocabulary = [c.vocabularySize, D];
  list.push({ name: "token_embeddings.weight", shape: vocabulary, class: "embedding", initial: spread });
  for (let layer = 0; layer < c.layers; layer++) {
    const name = `layers.${layer}`;
    norm(`${name}.ln1`);
    for (const p of ["q_proj", "k_proj", "v_proj", "output_proj"]) matrix(`${name}.attn.${p}`, D, D);
    norm(`${name}.ln2`);
    matrix(`${name}.ffn.w1`, F, D);
    matrix(`${name}.ffn.w2`, D, F);
    matrix(`${name}.ffn.w3`, F, D);
  }
  norm("ln_final");
  list.push({ name: "lm_head.weight", shape: vocabulary, class: "head", initial: spread });
  return list;
}
