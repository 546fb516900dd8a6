/** Random-weight models of real shapes, for benchmarks and tests. Used by make-random-gguf.ts. */
import { type DType, dtypes, isQuantised } from "../src/core/dtype.ts";
import type { MetadataValue, TensorToWrite } from "../src/models/files/gguf_writer.ts";
import { gemma4Parameters, gemma4Shapes, gemma4Tensors } from "./random-gemma4.ts";
import { qwen35Parameters, qwen35Shapes, qwen35Tensors } from "./random-qwen35.ts";
import { vocabulary } from "./random-vocabulary.ts";

export type ModelShape = {
  readonly architecture:
    | "llama"
    | "qwen2"
    | "qwen3"
    | "gemma3"
    | "gpt-oss"
    | "gemma4"
    | "qwen35"
    | "qwen35moe";
  readonly width: number;
  readonly layers: number;
  readonly feedForward: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocabulary: number;
  readonly context: number;
  readonly ropeBase: number;
  readonly tied: boolean;
  readonly experts?: number;
  readonly expertsUsed?: number;
  /** Where it is not `feedForward`. */
  readonly expertFeedForward?: number;
  readonly window?: number;
  readonly yarn?: { readonly factor: number; readonly originalContext: number };
  readonly qwen35?: {
    readonly keyHeads: number;
    readonly valueHeads: number;
    /** Of keys and values of the recurrent layers. */
    readonly stateDim: number;
    readonly rotaryDims: number;
    /** Width of the shared expert of sparse models. */
    readonly shared: number;
    /** Blocks behind the trunk that draft ahead. */
    readonly draftBlocks?: number;
  };
  readonly gemma4?: {
    readonly globalKvHeads: number;
    readonly globalHeadDim: number;
    readonly sharedLayers: number;
    readonly perLayerWidth: number;
    /** Global layers whose values are their raw keys. */
    readonly keysAreValues: boolean;
  };
};

const gptOss: Omit<ModelShape, "layers" | "vocabulary"> = {
  ...({ architecture: "gpt-oss", width: 2880, feedForward: 2880 } as const),
  ...{ heads: 64, kvHeads: 8, headDim: 64, context: 131072, ropeBase: 150000, tied: false },
  ...{ expertsUsed: 4, window: 128, yarn: { factor: 32, originalContext: 4096 } },
};
const tiny = {
  ...{ width: 256, layers: 2, feedForward: 512, heads: 4, kvHeads: 2, headDim: 64 },
  ...{ vocabulary: 320, context: 2048, ropeBase: 10000 },
};

export const shapes: Readonly<Record<string, ModelShape>> = {
  "llama-1.2b": {
    architecture: "llama",
    ...{ width: 2048, layers: 16, feedForward: 8192, heads: 32, kvHeads: 8, headDim: 64 },
    ...{ vocabulary: 128256, context: 131072, ropeBase: 5e5, tied: true },
  },
  "gpt-oss-4l": { ...gptOss, layers: 4, experts: 32, vocabulary: 32768 },
  "gpt-oss-20b": { ...gptOss, layers: 24, experts: 32, vocabulary: 201088 },
  "gpt-oss-120b": { ...gptOss, layers: 36, experts: 128, vocabulary: 201088 },
  "tiny-llama": { ...tiny, architecture: "llama", tied: true },
  "tiny-qwen2": { ...tiny, architecture: "qwen2", tied: false },
  "tiny-qwen3": { ...tiny, architecture: "qwen3", tied: false },
  "tiny-gemma3": { ...tiny, architecture: "gemma3", layers: 7, tied: true, window: 64 },
  "tiny-gpt-oss": {
    ...{ ...tiny, tied: false, experts: 8, expertsUsed: 2, window: 64 },
    architecture: "gpt-oss",
    yarn: { factor: 32, originalContext: 64 },
  },
  ...qwen35Shapes,
  ...gemma4Shapes,
};

/** The type of a shape's experts in published files; undefined where it has none. */
export function publishedExperts({ architecture, experts }: ModelShape): DType | undefined {
  if (experts === undefined) return undefined;
  return architecture === "gpt-oss" ? "mxfp4" : "q4_0";
}

export type RandomModelOptions = {
  readonly shape: ModelShape;
  /** Of the dense matrices. */
  readonly dtype: DType;
  /** Of the experts; absent: as the dense ones. */
  readonly expertDtype?: DType;
  /** Types of single matrices by name, such as `blk.0.attn_v.weight`. */
  readonly exceptions?: Readonly<Record<string, DType>>;
  readonly seed: number;
};

export type RandomModel = {
  readonly metadata: Readonly<Record<string, MetadataValue>>;
  readonly tensors: readonly TensorToWrite[];
};

/** A model that psionic and llama.cpp load; the same options give the same bytes. */
export function randomModel(options: RandomModelOptions): RandomModel {
  const { shape, seed, exceptions = {} } = options;
  const tensors = tensorList(options).map((planned, i): TensorToWrite => {
    const { name, dims } = planned;
    const dtype = exceptions[name] ?? planned.dtype;
    const kind = planned.kind ?? (/norm(_\d)?\.weight$/.test(name) ? "ones" : "normal");
    return { name, dtype, shape: dims, chunks: () => randomBytes(dtype, dims, kind, seed * 1000 + i) };
  });
  return { metadata: { ...hyperParameters(shape), ...vocabulary(shape) }, tensors };
}

/** `ones`: around one; `decay`: below zero; `rope`: divisors that turn a quarter of the pairs. */
type Kind = "normal" | "ones" | "decay" | "rope";

export type Planned = {
  readonly name: string;
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly kind?: Kind;
};

function tensorList({ shape: s, dtype, expertDtype = dtype }: RandomModelOptions): Planned[] {
  if (s.qwen35) return qwen35Tensors(s, s.qwen35, dtype, expertDtype);
  if (s.gemma4) return gemma4Tensors(s, s.gemma4, dtype, expertDtype);
  const list: Planned[] = [];
  const matrix = (name: string, ...dims: number[]) => list.push({ name: `${name}.weight`, dtype, dims });
  const vector = (name: string, ...dims: number[]) => list.push({ name, dtype: "f32", dims });
  const [q, kv] = [s.heads * s.headDim, s.kvHeads * s.headDim];
  const sparse = s.experts !== undefined;
  matrix("token_embd", s.vocabulary, s.width);
  if (!s.tied) matrix("output", s.vocabulary, s.width);
  vector("output_norm.weight", s.width);
  for (let i = 0; i < s.layers; i++) {
    const at = (part: string): string => `blk.${i}.${part}`;
    vector(at("attn_norm.weight"), s.width);
    matrix(at("attn_q"), q, s.width);
    matrix(at("attn_k"), kv, s.width);
    matrix(at("attn_v"), kv, s.width);
    matrix(at("attn_output"), s.width, q);
    if (s.architecture === "qwen2" || sparse) {
      vector(at("attn_q.bias"), q);
      vector(at("attn_k.bias"), kv);
      vector(at("attn_v.bias"), kv);
    }
    if (s.architecture === "qwen3" || s.architecture === "gemma3") {
      vector(at("attn_q_norm.weight"), s.headDim);
      vector(at("attn_k_norm.weight"), s.headDim);
    }
    if (s.architecture === "gemma3") vector(at("post_ffw_norm.weight"), s.width);
    if (s.architecture === "gemma3" || sparse) vector(at("post_attention_norm.weight"), s.width);
    if (!sparse) {
      vector(at("ffn_norm.weight"), s.width);
      matrix(at("ffn_gate"), s.feedForward, s.width);
      matrix(at("ffn_up"), s.feedForward, s.width);
      matrix(at("ffn_down"), s.width, s.feedForward);
      continue;
    }
    const e = s.experts;
    vector(at("attn_output.bias"), s.width);
    vector(at("attn_sinks.weight"), s.heads);
    vector(at("ffn_gate_inp.weight"), e, s.width);
    vector(at("ffn_gate_inp.bias"), e);
    for (const [part, out, inputs] of [
      ["ffn_gate_exps", s.feedForward, s.width],
      ["ffn_up_exps", s.feedForward, s.width],
      ["ffn_down_exps", s.width, s.feedForward],
    ] as const) {
      list.push({ name: at(`${part}.weight`), dtype: expertDtype, dims: [e, out, inputs] });
      vector(at(`${part}.bias`), e, out);
    }
  }
  return list;
}

function hyperParameters(s: ModelShape): Record<string, MetadataValue> {
  const key = (name: string): string => `${s.architecture}.${name}`;
  const u32 = (value: number): MetadataValue => ({ type: "u32", value });
  const f32 = (value: number): MetadataValue => ({ type: "f32", value });
  const all: Record<string, MetadataValue> = {
    "general.architecture": { type: "string", value: s.architecture },
    "general.name": { type: "string", value: `random ${s.architecture} ${s.layers}x${s.width}` },
    [key("context_length")]: u32(s.context),
    [key("embedding_length")]: u32(s.width),
    [key("block_count")]: u32(s.layers),
    [key("feed_forward_length")]: u32(s.feedForward),
    [key("attention.head_count")]: u32(s.heads),
    [key("attention.head_count_kv")]: u32(s.kvHeads),
    [key("attention.key_length")]: u32(s.headDim),
    [key("attention.value_length")]: u32(s.headDim),
    [key("attention.layer_norm_rms_epsilon")]: f32(1e-5),
    [key("rope.freq_base")]: f32(s.ropeBase),
    [key("rope.dimension_count")]: u32(s.headDim),
  };
  if (s.window !== undefined) all[key("attention.sliding_window")] = u32(s.window);
  if (s.experts !== undefined) {
    all[key("expert_count")] = u32(s.experts);
    all[key("expert_used_count")] = u32(s.expertsUsed ?? 1);
    all[key("expert_feed_forward_length")] = u32(s.expertFeedForward ?? s.feedForward);
  }
  if (s.yarn) {
    all[key("rope.scaling.type")] = { type: "string", value: "yarn" };
    all[key("rope.scaling.factor")] = f32(s.yarn.factor);
    all[key("rope.scaling.original_context_length")] = u32(s.yarn.originalContext);
  }
  return {
    ...all,
    ...(s.qwen35 && qwen35Parameters(s, s.qwen35)),
    ...(s.gemma4 && gemma4Parameters(s, s.gemma4)),
  };
}

const chunkRows = 1 << 20;

/** Bytes of a tensor whose values have standard deviation 1/sqrt(columns), in pieces of about a megabyte. */
function* randomBytes(
  dtype: DType,
  dims: readonly number[],
  kind: Kind,
  seed: number,
): Generator<Uint8Array> {
  const elements = dims.reduce((a, b) => a * b, 1);
  const { blockElements, blockBytes } = dtypes[dtype];
  const total = (elements / blockElements) * blockBytes;
  const columns = dims.at(-1)!;
  const deviation = 1 / Math.sqrt(dims.length === 1 ? 16 * columns : columns);
  const blocks = Math.min(elements / blockElements, Math.floor(chunkRows / blockBytes));
  const chunk = isQuantised(dtype)
    ? quantisedBlocks(dtype, blocks, deviation, seed)
    : floatBlocks(dtype, blocks, kind, deviation, seed);
  for (let done = 0; done < total; done += chunk.length)
    yield chunk.subarray(0, Math.min(chunk.length, total - done));
}

function floatBlocks(dtype: DType, count: number, kind: Kind, deviation: number, seed: number): Uint8Array {
  const next = generator(seed);
  // The sum of four uniform numbers is near enough to a normal one.
  const normal = (): number => (next() + next() + next() + next() - 2) * Math.sqrt(3) * deviation;
  const value: Readonly<Record<Kind, (i: number) => number>> = {
    normal,
    ones: () => 1 + normal(),
    decay: () => -(0.01 + next()),
    rope: (i) => (i < count / 4 ? 1 : 1e30),
  };
  const values = Float32Array.from({ length: count }, (_, i) => value[kind](i));
  if (dtype === "f32") return new Uint8Array(values.buffer);
  if (dtype === "f16") return new Uint8Array(Float16Array.from(values).buffer);
  if (dtype === "f64") return new Uint8Array(Float64Array.from(values).buffer);
  const words = new Uint32Array(values.buffer);
  return new Uint8Array(Uint16Array.from(words, (w) => w >>> 16).buffer); // bf16
}

/**
 * Scales of a block with random codes: offset of each f16 field and its value for a deviation of one. Means cancel
 * where a type has minima.
 */
export const scaleFields: Partial<Record<DType, readonly (readonly [offset: number, value: number])[]>> = {
  q8_0: [[0, 1 / 74]],
  q4_0: [[0, 1 / 4.6]],
  q4_1: [
    [0, 1 / 4.6],
    [2, -7.5 / 4.6],
  ],
  q5_0: [[0, 1 / 9.2]],
  q5_1: [
    [0, 1 / 9.2],
    [2, -15.5 / 9.2],
  ],
  iq4_nl: [[0, 1 / 70]],
  iq4_xs: [[0, 1 / (70 * 18.5)]],
  q2_k: [
    [80, 1 / 11],
    [82, 1.5 / 11],
  ],
  q3_k: [[108, 1 / 43]],
  q4_k: [
    [0, 1 / 290],
    [2, 7.5 / 290],
  ],
  q5_k: [
    [0, 1 / 600],
    [2, 15.5 / 600],
  ],
  q6_k: [[208, 1 / 1370]],
};

function quantisedBlocks(dtype: DType, count: number, deviation: number, seed: number): Uint8Array {
  const next = generator(seed);
  const { blockBytes } = dtypes[dtype];
  const out = new Uint8Array(count * blockBytes);
  for (let i = 0; i < out.length; i++) out[i] = next() * 256;
  const view = new DataView(out.buffer);
  for (let b = 0; b < count; b++) {
    const at = b * blockBytes;
    if (dtype === "mxfp4") out[at] = 128 + Math.round(Math.log2(deviation / 5.6));
    for (const [offset, value] of scaleFields[dtype] ?? []) {
      view.setFloat16(at + offset, value * deviation * (0.9 + 0.2 * next()), true);
    }
  }
  return out;
}

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
