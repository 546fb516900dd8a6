/** transformers' logits of the models in the folder that PSIONIC_GOLDEN names, by the product and by gemma4.test.ts's loops. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { ModelShape } from "../../scripts/random-model.ts";
import { openDevice } from "../backends/index.ts";
import { cudaLibrary, onFibers } from "../backends/testing/cuda_library.ts";
import { gemma4TheirName } from "./testing/gemma4_checkpoints.ts";
import { gemma4Logits, type Tensors } from "./testing/gemma4_reference.ts";
import { type Golden, golden, relativeError, sameChoices, session } from "./testing/golden.ts";

// a busy machine, on which fibers run at a tenth of their speed
setDefaultTimeout(60_000);

/**
 * f32 arithmetic on bf16 weights against the same in another order of summation: measured 5e-7 to 8e-7. CUDA takes
 * activations in two parts of bf16 for its products, and rounds them for attention's: measured 4e-4.
 */
const tolerance = 1e-5;
const tolerances = { cpu: tolerance, cuda: 2e-3 } as const;

const backends = cudaLibrary ? (["cpu", "cuda"] as const) : (["cpu"] as const);
const devices = new Map(
  backends.map((b) => [b, b === "cpu" ? openDevice(b, { threads: 2 }) : openDevice(b)]),
);
afterAll(() => {
  for (const device of devices.values()) device.close();
});

for (const [name, globalEvery] of [
  ["gemma4_e", 5],
  ["gemma4_26b", 6],
  ["gemma4_31b", 6],
] as const) {
  const reference = golden(name);
  const reason = reference ? "" : " (not in the fixtures: PSIONIC_GOLDEN names a folder that has it)";
  for (const backend of backends)
    test.skipIf(!reference)(
      `${name} gives transformers' logits on ${backend}, at once and in parts${reason}`,
      () => {
        const device = devices.get(backend)!;
        const slow = backend === "cuda" && onFibers;
        const ids = reference!.ids.slice(0, slow ? 24 : reference!.ids.length);
        const logits = reference!.logits.subarray(0, ids.length * reference!.vocabulary);
        const s = session(device, reference!, "f32");
        const whole = s.run([ids]);
        expect(relativeError(whole, logits)).toBeLessThan(tolerances[backend]);
        expect(sameChoices(whole, { ...reference!, ids, logits })).toBe(true);
        const last = slow ? 21 : 41;
        const parts = [ids.slice(0, 7), ids.slice(7, 8), ids.slice(8, last), ids.slice(last)];
        expect(s.run(parts)).toEqual(whole);
        if (!slow) expect(s.run(ids.map((id) => [id]))).toEqual(whole);
        s.close();
        expect(device.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
      },
    );

  test.skipIf(!reference)(`${name}: plain f64 loops give transformers' logits${reason}`, () => {
    const { ids, logits } = reference!;
    const rows = gemma4Logits(shapeOf(reference!, globalEvery), storedTensors(reference!), ids, globalEvery);
    expect(relativeError(Float32Array.from(rows.flat()), logits)).toBeLessThan(tolerance);
  });
}

/** Of the bf16 checkpoint, under GGUF's names. */
function storedTensors({ folder }: Golden): Tensors {
  const bytes = readFileSync(join(folder, "model.safetensors"));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header: Readonly<Record<string, { readonly data_offsets: readonly [number, number] }>> = JSON.parse(
    bytes.toString("utf8", 8, start),
  );
  const made = new Map<string, Float32Array>();
  return (name) => {
    const theirs = header[gemma4TheirName(name) ?? ""];
    if (!theirs || made.has(name)) return made.get(name);
    const [from, to] = theirs.data_offsets.map((at) => start + at) as [number, number];
    const word = (i: number): number => bytes.readUInt16LE(from + 2 * i) << 16;
    const words = Uint32Array.from({ length: (to - from) / 2 }, (_, i) => word(i));
    made.set(name, new Float32Array(words.buffer));
    return made.get(name);
  };
}

function shapeOf({ folder, vocabulary }: Golden, globalEvery: number): ModelShape {
  const c = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  const global = c.per_layer_config[String(globalEvery - 1)];
  return {
    ...{ architecture: "gemma4", width: c.hidden_size, layers: c.num_hidden_layers, vocabulary, tied: true },
    ...{ feedForward: c.intermediate_size, heads: c.num_attention_heads, kvHeads: c.num_key_value_heads },
    ...{ headDim: c.head_dim, window: c.sliding_window, context: c.max_position_embeddings },
    ropeBase: c.rope_parameters.full_attention.rope_theta,
    ...(c.enable_moe_block && {
      ...{ experts: c.num_experts, expertsUsed: c.top_k_experts, expertFeedForward: c.moe_intermediate_size },
    }),
    gemma4: {
      globalKvHeads: global.num_key_value_heads ?? c.num_key_value_heads,
      globalHeadDim: global.head_dim,
      ...{ sharedLayers: c.num_kv_shared_layers, perLayerWidth: c.hidden_size_per_layer_input },
      keysAreValues: c.attention_k_eq_v,
    },
  };
}
