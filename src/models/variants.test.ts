import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type ModelShape, type RandomModel, randomModel, shapes } from "../../scripts/random-model.ts";
import { openDevice } from "../backends/index.ts";
import { planDigest } from "../compiler/digest.ts";
import { PsionicError } from "../core/error.ts";
import { record } from "../runtime/recorder.ts";
import type { MetadataValue } from "./files/gguf_writer.ts";
import { denseEntries, gptOssEntries, writeCheckpoint } from "./testing/checkpoints.ts";
import { normalisedSquaredError, openSession } from "./testing/session.ts";
import {
  dequantised,
  dequantisedTwin,
  holding,
  joinRows,
  mapTensors,
  temporaryFolder,
  writeModel,
} from "./testing/variants.ts";

/** Longer than the tiny models' window of 64. */
const ids = Array.from({ length: 90 }, (_, i) => (i * 53 + 7) % 300);
const device = openDevice("cpu", { threads: 1 });
const folder = temporaryFolder();
let files = 0;
afterAll(() => {
  device.close();
  folder[Symbol.dispose]();
});

const shape = (name: string): ModelShape => shapes[`tiny-${name}`]!;
const place = (name: string): string => join(folder.path, `${files++}-${name}`);
const write = (model: RandomModel): string => writeModel(place("model.gguf"), model);
const withMetadata = (model: RandomModel, more: Readonly<Record<string, MetadataValue>>): RandomModel => ({
  ...model,
  metadata: { ...model.metadata, ...more },
});

function logits(path: string): Float32Array {
  const session = openSession(device, path);
  try {
    return session.run([ids]);
  } finally {
    session.close();
  }
}

/** `config.json` of a random model's shape. */
const config = (s: ModelShape) => ({
  ...{ hidden_size: s.width, num_hidden_layers: s.layers, intermediate_size: s.feedForward },
  ...{ num_attention_heads: s.heads, num_key_value_heads: s.kvHeads, head_dim: s.headDim },
  ...{ max_position_embeddings: s.context, rms_norm_eps: 1e-5, rope_theta: s.ropeBase },
});

function refusal(model: RandomModel | string): string {
  try {
    logits(typeof model === "string" ? model : write(model));
  } catch (error) {
    if (error instanceof PsionicError) return `${error.code} ${error.message}`;
    throw error;
  }
  throw new Error("expected a refusal, got logits");
}

describe("families", () => {
  test.each(["llama", "qwen2", "qwen3", "gemma3", "gpt-oss"])(
    "%s: finite logits, in chunks as at once, planned as computed",
    (name) => {
      const path = write(randomModel({ shape: shape(name), dtype: "q8_0", seed: 4 }));
      const session = openSession(device, path, { cacheType: "f16" });
      const whole = session.run([ids]);
      expect(whole.every(Number.isFinite)).toBe(true);
      expect(new Set(whole).size).toBeGreaterThan(1000);
      expect(session.run([ids.slice(0, 3), ids.slice(3, 70), ids.slice(70, 71), ids.slice(71)])).toEqual(
        whole,
      );
      const program = record(device, () => session.run([ids]));
      session.close();
      const meta = openDevice("meta");
      const planned = openSession(meta, path, { cacheType: "f16" });
      expect(planDigest(record(meta, () => planned.run([ids])))).toBe(planDigest(program));
      planned.close();
      meta.close();
      expect(device.live().tensors).toBe(0);
    },
  );

  test("qwen2's biases, qwen3's head norms and gemma3's sandwich norms count", () => {
    for (const [name, part] of [
      ["qwen2", "attn_k.bias"],
      ["qwen3", "attn_q_norm.weight"],
      ["gemma3", "post_ffw_norm.weight"],
    ] as const) {
      const model = randomModel({ shape: shape(name), dtype: "f16", seed: 5 });
      const doubled = mapTensors(model, (t) =>
        t.name === `blk.0.${part}`
          ? holding(
              t,
              "f32",
              dequantised(t).map((x) => 2 * x + 0.3),
            )
          : t,
      );
      expect(normalisedSquaredError(logits(write(doubled)), logits(write(model)))).toBeGreaterThan(1e-6);
    }
  });
});

describe("the same model written another way", () => {
  test("q, k, v and gate, up of different types", () => {
    const exceptions = {
      "blk.0.attn_v.weight": "q6_k",
      "blk.1.attn_q.weight": "q8_0",
      "blk.0.ffn_gate.weight": "q5_0",
    } as const;
    const model = randomModel({ shape: shape("llama"), dtype: "q4_k", exceptions, seed: 6 });
    expect(normalisedSquaredError(logits(write(model)), logits(write(dequantisedTwin(model))))).toBeLessThan(
      1e-3,
    );
  });

  test("a head of its own that equals the embedding", () => {
    const tied = randomModel({ shape: shape("llama"), dtype: "q8_0", seed: 7 });
    const table = tied.tensors.find((t) => t.name === "token_embd.weight")!;
    const untied = { ...tied, tensors: [...tied.tensors, { ...table, name: "output.weight" }] };
    expect(logits(write(untied))).toEqual(logits(write(tied)));
  });

  test("attn_qkv in one", () => {
    const model = randomModel({ shape: shape("qwen2"), dtype: "q8_0", seed: 8 });
    let fused = model;
    for (const i of [0, 1]) {
      for (const kind of ["weight", "bias"]) {
        const names = ["q", "k", "v"].map((part) => `blk.${i}.attn_${part}.${kind}`);
        fused = joinRows(fused, names, `blk.${i}.attn_qkv.${kind}`);
      }
    }
    expect(logits(write(fused))).toEqual(logits(write(model)));
  });

  test("ffn_gate_up_exps in one, and the names of older GPT-OSS files", () => {
    const model = randomModel({ shape: shape("gpt-oss"), dtype: "q8_0", expertDtype: "mxfp4", seed: 9 });
    const expected = logits(write(model));
    let merged = model;
    for (const i of [0, 1]) {
      for (const kind of ["weight", "bias"]) {
        const names = ["gate", "up"].map((part) => `blk.${i}.ffn_${part}_exps.${kind}`);
        merged = joinRows(merged, names, `blk.${i}.ffn_gate_up_exps.${kind}`);
      }
    }
    expect(logits(write(merged))).toEqual(expected);
    const renamed = mapTensors(merged, (t) => ({
      ...t,
      name: t.name
        .replace("attn_output", "attn_out")
        .replace("attn_sinks.weight", "attn_sinks")
        .replace("post_attention_norm", "ffn_norm"),
    }));
    const keys = Object.entries(model.metadata)
      .filter(([key]) => !/expert_feed_forward_length|rope\.scaling\.type/.test(key))
      .map(([key, value]) => [key.replace("gpt-oss.", "gptoss."), value] as const);
    const metadata = {
      ...Object.fromEntries(keys),
      "general.architecture": { type: "string", value: "gptoss" } as const,
    };
    expect(logits(write({ ...renamed, metadata }))).toEqual(expected);
  });

  test("per-layer lists where a scalar is usual", () => {
    const model = randomModel({ shape: shape("llama"), dtype: "q8_0", seed: 10 });
    const each = (value: number): MetadataValue => ({
      type: "array",
      elementType: "i32",
      value: [value, value],
    });
    const lists = {
      "llama.attention.head_count": each(4),
      "llama.attention.head_count_kv": each(2),
      "llama.feed_forward_length": each(512),
    };
    expect(logits(write(withMetadata(model, lists)))).toEqual(logits(write(model)));
  });
});

describe("Hugging Face folders", () => {
  const close = (a: Float32Array, b: Float32Array): void =>
    expect(normalisedSquaredError(a, b)).toBeLessThan(1e-9);

  test("llama: rows of queries and keys in another order", () => {
    const model = randomModel({ shape: shape("llama"), dtype: "f32", seed: 11 });
    const norms = { ffn_norm: "post_attention_layernorm" };
    const entries = denseEntries(model, { norms, permutedHeadDim: 64 });
    const llama = { ...config(shape("llama")), model_type: "llama", tie_word_embeddings: true };
    close(logits(writeCheckpoint(place("hf"), llama, entries)), logits(write(model)));
  });

  test("mistral slides in every layer, as a llama file with a window does", () => {
    const model = randomModel({ shape: shape("llama"), dtype: "f32", seed: 12 });
    const norms = { ffn_norm: "post_attention_layernorm" };
    const entries = denseEntries(model, { norms, permutedHeadDim: 64 });
    const mistral = { ...config(shape("llama")), model_type: "mistral", tie_word_embeddings: true };
    const windowed = withMetadata(model, { "llama.attention.sliding_window": { type: "u32", value: 32 } });
    const whole = logits(write(model));
    const slid = logits(write(windowed));
    expect(normalisedSquaredError(slid, whole)).toBeGreaterThan(1e-6);
    close(logits(writeCheckpoint(place("hf"), { ...mistral, sliding_window: 32 }, entries)), slid);
    close(logits(writeCheckpoint(place("hf"), { ...mistral, sliding_window: null }, entries)), whole);
  });

  test("qwen3: a head of its own, head norms", () => {
    const model = randomModel({ shape: shape("qwen3"), dtype: "f32", seed: 13 });
    const entries = denseEntries(model, { norms: { ffn_norm: "post_attention_layernorm" } });
    const qwen = { ...config(shape("qwen3")), model_type: "qwen3", tie_word_embeddings: false };
    close(logits(writeCheckpoint(place("hf"), qwen, entries)), logits(write(model)));
    const headless = entries.filter((e) => e.name !== "lm_head.weight");
    expect(refusal(writeCheckpoint(place("hf"), qwen, headless))).toContain("lm_head.weight");
  });

  test("gemma3: norms stored less one, layer kinds listed, a window's own rotary base", () => {
    const s = shape("gemma3");
    const model = randomModel({ shape: { ...s, ropeBase: 1e6 }, dtype: "f32", seed: 14 });
    const norms = {
      post_attention_norm: "post_attention_layernorm",
      ffn_norm: "pre_feedforward_layernorm",
      post_ffw_norm: "post_feedforward_layernorm",
    };
    const change = (t: { name: string }, values: Float32Array) =>
      t.name.endsWith("norm.weight") ? values.map((x) => x - 1) : values;
    const entries = denseEntries(model, { norms, change });
    const layer_types = Array.from({ length: 7 }, (_, i) =>
      i === 5 ? "full_attention" : "sliding_attention",
    );
    const { rope_theta: _, ...rest } = config(s);
    const gemma = {
      ...rest,
      model_type: "gemma3_text",
      query_pre_attn_scalar: 64,
      sliding_window: 64,
      layer_types,
    };
    const expected = logits(write(model));
    close(logits(writeCheckpoint(place("hf"), gemma, entries)), expected);
    const nested = { model_type: "gemma3", text_config: { ...gemma, layer_types: undefined } };
    close(logits(writeCheckpoint(place("hf"), nested, entries)), expected);
  });

  test("gpt-oss with MXFP4 blocks and scales: the bits of its GGUF twin", () => {
    const s = shape("gpt-oss");
    const model = randomModel({ shape: s, dtype: "f32", expertDtype: "mxfp4", seed: 15 });
    const oss = {
      ...{
        ...config(s),
        model_type: "gpt_oss",
        num_local_experts: 8,
        num_experts_per_tok: 2,
        sliding_window: 64,
      },
      rope_scaling: { rope_type: "yarn", factor: 32, original_max_position_embeddings: 64, truncate: false },
      ...{ swiglu_limit: 7, quantization_config: { quant_method: "mxfp4" } },
    };
    const path = writeCheckpoint(place("hf"), oss, gptOssEntries(model, s.layers));
    expect(logits(path)).toEqual(logits(write(model)));
  });
});

describe("what would be computed wrongly is refused by name", () => {
  const llama = randomModel({ shape: shape("llama"), dtype: "q8_0", seed: 16 });
  const f32 = (value: number): MetadataValue => ({ type: "f32", value });

  test.each([
    ["llama.logit_scale", f32(0.5), "llama.logit_scale to be 0 or 1, got number 0.5"],
    ["llama.attention.clamp_kqv", f32(8), "llama.attention.clamp_kqv"],
    ["llama.attention.value_length", { type: "u32", value: 32 }, "llama.attention.value_length to be 64"],
    ["general.type", { type: "string", value: "mmproj" }, "general.type to be model"],
    ["llama.rope.scaling.type", { type: "string", value: "longrope" }, "got longrope"],
    ["llama.attention.head_count_kv", { type: "u32", value: 3 }, "heads a multiple of kv heads"],
    ["llama.block_count", { type: "u32", value: 4_000_000 }, "1 to 4096 layers"],
    ["llama.block_count", { type: "u32", value: 3 }, "a tensor blk.2.attn_norm.weight"],
    ["llama.block_count", { type: "u32", value: 1 }, "only tensors that its architecture uses, got blk.1."],
    ["llama.embedding_length", { type: "string", value: "256" }, "a number for llama.embedding_length"],
    ["llama.feed_forward_length", { type: "u32", value: 256 }, "shape [256, 256], got [512, 256]"],
  ] as const)("%s", (key, value, message) => {
    expect(refusal(withMetadata(llama, { [key]: value }))).toContain(message);
    expect(device.live().tensors).toBe(0);
  });

  test("but not the tensors of an image tower", () => {
    const tower = holding({ name: "v.blk.0.attn_q.weight", shape: [4] }, "f32", new Float32Array(4));
    expect(logits(write({ ...llama, tensors: [...llama.tensors, tower] }))).toEqual(logits(write(llama)));
  });

  test("a checkpoint whose vocab_size is not its embedding's", () => {
    const s = shape("llama");
    const model = randomModel({ shape: s, dtype: "f32", seed: 17 });
    const norms = { ffn_norm: "post_attention_layernorm" };
    const entries = denseEntries(model, { norms, permutedHeadDim: 64 });
    const of = (vocab_size: number | undefined) => {
      const stated = { ...config(s), model_type: "llama", tie_word_embeddings: true, vocab_size };
      return writeCheckpoint(place("hf"), stated, entries);
    };
    for (const wrong of [s.vocabulary - 1, s.vocabulary + 64]) {
      expect(refusal(of(wrong))).toContain(`file_malformed [${folder.path}`);
      expect(refusal(of(wrong))).toContain(`vocab_size says, ${wrong}, got ${s.vocabulary}`);
    }
    expect(logits(of(s.vocabulary))).toEqual(logits(of(undefined)));
  });

  test("checkpoints of experts by name, with the form that is read; experts kept apart in old files", () => {
    const norms = { ffn_norm: "post_attention_layernorm" };
    const entries = denseEntries(llama, { norms, permutedHeadDim: 64 });
    const of = (model_type: string) =>
      refusal(writeCheckpoint(place("hf"), { ...config(shape("llama")), model_type }, entries));
    expect(of("mixtral")).toMatch(/^unsupported .*got "mixtral".*from GGUF \(architecture llama\)/);
    expect(of("qwen3_moe")).toMatch(/^unsupported .*got "qwen3_moe".*from GGUF \(architecture qwen3moe\)/);
    expect(of("qwen2_moe")).toMatch(/model_type of llama, .*gpt_oss, got "qwen2_moe"$/);
    const apart = holding({ name: "blk.0.ffn_gate.0.weight", shape: [4] }, "f32", new Float32Array(4));
    expect(refusal(write({ ...llama, tensors: [...llama.tensors, apart] }))).toContain(
      "one tensor for all experts of a layer, got one for each expert",
    );
  });

  test("an architecture nobody knows, and weights in integers", () => {
    const bert = withMetadata(llama, { "general.architecture": { type: "string", value: "bert" } });
    expect(refusal(bert)).toContain("unsupported");
    const integers = mapTensors(llama, (t) =>
      t.name === "blk.0.ffn_up.weight" ? holding(t, "i32", new Int32Array(512 * 256)) : t,
    );
    expect(refusal(integers)).toContain(
      "blk.0.ffn_up.weight] expected a tensor type the kernels know, got i32",
    );
  });
});
