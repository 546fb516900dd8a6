/**
 * GPT-OSS (gpt-oss-20b, gpt-oss-120b and smaller of the kind; model card, arXiv:2508.10925).
 *
 * Special: every second layer slides over a window; one sink logit per head in the softmax's denominator; YaRN over
 * the whole context with unrounded bounds; experts with biases and a clamped SwiGLU; softmax over the chosen experts.
 *
 *   h += Wo attention(rope(Wq a + bq), rope(Wk a + bk), Wv a + bv; sinks) + bo         a = RMS(h)
 *   h += sum over top-k of w_e (Wd_e clamped_swiglu(Wg_e b + bg_e, Wu_e b + bu_e) + bd_e)   b = RMS(h)
 */
import { unexpected } from "../core/error.ts";
import { embedding, gatherRows, rmsNorm } from "../runtime/functions.ts";
import type { Tensor } from "../runtime/tensor.ts";
import {
  type AttentionShape,
  type AttentionWeights,
  addCombined,
  addCombinedAndNorm,
  attend,
  type CachePlace,
  cacheGroups,
  chosenExperts,
  type GateUp,
  type Linear,
  linear,
  normAndRoute,
} from "./layers.ts";
import {
  checkpointScaling,
  ggufYarn,
  maxHeadDim,
  refusedInCheckpoints,
  refusedInGguf,
} from "./llama_config.ts";
import { decoder, type Model, type ModelConfig, type Step } from "./model.ts";
import { type RopeScaling, rotary } from "./rotary.ts";
import type { Settings } from "./settings.ts";
import { periodic, slidingFromCheckpoint, slidingFromGguf } from "./sliding_layers.ts";
import type { Weights } from "./weights.ts";

export type GptOssConfig = ModelConfig & {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly eps: number;
  readonly window: number;
  /** Which layers slide over the window. */
  readonly slides: readonly boolean[];
  readonly ropeBase: number;
  readonly ropeScaling: RopeScaling;
  /** undefined: tied when the file has no head of its own. */
  readonly tied?: boolean;
  readonly swigluLimit: number;
  readonly experts: number;
  readonly expertsUsed: number;
  readonly expertFeedForward: number;
  readonly expertScale: number;
};

/** Constants of the clamped SwiGLU. */
const alpha = 1.702;
const limit = 7;

export const gptOssArchitectures: readonly string[] = ["gpt-oss", "gptoss"];

/** From GGUF metadata; `gptoss` is the prefix of older files. `ggmlYarn` rounds the YaRN bounds as ggml does. */
export function gptOssConfigFromGguf(
  prefix: string,
  s: Settings,
  vocabularySize: number,
  expertFeedForward: number,
  ggmlYarn: boolean,
): GptOssConfig {
  const key = (name: string): string => `${prefix}.${name}`;
  const width = s.count(key("embedding_length"));
  const heads = s.count(key("attention.head_count"));
  const contextLength = s.count(key("context_length"));
  const headDim = s.count(key("attention.key_length"), Math.floor(width / heads));
  const layers = s.layers(key("block_count"));
  const ropeBase = s.number(key("rope.freq_base"), 10000);
  s.refuse(refusedInGguf(key, headDim, headDim));
  s.refuse({ [key("rope.freq_base_swa")]: [ropeBase], [key("expert_gating_func")]: [3] });
  return validated({
    architecture: "gpt-oss",
    name: s.string("general.name", "gpt-oss"),
    vocabularySize,
    contextLength,
    width,
    layers,
    heads,
    kvHeads: s.count(key("attention.head_count_kv")),
    headDim,
    eps: s.number(key("attention.layer_norm_rms_epsilon")),
    window: s.count(key("attention.sliding_window")),
    slides: slidingFromGguf(s, key("attention.sliding_window_pattern"), layers, 2),
    ropeBase,
    ropeScaling: ggufRopeScaling(s, key, contextLength, ggmlYarn),
    experts: s.count(key("expert_count")),
    expertsUsed: s.count(key("expert_used_count")),
    expertFeedForward: s.count(key("expert_feed_forward_length"), expertFeedForward),
    expertScale: s.number(key("expert_weights_scale"), 0) || 1,
    swigluLimit: limit,
  });
}

/** A factor without a type is YaRN's: older files leave it out. */
function ggufRopeScaling(
  s: Settings,
  key: (name: string) => string,
  contextLength: number,
  round: boolean,
): RopeScaling {
  const factor = s.number(key("rope.scaling.factor"), 1);
  const type = s.string(key("rope.scaling.type"), "yarn");
  if (type === "none" || factor <= 1) return { type: "none" };
  if (type !== "yarn") throw unexpected("unsupported", s.where, "rope scaling none or yarn", type);
  return { ...ggufYarn(s, key, factor, contextLength), round };
}

/** From a checkpoint's `config.json`. */
export function gptOssConfigFromCheckpoint(
  s: Settings,
  vocabularySize: number,
  ggmlYarn: boolean,
): GptOssConfig {
  const contextLength = s.count("max_position_embeddings");
  const rope = s.section("rope_parameters") ?? s.section("rope_scaling");
  const scaling = checkpointScaling(rope, contextLength);
  const layers = s.layers("num_hidden_layers");
  s.refuse({ ...refusedInCheckpoints, hidden_act: ["silu"] });
  const method = s.section("quantization_config")?.string("quant_method", "mxfp4") ?? "mxfp4";
  if (method !== "mxfp4") throw unexpected("unsupported", s.where, "quant_method mxfp4 or none", method);
  return validated({
    architecture: "gpt-oss",
    name: s.string("_name_or_path", "gpt-oss"),
    vocabularySize,
    contextLength,
    width: s.count("hidden_size"),
    layers,
    heads: s.count("num_attention_heads"),
    kvHeads: s.count("num_key_value_heads"),
    headDim: s.count("head_dim"),
    eps: s.number("rms_norm_eps"),
    window: s.count("sliding_window"),
    slides: slidingFromCheckpoint(s, layers, periodic(layers, 2)),
    ropeBase: rope?.has("rope_theta") ? rope.number("rope_theta") : s.number("rope_theta", 150000),
    ropeScaling: scaling.type === "yarn" && ggmlYarn ? { ...scaling, round: true } : scaling,
    experts: s.count("num_local_experts"),
    expertsUsed: s.count("num_experts_per_tok", s.count("experts_per_token", 4)),
    expertFeedForward: s.count("intermediate_size"),
    expertScale: 1,
    tied: s.boolean("tie_word_embeddings", false),
    swigluLimit: s.number("swiglu_limit", limit),
  });
}

function validated(c: GptOssConfig): GptOssConfig {
  const sound =
    c.layers > 0 &&
    c.headDim > 0 &&
    c.headDim <= maxHeadDim &&
    c.headDim % 2 === 0 &&
    c.kvHeads > 0 &&
    c.heads % c.kvHeads === 0 &&
    c.expertsUsed >= 1 &&
    c.expertsUsed <= c.experts &&
    c.vocabularySize > 0 &&
    c.ropeBase > 1;
  if (!sound)
    throw unexpected(
      "file_malformed",
      "gpt-oss",
      "consistent head, layer and expert counts",
      JSON.stringify({ ...c, slides: undefined }),
    );
  return c;
}

type Layer = {
  readonly attentionNorm: Tensor; // [D]
  readonly attention: AttentionWeights; // with biases and sinks [H]
  readonly shape: AttentionShape;
  readonly mlpNorm: Tensor; // [D]
  readonly router: Linear; // [E, D]
  readonly gateUp: GateUp; // [E, 2F, D]
  readonly down: Linear; // [E, D, F]
};

export function loadGptOss(c: GptOssConfig, w: Weights): Model {
  const { invFreq, mscale } = rotary(c.ropeBase, c.headDim, c.ropeScaling);
  const rotaryTable = { invFreq: w.constant(invFreq), mscale };
  const layers = Array.from({ length: c.layers }, (_, i) => loadLayer(c, w, i, rotaryTable));
  const { groups, places } = cacheGroups(layers.map(({ shape }) => shape));
  const tied = c.tied ?? !w.has("output.weight");
  const head = w.head(tied ? "token_embd" : "output", c.vocabularySize, c.width);
  const table = tied ? head.weight : w.table("token_embd", c.vocabularySize, c.width);
  const outputNorm = w.vector("output_norm.weight", c.width);
  return {
    config: c,
    cacheGroups: groups,
    parameters: w.parameters,
    weightBytes: w.residentBytes,
    ...decoder(
      (step) => hidden(c, { table, layers, places, outputNorm }, step),
      (x) => linear(x, head),
    ),
    free: () => w.free(),
  };
}

/** First of the names a file may use for the same tensor (older files differ). */
function oneOf(w: Weights, ...names: readonly string[]): string {
  return names.find((name) => w.has(name)) ?? names[0]!;
}

function loadLayer(c: GptOssConfig, w: Weights, i: number, rotaryTable: AttentionShape["rotary"]): Layer {
  const name = (part: string): string => `blk.${i}.${part}`;
  const q = c.heads * c.headDim;
  const kv = c.kvHeads * c.headDim;
  const qkv = w.has(`${name("attn_qkv")}.weight`)
    ? {
        parts: [w.linear(name("attn_qkv"), q + 2 * kv, c.width)],
        at: [0, q, q + kv].map((offset) => ({ part: 0, offset })),
      }
    : w.linears(
        [
          { name: name("attn_q"), outputs: q },
          { name: name("attn_k"), outputs: kv },
          { name: name("attn_v"), outputs: kv },
        ],
        c.width,
      );
  const output = oneOf(w, name("attn_output.weight"), name("attn_out.weight")).replace(/\.weight$/, "");
  return {
    attentionNorm: w.vector(name("attn_norm.weight"), c.width),
    attention: {
      qkv: qkv.parts,
      at: qkv.at,
      output: w.linear(output, c.width, q),
      sinks: w.vector(oneOf(w, name("attn_sinks.weight"), name("attn_sinks")), c.heads),
    },
    shape: {
      heads: c.heads,
      kvHeads: c.kvHeads,
      headDim: c.headDim,
      window: c.slides[i] ? c.window : 0,
      scale: 1 / Math.sqrt(c.headDim),
      softcap: 0,
      eps: c.eps,
      neox: true,
      rotary: rotaryTable,
    },
    mlpNorm: w.vector(oneOf(w, name("post_attention_norm.weight"), name("ffn_norm.weight")), c.width),
    router: w.linear(name("ffn_gate_inp"), c.experts, c.width),
    gateUp: w.expertGateUp(i, c.experts, c.expertFeedForward, c.width),
    down: w.experts([name("ffn_down_exps")], c.experts, c.width, c.expertFeedForward),
  };
}

type Parts = {
  readonly table: Tensor; // [V, D]
  readonly layers: readonly Layer[];
  readonly places: readonly CachePlace[];
  readonly outputNorm: Tensor; // [D]
};

/** Normed hidden states f32 [R, D] of the wanted rows. */
function hidden(c: GptOssConfig, parts: Parts, step: Step): Tensor {
  const { table, layers, places, outputNorm } = parts;
  let h = embedding(table, step.tokens); // [T, D]
  const a = rmsNorm(h, layers[0]!.attentionNorm, c.eps); // each layer leaves the next one's
  const device = h.device;
  for (const [i, layer] of layers.entries()) {
    const last = i === layers.length - 1;
    // Past the last layer's attention only the wanted rows go on.
    const kept = last ? device.temporary({ dtype: "f32", shape: [step.outputRows.shape[0]!, c.width] }) : h;
    {
      using _layer = device.scope();
      let heads = attend(a, layer.attention, layer.shape, step, places[i]!);
      if (last) {
        heads = gatherRows(heads, step.outputRows);
        h = gatherRows(h, step.outputRows);
      }
      const o = linear(heads, layer.attention.output);
      const { results, weights } = experts(c, layer, h, o); // h += o
      if (last) addCombined(h, results, weights, kept);
      else addCombinedAndNorm(h, results, weights, layers[i + 1]!.attentionNorm, c.eps, a); // h += ...
    }
    h = kept;
  }
  return rmsNorm(h, outputNorm, c.eps);
}

/** Adds o [T, D] to h; the results of the experts that the normed sum is routed to, [T * k, D], and their weights. */
function experts(c: GptOssConfig, layer: Layer, h: Tensor, o: Tensor) {
  const routing = {
    ...({ mode: "softmaxOfChosen", normalize: false } as const),
    ...{ used: c.expertsUsed, scale: c.expertScale },
  };
  const { b, ids, weights } = normAndRoute(h, o, layer.mlpNorm, layer.router, routing, c.eps);
  const results = chosenExperts(b, ids, layer, { kind: "clamped", alpha, limit: c.swigluLimit });
  return { results, weights };
}
