import { afterAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { type ModelShape, type RandomModel, randomModel, shapes } from "../../scripts/random-model.ts";
import { openDevice } from "../backends/index.ts";
import { planDigest } from "../compiler/digest.ts";
import { PsionicError } from "../core/error.ts";
import { record } from "../runtime/recorder.ts";
import type { MetadataValue, TensorToWrite } from "./files/gguf_writer.ts";
import { openModelFiles } from "./files/source.ts";
import { loadModel } from "./registry.ts";
import { writeCheckpoint } from "./testing/checkpoints.ts";
import { qwen35Config, qwen35Entries } from "./testing/qwen35_checkpoints.ts";
import { qwen35Logits } from "./testing/qwen35_reference.ts";
import { normalisedSquaredError, openSession } from "./testing/session.ts";
import { dequantised, joinRows, mapTensors, temporaryFolder, writeModel } from "./testing/variants.ts";

const ids = Array.from({ length: 45 }, (_, i) => (i * 53 + 7) % 300);
const device = openDevice("cpu", { threads: 1 });
const folder = temporaryFolder();
let files = 0;
afterAll(() => {
  device.close();
  folder[Symbol.dispose]();
});

const place = (name: string): string => join(folder.path, `${files++}-${name}`);
const write = (model: RandomModel): string => writeModel(place("model.gguf"), model);
const dense = shapes["tiny-qwen35"]!;
const sparse = shapes["tiny-qwen35moe"]!;
/** Narrow projections of whole panels, so that all four of a recurrent layer are one product. */
const wide: ModelShape = { ...dense, qwen35: { ...dense.qwen35!, keyHeads: 4, valueHeads: 16 } };
/** As many value heads as key heads, a head that is the embedding, seven layers: the last one recurrent. */
const tied: ModelShape = {
  ...{ ...dense, layers: 7, tied: true },
  qwen35: { ...dense.qwen35!, valueHeads: 2 },
};

function logits(path: string): Float32Array {
  const session = openSession(device, path);
  try {
    return session.run([ids]);
  } finally {
    session.close();
  }
}

function reference(s: ModelShape, { tensors }: RandomModel): Float32Array {
  const values = new Map(tensors.map((t) => [t.name, dequantised(t)]));
  const rows = qwen35Logits(s, (name) => values.get(name)!, ids);
  return Float32Array.from(rows.flat());
}

const withMetadata = (model: RandomModel, more: Readonly<Record<string, MetadataValue>>): RandomModel => ({
  ...model,
  metadata: { ...model.metadata, ...more },
});

/** f32 against f64, squared. */
const rounding = 1e-10;

describe.each([
  ["dense", dense],
  ["dense, wide", wide],
  ["tied, seven layers", tied],
  ["sparse", sparse],
] as const)("qwen35 %s", (_name, s) => {
  const model = randomModel({ shape: s, dtype: "f32", seed: 21 });

  test("gives what plain loops give, in chunks as at once, one by one too", () => {
    const session = openSession(device, write(model));
    const whole = session.run([ids]);
    expect(normalisedSquaredError(whole, reference(s, model))).toBeLessThan(rounding);
    expect(session.run([ids.slice(0, 3), ids.slice(3, 36), ids.slice(36, 37), ids.slice(37)])).toEqual(whole);
    expect(session.run(ids.map((id) => [id]))).toEqual(whole);
    session.close();
    expect(device.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
  });

  test("the same weights in a checkpoint, whose value heads are grouped, give the same", () => {
    const path = writeCheckpoint(place("hf"), qwen35Config(s), qwen35Entries(s, model));
    const expected = logits(write(model));
    expect(normalisedSquaredError(logits(path), expected)).toBeLessThan(rounding);
    const nested = { model_type: "qwen3_5", text_config: qwen35Config(s), vision_config: {} };
    const again = writeCheckpoint(place("hf"), nested, qwen35Entries(s, model, "model.language_model."));
    expect(logits(again)).toEqual(logits(path));
  });

  test("the meta device records the same program", () => {
    const path = write(model);
    const [planned, computed] = (["meta", "cpu"] as const).map((name) => {
      const on = name === "meta" ? openDevice("meta") : device;
      const session = openSession(on, path);
      const digest = planDigest(record(on, () => session.run([ids])));
      session.close();
      if (name === "meta") on.close();
      return digest;
    });
    expect(planned).toBe(computed!);
  });
});

describe("other ways of writing it", () => {
  test("types that differ between the projections of a layer", () => {
    const exceptions = { "blk.0.attn_gate.weight": "f16", "blk.3.attn_v.weight": "f16" } as const;
    const model = randomModel({ shape: wide, dtype: "f32", exceptions, seed: 22 });
    expect(normalisedSquaredError(logits(write(model)), reference(wide, model))).toBeLessThan(rounding);
  });

  test("quantised, with the experts in another type", () => {
    const model = randomModel({ shape: sparse, dtype: "q8_0", expertDtype: "q4_0", seed: 23 });
    expect(normalisedSquaredError(logits(write(model)), reference(sparse, model))).toBeLessThan(1e-3);
  });

  test("merged experts, a bare ssm_dt, lists of recurrent layers and of heads", () => {
    const model = randomModel({ shape: sparse, dtype: "f32", seed: 24 });
    const expected = logits(write(model));
    let other = model;
    for (let i = 0; i < 4; i++) {
      const names = ["gate", "up"].map((part) => `blk.${i}.ffn_${part}_exps.weight`);
      other = joinRows(other, names, `blk.${i}.ffn_gate_up_exps.weight`);
    }
    const renamed = mapTensors(other, (t) => ({ ...t, name: t.name.replace("ssm_dt.bias", "ssm_dt") }));
    const changed = withMetadata(renamed, {
      "qwen35moe.attention.recurrent_layers": {
        type: "array",
        elementType: "bool",
        value: [true, true, true, false],
      },
      "qwen35moe.full_attention_interval": { type: "u32", value: 2 },
      "qwen35moe.attention.head_count_kv": { type: "array", elementType: "i32", value: [0, 0, 0, 2] },
    });
    expect(logits(write(changed))).toEqual(expected);
    const stacked = writeCheckpoint(place("hf"), qwen35Config(sparse), qwen35Entries(sparse, other));
    expect(normalisedSquaredError(logits(stacked), expected)).toBeLessThan(rounding);
  });

  test("a file whose value heads are grouped says so", () => {
    const model = randomModel({ shape: dense, dtype: "f32", seed: 25 });
    const grouped = qwen35Entries(dense, model);
    const named = new Map(grouped.map((e) => [e.name, e]));
    const parts: Readonly<Record<string, string>> = {
      ...{ "attn_qkv.weight": "in_proj_qkv.weight", "attn_gate.weight": "in_proj_z.weight" },
      ...{ "ssm_alpha.weight": "in_proj_a.weight", "ssm_beta.weight": "in_proj_b.weight" },
      ...{
        "ssm_conv1d.weight": "conv1d.weight",
        "ssm_dt.bias": "dt_bias",
        "ssm_out.weight": "out_proj.weight",
      },
    };
    const ungrouped = logits(write(model));
    const moved = mapTensors(model, (t): TensorToWrite => {
      const [, layer, part] = /^blk\.(\d+)\.(.+)$/.exec(t.name) ?? [];
      const entry = named.get(`model.layers.${layer}.linear_attn.${parts[part ?? ""]}`);
      if (part === "ssm_a") {
        const log = named.get(`model.layers.${layer}.linear_attn.A_log`)!.data as Float32Array;
        return { ...t, chunks: () => [new Uint8Array(log.map((x) => -Math.exp(x)).buffer)] };
      }
      return entry ? { ...t, chunks: () => [new Uint8Array((entry.data as Float32Array).buffer)] } : t;
    });
    const said = withMetadata(moved, { "qwen35.ssm.v_head_reordered": { type: "bool", value: false } });
    expect(normalisedSquaredError(logits(write(said)), ungrouped)).toBeLessThan(rounding);
    expect(normalisedSquaredError(logits(write(moved)), ungrouped)).toBeGreaterThan(1e-4);
  });

  test("blocks for drafting ahead are known, said and not loaded", () => {
    const model = randomModel({ shape: sparse, dtype: "f32", seed: 26 });
    const drafts = { ...sparse, qwen35: { ...sparse.qwen35!, draftBlocks: 1 } };
    const more = randomModel({ shape: drafts, dtype: "f32", seed: 26 });
    const path = write(more);
    const loaded = loadModel(device, openModelFiles(path));
    expect(loaded.notes?.join()).toMatch(/MTP, blk\.4\.\*/);
    expect(loaded.config.layers).toBe(4);
    const plain = loadModel(device, openModelFiles(write(model)));
    expect(loaded.weightBytes).toBe(plain.weightBytes);
    plain.free();
    loaded.free();
    expect(logits(path).every(Number.isFinite)).toBe(true);
  });
});

describe("what would be computed wrongly is refused by name", () => {
  const model = randomModel({ shape: dense, dtype: "f32", seed: 27 });
  const refusal = (path: string): string => {
    try {
      logits(path);
    } catch (error) {
      if (error instanceof PsionicError) return `${error.code} ${error.message}`;
      throw error;
    }
    throw new Error("expected a refusal, got logits");
  };
  const u32 = (value: number): MetadataValue => ({ type: "u32", value });
  const ints = (...value: number[]): MetadataValue => ({ type: "array", elementType: "i32", value });

  test.each([
    ["rope.scaling.type", { type: "string", value: "yarn" }, "unsupported", "rope.scaling.type"],
    ["rope.dimension_sections", ints(2, 2, 2, 2), "unsupported", "fourth position, got [2, 2, 2, 2]"],
    ["attention.value_length", u32(32), "unsupported", "attention.value_length to be 64"],
    ["ssm.time_step_rank", u32(3), "file_malformed", "consistent head, layer, state and expert counts"],
    ["ssm.group_count", u32(0), "file_malformed", "consistent head, layer, state and expert counts"],
    ["ssm.state_size", u32(64), "file_malformed", "blk.0.attn_qkv.weight] expected shape [384, 128]"],
    ["ssm.conv_kernel", u32(2), "file_malformed", "blk.0.ssm_conv1d.weight] expected shape [256, 2]"],
    ["nextn_predict_layers", u32(4), "file_malformed", "than the 4 of all, got 4"],
    ["full_attention_interval", u32(2), "file_malformed", "a tensor blk.1.attn_q.weight"],
    ["block_count", u32(3), "unsupported", "only tensors that its architecture uses, got blk.3."],
  ] as const)("%s", (key, value, code, message) => {
    const said = refusal(write(withMetadata(model, { [`qwen35.${key}`]: value })));
    expect(said).toStartWith(code);
    expect(said).toContain(message);
    expect(device.live().tensors).toBe(0);
  });

  test("checkpoints: an activation, a layer kind, a quantisation, experts of different sizes", () => {
    const config = qwen35Config(dense);
    const entries = qwen35Entries(dense, model);
    const of = (more: object) => refusal(writeCheckpoint(place("hf"), { ...config, ...more }, entries));
    expect(of({ hidden_act: "gelu" })).toContain("hidden_act to be silu");
    expect(of({ layer_types: ["mamba", "mamba", "mamba", "mamba"] })).toContain('got "mamba"');
    expect(of({ layer_types: ["full_attention"] })).toContain("4 layer_types");
    expect(of({ quantization_config: { quant_method: "fp8" } })).toContain(
      "quantization_config to be absent",
    );
    const moe = randomModel({ shape: sparse, dtype: "f32", seed: 28 });
    const odd = qwen35Entries(sparse, moe).map((e) =>
      e.name.endsWith("layers.1.mlp.experts.3.up_proj.weight")
        ? { ...e, shape: [e.shape[1]!, e.shape[0]!] }
        : e,
    );
    expect(refusal(writeCheckpoint(place("hf"), qwen35Config(sparse), odd))).toContain("[64, 128] as");
  });
});
