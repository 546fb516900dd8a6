/**
 * GPT-OSS for training (model card, arXiv:2508.10925); what serves such a model is models/gpt_oss.ts.
 *
 * Special: every second layer, from the first, slides over a window; one sink logit per head in the softmax's denominator;
 * rotary positions under YaRN; experts with biases and a clamped SwiGLU, weighed by the softmax over the chosen; a
 * load-balance loss. Gate and up have a tensor each, where checkpoints keep their rows in turns.
 *
 *   h += Wo attention(rope(Wq a), rope(Wk a), Wv a; sinks) + bo                               a = RMS(h)
 *   h += sum over top-k of w_e (Wd_e clamped_swiglu(Wg_e b + bg_e, Wu_e b + bu_e) + bd_e)     b = RMS(h)
 */
import { type RopeScaling, rotary } from "../../models/rotary.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import {
  activation,
  balanceLoss,
  causalAttention,
  dense,
  expertCombine,
  expertDense,
  expertOrder,
  expertRows,
  lookup,
  mix,
  rootMeanSquareNorm,
  rotate,
  route,
} from "../../runtime/training.ts";
import {
  constant,
  decoderFlopsPerToken,
  normal,
  type ParameterClass,
  type ParameterSpec,
  type TrainedModel,
} from "../model.ts";

export type GptOssTrainingConfig = {
  /** D */
  readonly width: number;
  readonly layers: number;
  /** H query heads over K key heads of E elements */
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly window: number;
  readonly experts: number;
  readonly expertsUsed: number;
  /** F */
  readonly expertFeedForward: number;
  /** V */
  readonly vocabularySize: number;
  readonly contextLength: number;
  readonly ropeBase: number;
  readonly ropeScaling: RopeScaling;
  /** Factor of the load-balance loss. */
  readonly balance: number;
};

/** A few million parameters of the kind, for a processor. */
export const gptOssSmall: GptOssTrainingConfig = {
  ...{ width: 256, layers: 4, heads: 8, kvHeads: 2, headDim: 32, window: 128 },
  ...{ experts: 8, expertsUsed: 2, expertFeedForward: 256, vocabularySize: 4096, contextLength: 1024 },
  ...{ ropeBase: 150000, ropeScaling: { type: "none" }, balance: 0.01 },
};

const eps = 1e-5;
const clamped = { kind: "clamped", alpha: 1.702, limit: 7 } as const;
const deviation = 0.02;

export function gptOss(c: GptOssTrainingConfig): TrainedModel {
  const { invFreq, mscale } = rotary(c.ropeBase, c.headDim, c.ropeScaling);
  const wide = c.heads * c.headDim;
  const narrow = c.kvHeads * c.headDim;
  const perLayer =
    c.width * (2 * wide + 2 * narrow + c.experts) + 3 * c.expertsUsed * c.width * c.expertFeedForward;
  return {
    id: "gpt-oss",
    vocabularySize: c.vocabularySize,
    contextLength: c.contextLength,
    parameters: parametersOf(c),
    flopsPerToken: (length) =>
      decoderFlopsPerToken(c.layers * perLayer + c.vocabularySize * c.width, c.layers, wide, length),
    losses({ weight, constant: host, block, compute, loss }, batch) {
      const frequencies = host("f32", [invFreq.length], invFreq);
      const linear = (x: Tensor, name: string): Tensor =>
        dense(x, weight(`${name}.weight`), weight(`${name}.bias`));
      // f32 from the product to the rotation and back: rounded twice each way, queries and keys cost most of what bf16 is off by
      const turned = (x: Tensor, name: string): Tensor => {
        const y = dense(x, weight(`${name}.weight`), weight(`${name}.bias`), "f32");
        return rotate(y, batch.positions, frequencies, {
          headDim: c.headDim,
          neox: true,
          mscale,
          dtype: compute,
        });
      };
      const balances: Tensor[] = [];
      let h = lookup(weight("model.embed_tokens.weight"), batch.tokens);
      for (let layer = 0; layer < c.layers; layer++) {
        const name = `model.layers.${layer}`;
        const window = layer % 2 === 0 ? c.window : 0;
        h = block((x) => {
          const a = rootMeanSquareNorm(x, weight(`${name}.input_layernorm.weight`), eps, compute);
          const [q, k] = (["q", "k"] as const).map((p) => turned(a, `${name}.self_attn.${p}_proj`));
          const v = linear(a, `${name}.self_attn.v_proj`);
          const params = {
            length: batch.length,
            headDim: c.headDim,
            scale: c.headDim ** -0.5,
            window,
            softcap: 0,
            wideGradients: true,
          };
          const sinks = weight(`${name}.self_attn.sinks`);
          const attended = causalAttention(q!, k!, v, params, sinks, batch.first);
          return mix(x, linear(attended, `${name}.self_attn.o_proj`));
        }, h);
        const b = rootMeanSquareNorm(h, weight(`${name}.post_attention_layernorm.weight`), eps, compute);
        const router = `${name}.mlp.router`;
        const logits = dense(b, weight(`${router}.weight`), weight(`${router}.bias`), "f32");
        const { ids, weights } = route(logits, { used: c.expertsUsed, mode: "softmaxOfChosen" });
        if (c.balance > 0) balances.push(balanceLoss(logits, ids));
        const order = expertOrder(ids, c.experts);
        const rows = expertRows(b, order, c.expertsUsed);
        const expert = (x: Tensor, part: string): Tensor => {
          const at = `${name}.mlp.experts.${part}_proj`;
          return expertDense(x, weight(at), weight(`${at}_bias`), order);
        };
        const inner = activation(expert(rows, "gate"), expert(rows, "up"), clamped);
        h = mix(h, expertCombine(expert(inner, "down"), weights, order, c.expertsUsed));
      }
      const last = rootMeanSquareNorm(h, weight("model.norm.weight"), eps, compute);
      const rows = loss(last, weight("lm_head.weight"), undefined, batch.targets);
      if (balances.length === 0) return { rows };
      const total = balances.reduce((sum, one) => mix(sum, one));
      return { rows, extra: mix(total, undefined, c.balance / c.layers) };
    },
  };
}

/** Initial values: normal 0.02, those of matrices that write to h 0.02 / sqrt(2 L), norms 1, biases and sinks 0. */
function parametersOf(c: GptOssTrainingConfig): ParameterSpec[] {
  const { width: D, experts: E, expertFeedForward: F } = c;
  const [wide, narrow] = [c.heads * c.headDim, c.kvHeads * c.headDim];
  const writes = deviation / Math.sqrt(2 * c.layers);
  const list: ParameterSpec[] = [];
  const add = (name: string, shape: readonly number[], kind: ParameterClass, spread: number): void => {
    list.push({ name, shape, class: kind, initial: spread > 0 ? normal(spread) : constant(0) });
  };
  const norm = (name: string): void => {
    list.push({ name: `${name}.weight`, shape: [D], class: "scalar", initial: constant(1) });
  };
  const linear = (name: string, to: number, from: number, spread: number): void => {
    add(`${name}.weight`, [to, from], "matrix", spread);
    add(`${name}.bias`, [to], "bias", 0);
  };
  add("model.embed_tokens.weight", [c.vocabularySize, D], "embedding", deviation);
  for (let layer = 0; layer < c.layers; layer++) {
    const name = `model.layers.${layer}`;
    norm(`${name}.input_layernorm`);
    linear(`${name}.self_attn.q_proj`, wide, D, deviation);
    linear(`${name}.self_attn.k_proj`, narrow, D, deviation);
    linear(`${name}.self_attn.v_proj`, narrow, D, deviation);
    linear(`${name}.self_attn.o_proj`, D, wide, writes);
    add(`${name}.self_attn.sinks`, [c.heads], "scalar", 0);
    norm(`${name}.post_attention_layernorm`);
    linear(`${name}.mlp.router`, E, D, deviation);
    for (const [part, to, from, spread] of [
      ["gate", F, D, deviation],
      ["up", F, D, deviation],
      ["down", D, F, writes],
    ] as const) {
      add(`${name}.mlp.experts.${part}_proj`, [E, to, from], "matrix", spread);
      add(`${name}.mlp.experts.${part}_proj_bias`, [E, to], "bias", 0);
    }
  }
  norm("model.norm");
  add("lm_head.weight", [c.vocabularySize, D], "head", deviation);
  return list;
}
