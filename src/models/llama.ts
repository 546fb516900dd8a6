/**
 * Llama-type decoders: llama and mistral, qwen2 (q, k, v biases), qwen3 (per-head q and k norms), gemma3 (sandwich
 * norms, GELU, scaled embedding, five sliding layers to one global), and the sparse forms with softmax routing.
 *
 *   h = embed(tokens)
 *   h += Wo attention(rope(norm(Wq a)), rope(norm(Wk a)), Wv a)     a = RMS(h)
 *   h += Wd (act(Wg b) * (Wu b))                                      b = RMS(h)
 *   logits = W RMS(h)
 */
import {
  add,
  addRmsNorm,
  embedding,
  gatherRows,
  moeCombine,
  rmsNorm,
  softcap,
} from "../runtime/functions.ts";
import type { Tensor } from "../runtime/tensor.ts";
import {
  type AttentionShape,
  type AttentionWeights,
  addCombined,
  attend,
  type CachePlace,
  cacheGroups,
  chosenExperts,
  type GateUp,
  gatedMlp,
  type Linear,
  linear,
  normAndRoute,
} from "./layers.ts";
import type { LlamaConfig } from "./llama_config.ts";
import { type Classifier, decoder, type Model, type Step } from "./model.ts";
import { rotary } from "./rotary.ts";
import type { Weights } from "./weights.ts";

type Mlp =
  | { readonly kind: "dense"; readonly gateUp: GateUp; readonly down: Linear }
  | {
      readonly kind: "sparse";
      readonly router: Linear;
      readonly gateUp: GateUp;
      readonly down: Linear;
    };

type Layer = {
  readonly attentionNorm: Tensor; // [D]
  readonly attention: AttentionWeights;
  readonly shape: AttentionShape;
  readonly postAttentionNorm?: Tensor; // [D], gemma3
  readonly mlpNorm: Tensor; // [D]
  readonly mlp: Mlp;
  readonly postMlpNorm?: Tensor; // [D], gemma3
};

export function loadLlama(c: LlamaConfig, w: Weights): Model {
  const rotaries = rotaryTables(c, w);
  const layers = Array.from({ length: c.layers }, (_, i) => loadLayer(c, w, i, rotaries));
  const { groups, places } = cacheGroups(layers.map(({ shape }) => shape));
  const tied = c.tied ?? !w.has("output.weight");
  const head = w.head(tied ? "token_embd" : "output", c.vocabularySize, c.width);
  const table = tied ? head.weight : w.table("token_embd", c.vocabularySize, c.width);
  const outputNorm = norm(c, w, "output_norm", c.width);
  const classifier = loadClassifier(c, w);
  return {
    config: c,
    cacheGroups: groups,
    ...(classifier && { classifier }),
    parameters: w.parameters,
    weightBytes: w.residentBytes,
    ...decoder(
      (step) => hidden(c, { table, layers, places, outputNorm }, step),
      (x) => logits(c, head, x),
    ),
    free: () => w.free(),
  };
}

/** Of rerankers: what is made of a hidden state in the place of logits. */
function loadClassifier(c: LlamaConfig, w: Weights): Classifier | undefined {
  if (!w.has("cls.output.weight")) return undefined;
  const weights = w.hostRows("cls.output.weight", c.width);
  const labels = weights.length / c.width;
  const bias = w.has("cls.output.bias") ? w.hostVector("cls.output.bias", labels) : new Float32Array(labels);
  return { weights, bias };
}

function norm(c: LlamaConfig, w: Weights, name: string, width: number): Tensor {
  return w.vector(`${name}.weight`, width, c.zeroCentredNorms ? 1 : 0);
}

function rotaryTables(
  c: LlamaConfig,
  w: Weights,
): { full: AttentionShape["rotary"]; sliding: AttentionShape["rotary"] } {
  const factors = w.has("rope_freqs.weight")
    ? w.hostVector("rope_freqs.weight", c.rotaryDims / 2)
    : undefined;
  const full = rotary(c.ropeBase, c.rotaryDims, c.ropeScaling, factors);
  const separate = c.slidingRope && c.slides.includes(true) ? c.slidingRope : undefined;
  const onDevice = (r: { invFreq: Float32Array; mscale: number }): AttentionShape["rotary"] => ({
    invFreq: w.constant(r.invFreq),
    mscale: r.mscale,
  });
  const placed = onDevice(full);
  if (!separate) return { full: placed, sliding: placed };
  return { full: placed, sliding: onDevice(rotary(separate.base, c.rotaryDims, separate.scaling)) };
}

function loadLayer(c: LlamaConfig, w: Weights, i: number, rotaries: ReturnType<typeof rotaryTables>): Layer {
  const name = (part: string): string => `blk.${i}.${part}`;
  const slides = c.slides[i]!;
  const optionalNorm = (part: string, width: number): Tensor | undefined =>
    w.has(`${name(part)}.weight`) ? norm(c, w, name(part), width) : undefined;
  return {
    attentionNorm: norm(c, w, name("attn_norm"), c.width),
    attention: loadAttention(c, w, i, optionalNorm),
    shape: {
      heads: c.heads[i]!,
      kvHeads: c.kvHeads[i]!,
      headDim: c.headDim,
      window: slides ? c.window : 0,
      scale: c.attentionScale,
      softcap: c.attentionSoftcap,
      eps: c.eps,
      neox: c.neox,
      rotary: slides ? rotaries.sliding : rotaries.full,
    },
    postAttentionNorm: optionalNorm("post_attention_norm", c.width),
    mlpNorm: norm(c, w, name("ffn_norm"), c.width),
    mlp: w.has(`${name("ffn_gate_inp")}.weight`) ? loadSparse(c, w, i) : loadDense(c, w, i),
    postMlpNorm: optionalNorm("post_ffw_norm", c.width),
  };
}

function loadAttention(
  c: LlamaConfig,
  w: Weights,
  i: number,
  optionalNorm: (part: string, width: number) => Tensor | undefined,
): AttentionWeights {
  const q = c.heads[i]! * c.headDim;
  const kv = c.kvHeads[i]! * c.headDim;
  const qkv = w.has(`blk.${i}.attn_qkv.weight`)
    ? {
        parts: [w.linear(`blk.${i}.attn_qkv`, q + 2 * kv, c.width)],
        at: [0, q, q + kv].map((offset) => ({ part: 0, offset })),
      }
    : w.linears(
        [
          { name: `blk.${i}.attn_q`, outputs: q },
          { name: `blk.${i}.attn_k`, outputs: kv },
          { name: `blk.${i}.attn_v`, outputs: kv },
        ],
        c.width,
      );
  return {
    qkv: qkv.parts,
    at: qkv.at,
    output: w.linear(`blk.${i}.attn_output`, c.width, q),
    qNorm: optionalNorm("attn_q_norm", c.headDim),
    kNorm: optionalNorm("attn_k_norm", c.headDim),
  };
}

function loadDense(c: LlamaConfig, w: Weights, i: number): Mlp {
  const f = c.feedForward[i]!;
  return {
    kind: "dense",
    gateUp: w.gateUp(`blk.${i}.ffn_gate`, `blk.${i}.ffn_up`, f, c.width),
    down: w.linear(`blk.${i}.ffn_down`, c.width, f),
  };
}

function loadSparse(c: LlamaConfig, w: Weights, i: number): Mlp {
  const f = c.expertFeedForward;
  return {
    kind: "sparse",
    router: w.linear(`blk.${i}.ffn_gate_inp`, c.experts, c.width),
    gateUp: w.expertGateUp(i, c.experts, f, c.width),
    down: w.experts([`blk.${i}.ffn_down_exps`], c.experts, c.width, f),
  };
}

type Parts = {
  readonly table: Tensor; // [V, D]
  readonly layers: readonly Layer[];
  readonly places: readonly CachePlace[];
  readonly outputNorm: Tensor; // [D]
};

/** Normed hidden states f32 [R, D] of the wanted rows. */
function hidden(c: LlamaConfig, parts: Parts, step: Step): Tensor {
  const { table, layers, places, outputNorm } = parts;
  let h = embedding(table, step.tokens, c.embeddingScale); // [T, D]
  const device = h.device;
  for (const [i, layer] of layers.entries()) {
    const last = i === layers.length - 1;
    // Past the last layer's attention only the wanted rows go on.
    const kept = last ? device.temporary({ dtype: "f32", shape: [step.outputRows.shape[0]!, c.width] }) : h;
    {
      using _layer = device.scope();
      let heads = attend(
        rmsNorm(h, layer.attentionNorm, c.eps),
        layer.attention,
        layer.shape,
        step,
        places[i]!,
      );
      if (last) {
        heads = gatherRows(heads, step.outputRows);
        h = gatherRows(h, step.outputRows);
      }
      let o = linear(heads, layer.attention.output); // [T, D]
      if (layer.postAttentionNorm) o = rmsNorm(o, layer.postAttentionNorm, c.eps);
      addMlp(c, layer, h, o, kept); // h += ...
    }
    h = kept;
  }
  return rmsNorm(h, outputNorm, c.eps);
}

/** Logits f32 [R, V] for normed hidden states [R, D]. */
function logits(c: LlamaConfig, head: Linear, x: Tensor): Tensor {
  const all = linear(x, head);
  return c.finalSoftcap > 0 ? softcap(all, c.finalSoftcap) : all;
}

/** Adds o [T, D] to h, then what the layer's MLP or experts make of the normed sum. */
function addMlp(c: LlamaConfig, layer: Layer, h: Tensor, o: Tensor, into: Tensor): void {
  const { mlp, mlpNorm, postMlpNorm } = layer;
  const normed = (m: Tensor): Tensor => (postMlpNorm ? rmsNorm(m, postMlpNorm, c.eps) : m);
  if (mlp.kind === "dense") {
    const b = addRmsNorm(h, o, mlpNorm, c.eps); // h += o
    add(h, normed(gatedMlp(b, mlp.gateUp, mlp.down, c.activation)), into);
    return;
  }
  const { b, ids, weights } = normAndRoute(
    h,
    o,
    mlpNorm,
    mlp.router,
    { mode: c.routing, used: c.expertsUsed, normalize: c.normalizeExperts, scale: c.expertScale },
    c.eps,
  ); // h += o
  const results = chosenExperts(b, ids, mlp, { kind: c.activation });
  if (postMlpNorm) add(h, normed(moeCombine(results, weights)), into);
  else addCombined(h, results, weights, into);
}
