/**
 * The baseline of Parameter Golf: 17,059,912 parameters.
 *
 * Special: RMS norms without weights; a U-net of blocks, the later ones adding outputs of the earlier ones by learned
 * scales; each block begins with a learned mix of its input and the first hidden state; queries and keys are normalised per
 * head before they are rotated, queries then scaled by a gain per head; squared ReLU; a tied head with soft-capped logits.
 *
 *   x0 = x = rms(E[token])
 *   x  = m0 * x + m1 * x0;  x += sa * Wo attention(...rms(x));  x += sm * Wp relu(Wf rms(x))^2
 *   z  = 30 tanh(E rms(x) / 30)
 */
import { rotary } from "../../models/rotary.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import {
  activation,
  causalAttention,
  dense,
  lookup,
  mix,
  qkNormRope,
  rootMeanSquareNorm,
} from "../../runtime/training.ts";
import {
  constant,
  decoderFlopsPerToken,
  normal,
  type ParameterSpec,
  type TrainedModel,
  uniform,
} from "../model.ts";

export type GolfConfig = {
  /** D */
  readonly width: number;
  readonly layers: number;
  /** H query heads over K key heads of E elements */
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** F = D times this */
  readonly feedForwardFactor: number;
  /** V */
  readonly vocabularySize: number;
  readonly contextLength: number;
  /** Of the norms: the machine epsilon of the type that activations have. */
  readonly eps: number;
};

export const golfBaseline: GolfConfig = {
  ...{ width: 512, layers: 9, heads: 8, kvHeads: 4, headDim: 64, feedForwardFactor: 2 },
  ...{ vocabularySize: 1024, contextLength: 1024, eps: 2 ** -23 },
};

const ropeBase = 10000;
const logitCap = 30;
const queryGain = 1.5;

export function golf(c: GolfConfig): TrainedModel {
  const { invFreq } = rotary(ropeBase, c.headDim, { type: "none" });
  const parameters = parametersOf(c);
  const matrixWeights = parameters
    .filter(({ shape }) => shape.length === 2)
    .reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0);
  const early = Math.floor(c.layers / 2);
  return {
    id: "parameter-golf-baseline",
    vocabularySize: c.vocabularySize,
    contextLength: c.contextLength,
    parameters,
    flopsPerToken: (length) => decoderFlopsPerToken(matrixWeights, c.layers, c.heads * c.headDim, length),
    losses({ weight, constant: host, block, compute, loss }, batch) {
      const frequencies = host("f32", [invFreq.length], invFreq);
      const rounded = (x: Tensor): Tensor => rootMeanSquareNorm(x, undefined, c.eps, compute);
      const turned = (x: Tensor, gain?: Tensor): Tensor =>
        qkNormRope(x, batch.positions, frequencies, gain, { headDim: c.headDim, eps: c.eps, inverse: true });
      const embeddings = weight("tok_emb.weight");
      // the residual stream is in the type that the device computes with, as the baseline's is
      const x0 = rounded(lookup(embeddings, batch.tokens));
      const kept: Tensor[] = [];
      let h = x0;
      for (let layer = 0; layer < c.layers; layer++) {
        const name = `blocks.${layer}`;
        const later = layer - early;
        const skipped = later >= 0 ? kept.pop() : undefined;
        if (skipped) h = mix(h, skipped, 1, 1, undefined, weight(`skip_weights.${later}`));
        h = block(
          (given, first) => {
            const x = mix(given, first, 1, 1, weight(`${name}.resid_mix.0`), weight(`${name}.resid_mix.1`));
            const a = rounded(x);
            const [q, k, v] = (["q", "k", "v"] as const).map((p) =>
              dense(a, weight(`${name}.attn.c_${p}.weight`)),
            );
            const queries = turned(q!, weight(`${name}.attn.q_gain`));
            const params = {
              length: batch.length,
              headDim: c.headDim,
              scale: c.headDim ** -0.5,
              window: 0,
              softcap: 0,
            };
            const attended = causalAttention(queries, turned(k!), v!, params, undefined, batch.first);
            const out = dense(attended, weight(`${name}.attn.proj.weight`));
            const between = mix(x, out, 1, 1, undefined, weight(`${name}.attn_scale`));
            const inner = activation(dense(rounded(between), weight(`${name}.mlp.fc.weight`)), undefined, {
              kind: "relu2",
            });
            const last = dense(inner, weight(`${name}.mlp.proj.weight`));
            return mix(between, last, 1, 1, undefined, weight(`${name}.mlp_scale`));
          },
          h,
          x0,
        );
        if (layer < early) kept.push(h);
      }
      return { rows: loss(rounded(h), embeddings, undefined, batch.targets, { softcap: logitCap }) };
    },
  };
}

/**
 * Initial values: the embedding normal 0.005, matrices uniform within 1/sqrt(fan in), those that write to h 0, scales and the
 * share of x in a block's mix 1, that of x0 in it 0, query gains 1.5.
 */
function parametersOf(c: GolfConfig): ParameterSpec[] {
  const D = c.width;
  const [wide, narrow] = [c.heads * c.headDim, c.kvHeads * c.headDim];
  const list: ParameterSpec[] = [
    { name: "tok_emb.weight", shape: [c.vocabularySize, D], class: "embedding", initial: normal(0.005) },
  ];
  const vector = (name: string, length: number, value: number): void => {
    list.push({ name, shape: [length], class: "scalar", initial: constant(value) });
  };
  const matrix = (name: string, to: number, from: number, writes = false): void => {
    const initial = writes ? constant(0) : uniform(from ** -0.5);
    list.push({ name: `${name}.weight`, shape: [to, from], class: "matrix", initial });
  };
  const early = Math.floor(c.layers / 2);
  for (let i = 0; i < Math.min(early, c.layers - early); i++) vector(`skip_weights.${i}`, D, 1);
  for (let layer = 0; layer < c.layers; layer++) {
    const name = `blocks.${layer}`;
    matrix(`${name}.attn.c_q`, wide, D);
    matrix(`${name}.attn.c_k`, narrow, D);
    matrix(`${name}.attn.c_v`, narrow, D);
    matrix(`${name}.attn.proj`, D, wide, true);
    vector(`${name}.attn.q_gain`, c.heads, queryGain);
    matrix(`${name}.mlp.fc`, c.feedForwardFactor * D, D);
    matrix(`${name}.mlp.proj`, D, c.feedForwardFactor * D, true);
    vector(`${name}.attn_scale`, D, 1);
    vector(`${name}.mlp_scale`, D, 1);
    vector(`${name}.resid_mix.0`, D, 1);
    vector(`${name}.resid_mix.1`, D, 0);
  }
  return list;
}
