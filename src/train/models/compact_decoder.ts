/**
 * Psion's compact decoder.
 *
 * Special: layer norms with gamma and beta before each part, learned absolute positions, biases everywhere, a gated SiLU
 * feed-forward whose matrices are stored [in, out], and a head tied to the embedding with a bias of its own. With a head that
 * has weights of its own, too, the model comes in parts.
 *
 *   h  = E[token] + P[position]
 *   h += Wo attention(Wq a, Wk a, Wv a)            a = LN(h)
 *   h += Wd (silu(Wg b) * Wu b)                    b = LN(h)
 *   z  = E LN(h) + bias
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
import {
  type Batch,
  constant,
  decoderFlopsPerToken,
  type ModelPart,
  normal,
  type ParameterClass,
  type ParameterSpec,
  type Scene,
  type TrainedModel,
} from "../model.ts";

export type CompactDecoderConfig = {
  readonly id: string;
  /** D */
  readonly width: number;
  readonly layers: number;
  /** H, of which all have keys of their own */
  readonly heads: number;
  readonly headDim: number;
  /** I */
  readonly feedForward: number;
  /** V */
  readonly vocabularySize: number;
  readonly contextLength: number;
  /** Whether the head has weights of its own; by default it is tied to the embedding. */
  readonly ownHead?: boolean;
};

/** `internal128m`: 144,894,464 parameters. */
export const compactDecoderInternal: CompactDecoderConfig = {
  id: "psion-compact-decoder-internal-v1",
  ...{ width: 768, layers: 12, heads: 12, headDim: 64, feedForward: 3072 },
  ...{ vocabularySize: 32768, contextLength: 8192 },
};

/** `pilot32m`; runs of the reference pilot use sequences of 32. */
export const compactDecoderPilot: CompactDecoderConfig = {
  id: "psion-compact-decoder-pilot-v1",
  ...{ width: 384, layers: 8, heads: 6, headDim: 64, feedForward: 1536 },
  ...{ vocabularySize: 32768, contextLength: 4096 },
};

const eps = 1e-5;
const deviation = 0.02;

export function compactDecoder(c: CompactDecoderConfig): TrainedModel {
  const list = partsOf(c);
  const parameters = list.flatMap((p) => p.parameters);
  const matrixWeights = parameters
    .filter(({ name, shape }) => shape.length === 2 && !/embed_positions|lm_head/.test(name))
    .reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0);
  return {
    id: c.id,
    vocabularySize: c.vocabularySize,
    contextLength: c.contextLength,
    parameters,
    flopsPerToken: (length) => decoderFlopsPerToken(matrixWeights, c.layers, c.width, length),
    losses(scene, batch) {
      let h: Tensor | undefined;
      for (const p of list) h = p.run(scene, batch, h);
      return { rows: h! };
    },
    ...(c.ownHead && { parts: { width: c.width, list } }),
  };
}

function partsOf(c: CompactDecoderConfig): ModelPart[] {
  const specs = parametersOf(c);
  const below = (prefix: string): ParameterSpec[] => specs.filter(({ name }) => name.startsWith(prefix));
  const layers = Array.from({ length: c.layers }, (_, i): ModelPart => {
    const name = `decoder.layers.${i}`;
    return { parameters: below(`${name}.`), run: (scene, batch, h) => layer(c, name, scene, batch, h!) };
  });
  return [
    {
      parameters: below("decoder.embed_"),
      run({ weight }, batch) {
        const positions = lookup(weight("decoder.embed_positions.weight"), batch.positions);
        return mix(lookup(weight("decoder.embed_tokens.weight"), batch.tokens), positions);
      },
    },
    ...layers,
    {
      parameters: [...below("decoder.final_norm."), ...below("lm_head.")],
      run(scene, batch, h) {
        const { weight, loss } = scene;
        const last = norm(scene, h!, "decoder.final_norm");
        const head = weight(c.ownHead ? "lm_head.weight" : "decoder.embed_tokens.weight");
        return loss(last, head, weight("lm_head.bias"), batch.targets);
      },
    },
  ];
}

const norm = ({ weight, compute }: Scene, x: Tensor, name: string): Tensor =>
  layerNorm(x, weight(`${name}.gamma`), weight(`${name}.beta`), eps, compute);

function layer(c: CompactDecoderConfig, name: string, scene: Scene, batch: Batch, h: Tensor): Tensor {
  const { weight, block } = scene;
  const linear = (x: Tensor, matrix: string): Tensor =>
    denseTransposed(x, weight(`${name}.${matrix}.weight`), weight(`${name}.${matrix}.bias`));
  const params = {
    length: batch.length,
    headDim: c.headDim,
    scale: c.headDim ** -0.5,
    window: 0,
    softcap: 0,
  };
  return block((x) => {
    const a = norm(scene, x, `${name}.attention_norm`);
    const [q, k, v] = (["q", "k", "v"] as const).map((p) => linear(a, `attention.${p}_proj`));
    const attended = causalAttention(q!, k!, v!, params, undefined, batch.first);
    const between = mix(x, linear(attended, "attention.o_proj"));
    const b = norm(scene, between, `${name}.feed_forward_norm`);
    const gate = linear(b, "feed_forward.gate_proj");
    const up = linear(b, "feed_forward.up_proj");
    const inner = activation(gate, up, { kind: "silu" });
    return mix(between, linear(inner, "feed_forward.down_proj"));
  }, h);
}

/**
 * Initial values: matrices and embeddings normal 0.02, positions 0.01, the matrices that write to h 0.02 / sqrt(2 L), gammas
 * 1, everything else 0.
 */
function parametersOf(c: CompactDecoderConfig): ParameterSpec[] {
  const { width: D, feedForward: I } = c;
  const wide = c.heads * c.headDim;
  const writes = deviation / Math.sqrt(2 * c.layers);
  const list: ParameterSpec[] = [
    {
      name: "decoder.embed_tokens.weight",
      shape: [c.vocabularySize, D],
      class: "embedding",
      initial: normal(deviation),
    },
    {
      name: "decoder.embed_positions.weight",
      shape: [c.contextLength, D],
      class: "embedding",
      initial: normal(0.01),
    },
  ];
  const vector = (name: string, length: number, value: number, kind: ParameterClass): void => {
    list.push({ name, shape: [length], class: kind, initial: constant(value) });
  };
  const norm = (name: string): void => {
    vector(`${name}.gamma`, D, 1, "scalar");
    vector(`${name}.beta`, D, 0, "bias");
  };
  const linear = (name: string, from: number, to: number, spread: number): void => {
    list.push({ name: `${name}.weight`, shape: [from, to], class: "matrix", initial: normal(spread) });
    vector(`${name}.bias`, to, 0, "bias");
  };
  for (let layer = 0; layer < c.layers; layer++) {
    const name = `decoder.layers.${layer}`;
    norm(`${name}.attention_norm`);
    for (const p of ["q", "k", "v"]) linear(`${name}.attention.${p}_proj`, D, wide, deviation);
    linear(`${name}.attention.o_proj`, wide, D, writes);
    norm(`${name}.feed_forward_norm`);
    linear(`${name}.feed_forward.gate_proj`, D, I, deviation);
    linear(`${name}.feed_forward.up_proj`, D, I, deviation);
    linear(`${name}.feed_forward.down_proj`, I, D, writes);
  }
  norm("decoder.final_norm");
  if (c.ownHead) {
    const shape = [c.vocabularySize, D];
    list.push({ name: "lm_head.weight", shape, class: "head", initial: normal(deviation) });
  }
  vector("lm_head.bias", c.vocabularySize, 0, "bias");
  return list;
}
