/** Adapters added to a model: the logits are those of a model whose matrices have them in; what does not fit is refused. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type RandomModel, randomModel, shapes } from "../../scripts/random-model.ts";
import { openDevice } from "../backends/index.ts";
import { sha256 } from "../core/digest.ts";
import type { Device } from "../runtime/device.ts";
import { openAdapter } from "./adapter.ts";
import { type Entry, writeCheckpoint } from "./testing/checkpoints.ts";
import { normalisedSquaredError, openSession } from "./testing/session.ts";
import {
  dequantisedTwin,
  holding,
  mapTensors,
  temporaryFolder,
  tensorBytes,
  writeModel,
} from "./testing/variants.ts";

let device: Device;
const folder = temporaryFolder();
beforeAll(() => {
  device = openDevice("cpu", { threads: 1 });
});
afterAll(() => {
  device.close();
  folder[Symbol.dispose]();
});

const [rank, alpha] = [3, 6];
const prompt = [5, 9, 2, 7, 11, 3];

/** Numbers that are the same each time. */
const numbers = (count: number, salt: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(12.9 * (i + 1) + salt) * 0.1);

const module: Readonly<Record<string, string>> = {
  ...{ attn_q: "self_attn.q_proj", attn_v: "self_attn.v_proj", attn_output: "self_attn.o_proj" },
  ffn_down: "mlp.down_proj",
};

const moduleOf = (name: string): string => {
  const [, layer, part = ""] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
  return name === "output.weight" ? "lm_head" : `model.layers.${layer}.${module[part]}`;
};

let written = 0;
/** A folder as PEFT writes it. */
function adapterFolder(entries: readonly Entry[], config: object = {}): string {
  const path = writeCheckpoint(join(folder.path, `adapter-${++written}`), {}, entries);
  renameSync(join(path, "model.safetensors"), join(path, "adapter_model.safetensors"));
  const own = { peft_type: "LORA", r: rank, lora_alpha: alpha, bias: "none", fan_in_fan_out: false };
  writeFileSync(join(path, "adapter_config.json"), JSON.stringify({ ...own, ...config }));
  return path;
}

/** A and B of a matrix [outputs, inputs]. */
function pair(name: string, [outputs, inputs]: readonly number[], salt: number): Entry[] {
  const part = (letter: string, shape: readonly number[], data: Float32Array): Entry => ({
    ...{ name: `base_model.model.${moduleOf(name)}.lora_${letter}.weight`, dtype: "F32", shape, data },
  });
  return [
    part("A", [rank, inputs!], numbers(rank * inputs!, salt)),
    part("B", [outputs!, rank], numbers(outputs! * rank, salt + 1)),
  ];
}

/** The model with alpha / r B A in its matrices. */
function merged(model: RandomModel, entries: readonly Entry[]): RandomModel {
  return mapTensors(model, (tensor) => {
    const find = (letter: string) =>
      entries.find(
        ({ name }) =>
          tensor.name.endsWith(".weight") &&
          name === `base_model.model.${moduleOf(tensor.name)}.lora_${letter}.weight`,
      )?.data as Float32Array | undefined;
    const [a, b] = [find("A"), find("B")];
    if (!a || !b) return tensor;
    const [rows, columns] = tensor.shape as [number, number];
    const values = new Float32Array(tensorBytes(tensor).slice().buffer);
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++)
        for (let r = 0; r < rank; r++)
          values[row * columns + column]! += (alpha / rank) * b[row * rank + r]! * a[r * columns + column]!;
    return holding(tensor, "f32", values);
  });
}

const logitsOf = (path: string, adapter?: string): Float32Array => {
  const session = openSession(device, path, adapter === undefined ? {} : { adapter: openAdapter(adapter) });
  try {
    return session.run([prompt]);
  } finally {
    session.close();
  }
};

describe("an adapter adds to the matrices that it names", () => {
  const targets: Readonly<Record<string, readonly string[]>> = {
    "tiny-qwen3": ["attn_q", "attn_v", "attn_output", "ffn_down"],
    "tiny-gpt-oss": ["attn_q", "attn_v", "attn_output"],
    "tiny-llama": ["attn_v", "ffn_down"],
  };
  for (const [name, parts] of Object.entries(targets)) {
    test(`${name}: as if they were in them`, () => {
      const model = dequantisedTwin(randomModel({ shape: shapes[name]!, dtype: "f32", seed: 7 }));
      const own = model.tensors.filter(
        (t) => parts.some((part) => t.name.endsWith(`.${part}.weight`)) || t.name === "output.weight",
      );
      const entries = own.flatMap((t, i) => pair(t.name, t.shape, i));
      const path = writeModel(join(folder.path, `${name}.gguf`), model);
      const adapter = adapterFolder(entries);
      const found = logitsOf(path, adapter);
      const expected = logitsOf(writeModel(join(folder.path, `${name}-merged.gguf`), merged(model, entries)));
      expect(normalisedSquaredError(found, expected)).toBeLessThan(1e-9);
      expect(normalisedSquaredError(logitsOf(path), expected)).toBeGreaterThan(1e-3);
    });
  }

  test("it is known by the digest of its file, and read from the file's own path as well", () => {
    const path = adapterFolder(pair("blk.0.attn_v.weight", [8, 4], 1));
    const weights = join(path, "adapter_model.safetensors");
    const opened = openAdapter(path);
    expect(opened).toEqual(openAdapter(weights));
    expect(opened).toMatchObject({ rank, alpha, path: weights, digest: sha256(readFileSync(weights)) });
    expect([opened.parameters, opened.baseDigest]).toEqual([rank * 12, undefined]);
  });
});

describe("what does not fit is refused by its name", () => {
  const v = (shape: readonly number[]) => pair("blk.0.attn_v.weight", shape, 1);
  const named = (name: string): Entry[] =>
    v([8, 4]).map((e) => ({ ...e, name: e.name.replace(/model\.layers.*v_proj/, name) }));
  const spoiled = (at: number, value: number): Entry[] =>
    v([8, 4]).map((e, i) => (i === at ? { ...e, data: (e.data as Float32Array).map(() => value) } : e));
  const files: Readonly<
    Record<string, readonly [entries: readonly Entry[], config: object, message: string]>
  > = {
    "an expert": [named("model.layers.0.mlp.experts.gate_up_proj"), {}, "mlp.experts.gate_up_proj"],
    "an embedding": [named("model.embed_tokens"), {}, "model.embed_tokens"],
    "A without B": [v([8, 4]).slice(0, 1), {}, "lora_B.weight"],
    "B without A": [v([8, 4]).slice(1), {}, "lora_A.weight"],
    "another rank": [v([8, 4]), { r: 4 }, "rank 4"],
    "no rank": [v([8, 4]), { r: 0 }, "a rank from 1"],
    "another kind": [v([8, 4]), { peft_type: "LOHA" }, 'peft_type "LORA"'],
    "directions apart": [v([8, 4]), { use_dora: true }, "use_dora false"],
    "ranks of their own": [v([8, 4]), { rank_pattern: { q_proj: 2 } }, "rank_pattern empty"],
    "layers told twice": [
      [...v([8, 4]), ...named("model.layers.00.self_attn.v_proj")],
      {},
      "blk.0.attn_v once",
    ],
    "what is no number": [spoiled(0, Number.NaN), {}, "finite numbers in base_model.model.model.layers.0"],
    "what alpha makes too large": [spoiled(1, 3e38), {}, "lora_B.weight, got Infinity"],
    "no effect": [v([8, 4]), { lora_alpha: 0 }, "a number other than 0"],
    "layers more than once": [v([8, 4]), { layer_replication: [[0, 2]] }, "layer_replication empty"],
    "after some tokens alone": [v([8, 4]), { alora_invocation_tokens: [5] }, "alora_invocation_tokens empty"],
    "a base that no file has": [v([8, 4]), { base_seed: "1337" }, "made from seed 1337"],
    nothing: [[], {}, "adapted matrices"],
  };
  test.each(Object.entries(files))("%s", (_, [entries, config, message]) => {
    expect(() => openAdapter(adapterFolder(entries, config))).toThrow(message);
  });

  test("a folder without one", () => {
    expect(() => openAdapter(folder.path)).toThrow("adapter_config.json");
    mkdirSync(join(folder.path, "half"));
    writeFileSync(join(folder.path, "half", "adapter_config.json"), '{"r": 1}');
    expect(() => openAdapter(join(folder.path, "half"))).toThrow("adapter_model.safetensors");
  });

  const fits = (shape: string, entries: readonly Entry[]) => {
    const path = join(folder.path, `${shape}-fits.gguf`);
    writeModel(path, randomModel({ shape: shapes[shape]!, dtype: "q8_0", seed: 7 }));
    return () => logitsOf(path, adapterFolder(entries));
  };
  test("a matrix of another size, or that the model has not, or has in another order", () => {
    expect(fits("tiny-qwen3", v([64, 256]))).toThrow("blk.0.attn_v");
    expect(fits("tiny-qwen3", pair("blk.9.attn_v.weight", [128, 256], 1))).toThrow("blk.9.attn_v");
    expect(fits("tiny-gpt-oss", pair("blk.0.ffn_down.weight", [256, 512], 1))).toThrow("blk.0.ffn_down");
    expect(fits("tiny-llama", pair("output.weight", [320, 256], 1))).toThrow("output");
    expect(fits("tiny-llama", pair("blk.0.attn_q.weight", [256, 256], 1))).toThrow(
      "q_proj and k_proj on llama",
    );
  });
});
