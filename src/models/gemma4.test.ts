import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { type ModelShape, type RandomModel, randomModel, shapes } from "../../scripts/random-model.ts";
import { openDevice } from "../backends/index.ts";
import type { MetadataValue, TensorToWrite } from "./files/gguf_writer.ts";
import { writeCheckpoint } from "./testing/checkpoints.ts";
import { gemma4Config, gemma4Entries } from "./testing/gemma4_checkpoints.ts";
import { gemma4Logits } from "./testing/gemma4_reference.ts";
import { normalisedSquaredError, openSession } from "./testing/session.ts";
import {
  dequantised,
  holding,
  mapTensors,
  temporaryFolder,
  tensorBytes,
  writeModel,
} from "./testing/variants.ts";

// a busy machine
setDefaultTimeout(60_000);

const ids = Array.from({ length: 45 }, (_, i) => (i * 53 + 7) % 500);
const device = openDevice("cpu", { threads: 1 });
const folder = temporaryFolder();
let files = 0;
afterAll(() => {
  device.close();
  folder[Symbol.dispose]();
});

const place = (name: string): string => join(folder.path, `${files++}-${name}`);
const write = (model: RandomModel): string => writeModel(place("model.gguf"), model);
/** With windows shorter than the prompt. */
const narrow = (name: string): ModelShape => ({ ...shapes[name]!, window: 16 });
const perLayer = narrow("tiny-gemma4-e");
const dense = narrow("tiny-gemma4-31b");
const sparse = narrow("tiny-gemma4-moe");

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
  return Float32Array.from(gemma4Logits(s, (name) => values.get(name), ids).flat());
}

/**
 * f32 against f64, squared: measured 1e-11 to 1e-10. Scores are products of normed heads, scaled by one: random heads attend
 * to few positions, and that enlarges one unit in the last place of each weight alone to 1e-12 and 3e-11.
 */
const rounding = 1e-9;

describe.each([
  ["e4b", perLayer],
  ["31b", dense],
  ["26b-a4b", sparse],
] as const)("gemma4 %s", (_name, s) => {
  test("gives what plain loops give, in chunks as at once, one by one too", () => {
    const model = randomModel({ shape: s, dtype: "f32", seed: 31 });
    const session = openSession(device, write(model));
    try {
      const whole = session.run([ids]);
      expect(normalisedSquaredError(whole, reference(s, model))).toBeLessThan(rounding);
      expect(session.run([ids.slice(0, 3), ids.slice(3, 36), ids.slice(36, 37), ids.slice(37)])).toEqual(
        whole,
      );
      expect(session.run([ids.slice(0, 12), ...ids.slice(12).map((id) => [id])])).toEqual(whole);
    } finally {
      session.close();
    }
    expect(device.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
  });

  test("in bf16, and in a checkpoint under both its names", () => {
    const model = randomModel({ shape: s, dtype: "bf16", seed: 32 });
    const plain = reference(s, model);
    expect(normalisedSquaredError(logits(write(model)), plain)).toBeLessThan(rounding);
    const path = writeCheckpoint(place("hf"), gemma4Config(s), gemma4Entries(model));
    const whole = logits(path);
    expect(normalisedSquaredError(whole, plain)).toBeLessThan(rounding);
    const nested = { model_type: "gemma4", text_config: gemma4Config(s), vision_config: {} };
    const again = writeCheckpoint(place("hf"), nested, gemma4Entries(model, "model.language_model."));
    expect(logits(again)).toEqual(whole);
  });
});

describe("other ways of writing it", () => {
  const shares = (name: string): boolean =>
    Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? 0) >= perLayer.layers - perLayer.gemma4!.sharedLayers;
  const keysOrValues = /\.attn_(k|v|k_norm)\.weight$/;

  test("layers that share do without keys and values of their own, and do not read those they have", () => {
    const model = randomModel({ shape: perLayer, dtype: "f32", seed: 33 });
    const expected = logits(write(model));
    const unused = ({ name }: TensorToWrite): boolean => shares(name) && keysOrValues.test(name);
    expect(logits(write(mapTensors(model, (t) => (unused(t) ? [] : t))))).toEqual(expected);
    const source = mapTensors(model, (t) =>
      t.name === "blk.5.attn_k.weight"
        ? holding(
            t,
            "f32",
            dequantised(t).map((x) => -x),
          )
        : t,
    );
    expect(normalisedSquaredError(logits(write(source)), expected)).toBeGreaterThan(1e-4);
  });

  test("MLPs of twice the width where keys and values are shared", () => {
    const options = { dtype: "f32", seed: 34 } as const;
    const model = randomModel({ ...options, shape: perLayer });
    const double = { ...perLayer, feedForward: 2 * perLayer.feedForward };
    const wider = new Map(randomModel({ ...options, shape: double }).tensors.map((t) => [t.name, t]));
    const mixed = mapTensors(model, (t) => (shares(t.name) ? wider.get(t.name)! : t));
    const widths: MetadataValue = {
      ...{ type: "array", elementType: "i32" },
      value: Array.from({ length: perLayer.layers }, (_, i) => (i < 6 ? 1 : 2) * perLayer.feedForward),
    };
    const metadata = { ...mixed.metadata, "gemma4.feed_forward_length": widths };
    const plain = reference(perLayer, mixed);
    expect(normalisedSquaredError(logits(write({ ...mixed, metadata })), plain)).toBeLessThan(rounding);
    const config = { ...gemma4Config(perLayer), use_double_wide_mlp: true };
    const path = writeCheckpoint(place("hf"), config, gemma4Entries(mixed));
    expect(normalisedSquaredError(logits(path), plain)).toBeLessThan(rounding);
  });

  test("experts' gates and ups apart, their scale under its older name, no scale of layers", () => {
    const all = randomModel({ shape: sparse, dtype: "f32", seed: 35 });
    const model = mapTensors(all, (t) => (t.name.endsWith("layer_output_scale.weight") ? [] : t));
    const split = mapTensors(model, (t) => {
      if (t.name.endsWith("ffn_down_exps.scale"))
        return { ...t, name: t.name.replace("ffn_down_exps.scale", "ffn_gate_inp.per_expert_scale") };
      if (!t.name.includes("ffn_gate_up_exps")) return t;
      return ["gate", "up"].map((part, half) => halves(t, t.name.replace("gate_up", part), half));
    });
    const expected = logits(write(model));
    expect(normalisedSquaredError(expected, reference(sparse, model))).toBeLessThan(rounding);
    expect(normalisedSquaredError(logits(write(split)), expected)).toBeLessThan(rounding);
  });
});

/** The first or second half of each expert's rows. */
function halves(tensor: TensorToWrite, name: string, half: number): TensorToWrite {
  const [experts, rows, columns] = tensor.shape as [number, number, number];
  const bytes = tensorBytes(tensor);
  const size = bytes.length / experts / 2;
  const pieces = Array.from({ length: experts }, (_, e) => {
    const start = (2 * e + half) * size;
    return bytes.subarray(start, start + size);
  });
  return holding({ name, shape: [experts, rows / 2, columns] }, tensor.dtype, Buffer.concat(pieces));
}
