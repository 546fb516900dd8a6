import type { DType } from "../../core/dtype.ts";
import { PsionicError } from "../../core/error.ts";
import { readModel } from "../registry.ts";
import { tokenizerFromGguf } from "../tokenizer/index.ts";
import { memorySource } from "./bytes.ts";
import { parseGguf } from "./gguf.ts";
import { ggufHeader, type MetadataValue } from "./gguf_writer.ts";
import { parseSafetensors } from "./safetensors.ts";
import { describeCheckpoint, describeGguf } from "./source.ts";

export type FuzzLimit = { readonly count?: number; readonly durationMs?: number };

export type FuzzResult = {
  readonly cases: number;
  /** Headers refused with a typed error. */
  readonly refused: number;
  /** Headers accepted, and then read as tokenizer and hyper-parameters (which may refuse them, typed). */
  readonly accepted: number;
  /** Cases whose magic, version and counts (or header length and JSON) were sound. */
  readonly pastCounts: number;
};

type Random = () => number;
type Outcome = { readonly accepted: boolean; readonly pastCounts: boolean };

/** Damages small GGUF headers, mostly in their fields; throws at the first thing that is not a typed error. */
export function fuzzGguf(seed: number, limit: FuzzLimit): FuzzResult {
  return fuzz("fuzzGguf", seed, limit, ggufCase);
}

/** Damages the JSON of small safetensors headers, their lengths and their `config.json`, in the same way. */
export function fuzzSafetensors(seed: number, limit: FuzzLimit): FuzzResult {
  return fuzz("fuzzSafetensors", seed, limit, safetensorsCase);
}

/** Case i has the seed `seed + i`, so that one alone repeats a failure. */
function fuzz(name: string, seed: number, limit: FuzzLimit, run: (random: Random) => Outcome): FuzzResult {
  const end = performance.now() + (limit.durationMs ?? Number.POSITIVE_INFINITY);
  const most = limit.count ?? Number.POSITIVE_INFINITY;
  let [cases, accepted, pastCounts] = [0, 0, 0];
  // The clock is looked at every 64 cases.
  while (cases < most && (cases % 64 !== 0 || performance.now() < end)) {
    try {
      const outcome = run(randomFrom(seed + cases));
      if (outcome.accepted) accepted++;
      if (outcome.pastCounts) pastCounts++;
    } catch (cause) {
      throw new Error(`${name}: seed ${seed + cases} (count 1) broke: ${cause}`, { cause });
    }
    cases++;
  }
  return { cases, refused: cases - accepted, accepted, pastCounts };
}

/** Whether `action` went through; a typed error is a refusal, anything else is passed on. */
function isAccepted(action: () => void): boolean {
  try {
    action();
    return true;
  } catch (error) {
    if (error instanceof PsionicError && error.code !== "internal") return false;
    throw error;
  }
}

/** Mulberry32: numbers in [0, 1), the same for the same seed. */
function randomFrom(seed: number): Random {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const below = (random: Random, n: number): number => Math.floor(random() * n);
const pick = <T>(random: Random, values: readonly T[]): T => values[below(random, values.length)] as T;

// GGUF

/** A field of a header: where it lies, and how wide it is. */
type Field = { readonly at: number; readonly bytes: 1 | 4 | 8 };
type Base = { readonly bytes: Uint8Array; readonly headerEnd: number; readonly fields: readonly Field[] };

const u32 = (value: number): MetadataValue => ({ type: "u32", value });
const text = (value: string): MetadataValue => ({ type: "string", value });
const list = (
  elementType: "string" | "i32" | "f32" | "bool" | "u64",
  value: (number | string | boolean)[],
): MetadataValue => ({ type: "array", elementType, value });

const words = [
  "<unk>",
  "<s>",
  "</s>",
  "<0x0A>",
  "a",
  "b",
  "ab",
  "\u0120",
  "\u0120a",
  "▁",
  "▁a",
  "é",
  "中",
  "\n",
];

function baseMetadata(architecture: string, tokenizer: string): Record<string, MetadataValue> {
  const key = (name: string): string => `${architecture}.${name}`;
  return {
    "general.architecture": text(architecture),
    "general.alignment": u32(32),
    "general.name": text("small"),
    [key("context_length")]: u32(64),
    [key("embedding_length")]: u32(32),
    [key("block_count")]: u32(2),
    [key("feed_forward_length")]: list("i32", [32, 64]),
    [key("attention.head_count")]: { type: "i32", value: 2 },
    [key("attention.head_count_kv")]: { type: "u64", value: 1 },
    [key("attention.key_length")]: u32(16),
    [key("attention.value_length")]: u32(16),
    [key("attention.layer_norm_rms_epsilon")]: { type: "f32", value: 1e-5 },
    [key("attention.sliding_window")]: u32(16),
    [key("attention.sliding_window_pattern")]: list("bool", [true, false]),
    [key("rope.freq_base")]: { type: "f64", value: 10000 },
    [key("rope.scaling.type")]: text("yarn"),
    [key("rope.scaling.factor")]: { type: "f32", value: 8 },
    [key("expert_count")]: u32(4),
    [key("expert_used_count")]: { type: "u8", value: 2 },
    "tokenizer.ggml.model": text(tokenizer),
    "tokenizer.ggml.pre": text("gpt-4o"),
    "tokenizer.ggml.tokens": list("string", words),
    "tokenizer.ggml.token_type": list("i32", [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    "tokenizer.ggml.scores": list(
      "f32",
      words.map((_, i) => -i),
    ),
    "tokenizer.ggml.merges": list("string", ["a b", "\u0120 a", "▁ a"]),
    "tokenizer.ggml.bos_token_id": u32(1),
    "tokenizer.ggml.eos_token_ids": list("u64", [2]),
    "tokenizer.ggml.add_bos_token": { type: "bool", value: true },
  };
}

/** Of a model with recurrent layers; a window and a rope scaling would be refused before these are read. */
function recurrentMetadata(architecture: string, tokenizer: string): Record<string, MetadataValue> {
  const key = (name: string): string => `${architecture}.${name}`;
  const refused = /sliding_window|rope\.scaling|feed_forward_length/;
  const base = Object.entries(baseMetadata(architecture, tokenizer)).filter(([name]) => !refused.test(name));
  return {
    ...Object.fromEntries(base),
    [key("expert_feed_forward_length")]: u32(32),
    [key("full_attention_interval")]: u32(2),
    [key("attention.recurrent_layers")]: list("bool", [true, false]),
    [key("nextn_predict_layers")]: u32(0),
    [key("rope.dimension_count")]: u32(8),
    [key("rope.dimension_sections")]: list("i32", [2, 1, 1, 0]),
    [key("ssm.conv_kernel")]: u32(4),
    [key("ssm.state_size")]: u32(16),
    [key("ssm.group_count")]: u32(1),
    [key("ssm.time_step_rank")]: u32(2),
    [key("ssm.inner_size")]: u32(32),
    [key("ssm.v_head_reordered")]: { type: "bool", value: true },
  };
}

const tensors: readonly { name: string; dtype: DType; shape: number[] }[] = [
  { name: "token_embd.weight", dtype: "q8_0", shape: [words.length, 32] },
  { name: "output_norm.weight", dtype: "f32", shape: [32] },
  { name: "blk.0.attn_q.weight", dtype: "mxfp4", shape: [32, 32] },
  { name: "blk.0.ffn_gate_exps.weight", dtype: "f16", shape: [2, 3, 4] },
];
/** Bytes of the tensors above, each rounded up to 32. */
const dataBytes = 480 + 128 + 544 + 64;

const bases: readonly Base[] = (
  [
    ["llama", "gpt2"],
    ["gpt-oss", "gpt2"],
    ["gemma3", "llama"],
    ["qwen3moe", "gemma4"],
    ["qwen35moe", "gpt2"],
  ] as const
).map(([architecture, tokenizer]) => {
  const metadata = architecture === "qwen35moe" ? recurrentMetadata : baseMetadata;
  const header = ggufHeader(metadata(architecture, tokenizer), tensors);
  const bytes = new Uint8Array(header.length + dataBytes);
  bytes.set(header);
  return { bytes, headerEnd: header.length, fields: fieldsOf(bytes, header.length) };
});

/** Walks a sound header and notes every length, type, count, number, dimension and offset after the counts. */
function fieldsOf(bytes: Uint8Array, headerEnd: number): Field[] {
  const view = new DataView(bytes.buffer);
  const fields: Field[] = [];
  let at = 24;
  const take = (width: 1 | 4 | 8): number => {
    fields.push({ at, bytes: width });
    const value = width === 1 ? view.getUint8(at) : view.getUint32(at, true);
    at += width;
    return value;
  };
  const string = (): void => {
    const length = take(8);
    at += length;
    fields.push({ at: at - 1, bytes: 1 });
  };
  const widths: Readonly<Record<number, 1 | 4 | 8>> = { 0: 1, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 };
  const value = (type: number): void => {
    if (type === 8) string();
    else if (type === 9) {
      const element = take(4);
      for (let n = take(8); n > 0; n--) value(element);
    } else take(widths[type]!);
  };
  for (let records = view.getUint32(16, true); records > 0; records--) {
    string();
    value(take(4));
  }
  for (let infos = view.getUint32(8, true); infos > 0; infos--) {
    string();
    for (let n = take(4); n > 0; n--) take(8);
    take(4);
    take(8);
  }
  if (Math.ceil(at / 32) * 32 !== headerEnd)
    throw new Error(`a header of ${headerEnd} bytes was read up to ${at}`);
  return fields;
}

const oddNumbers: readonly bigint[] = [
  ...[0n, 1n, 2n, 3n, 7n, 8n, 9n, 12n, 13n, 16n, 31n, 32n, 33n, 40n, 64n, 255n, 256n, 65535n, 65536n],
  ...[2n ** 24n, 2n ** 30n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n],
  ...[2n ** 62n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 32n, 2n ** 64n - 1n],
];

function ggufCase(random: Random): Outcome {
  const base = pick(random, bases);
  const bytes = ggufMutant(base, random);
  const isSound = hasSoundCounts(bytes, base);
  const accepted = isAccepted(() => {
    const gguf = parseGguf(memorySource("mutant.gguf", bytes));
    isAccepted(() => tokenizerFromGguf((key) => gguf.metadata.get(key)?.value));
    isAccepted(() => readModel(describeGguf("mutant.gguf", gguf)));
  });
  return { accepted, pastCounts: isSound };
}

function hasSoundCounts(bytes: Uint8Array, base: Base): boolean {
  if (bytes.length < base.headerEnd) return false;
  for (let i = 0; i < 24; i++) if (bytes[i] !== base.bytes[i]) return false;
  return true;
}

/** Four in five mutants change fields and leave the shape of the header; the rest damage it anywhere. */
function ggufMutant(base: Base, random: Random): Uint8Array {
  const kind = random();
  if (kind < 0.04) return base.bytes.slice(0, below(random, base.bytes.length));
  if (kind < 0.08) return spliced(base.bytes, random);
  const bytes = base.bytes.slice();
  if (kind < 0.2) {
    const places = kind < 0.14 ? 32 : base.headerEnd;
    for (let n = 1 + below(random, 3); n > 0; n--) bytes[below(random, places)] = below(random, 256);
    return bytes;
  }
  for (let n = 1 + below(random, 3); n > 0; n--) changeField(bytes, pick(random, base.fields), random);
  return bytes;
}

function changeField(bytes: Uint8Array, field: Field, random: Random): void {
  const view = new DataView(bytes.buffer);
  const odd = pick(random, oddNumbers);
  const nudged = random() < 0.3;
  if (field.bytes === 1) view.setUint8(field.at, below(random, 256));
  else if (field.bytes === 4) {
    const value = nudged ? view.getUint32(field.at, true) + below(random, 5) - 2 : Number(odd & 0xffffffffn);
    view.setUint32(field.at, value, true);
  } else {
    const value = nudged ? view.getBigUint64(field.at, true) + BigInt(below(random, 5) - 2) : odd;
    view.setBigUint64(field.at, value, true);
  }
}

/** A piece repeated, removed, or moved over another. */
function spliced(bytes: Uint8Array, random: Random): Uint8Array {
  const from = below(random, bytes.length);
  const length = below(random, Math.min(200, bytes.length - from));
  const to = below(random, bytes.length);
  const piece = bytes.slice(from, from + length);
  const rest = random() < 0.5 ? bytes.subarray(to) : bytes.subarray(Math.min(bytes.length, to + length));
  return new Uint8Array(
    Buffer.concat([bytes.subarray(0, to), random() < 0.3 ? new Uint8Array(0) : piece, rest]),
  );
}

// safetensors

const oddValues: readonly string[] = [
  ...["0", "-1", "1e400", "-0", "0.5", "9007199254740993", "1e15", "18446744073709551616", '""', '"F32"'],
  ...['"Q4"', '"\\ud800"', "null", "true", "[]", "[[]]", "{}", "[0,-1]", "[1,2,3]", '"__proto__"', "[2,2]"],
  ...["[0,16]", "[16,0]", "[9e15,9e15]", '{"dtype":"F32"}', "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"],
];
const oddKeys = [
  '"__proto__"',
  '"constructor"',
  '"a"',
  '""',
  '"dtype"',
  '"shape"',
  '"data_offsets"',
  '"\\u0000"',
];
const configKeys: readonly (readonly [key: string, value: string])[] = [
  ...([
    ["hidden_size", "32"],
    ["num_hidden_layers", "2"],
    ["num_attention_heads", "2"],
  ] as const),
  ...([
    ["num_key_value_heads", "1"],
    ["intermediate_size", "64"],
    ["rms_norm_eps", "1e-5"],
  ] as const),
  ...([
    ["max_position_embeddings", "64"],
    ["sliding_window", "16"],
    ["head_dim", "16"],
  ] as const),
  ...([
    ["rope_theta", "10000"],
    ["tie_word_embeddings", "true"],
    ["hidden_act", '"silu"'],
  ] as const),
  ...([
    ["layer_types", '["sliding_attention","full_attention"]'],
    ["num_experts_per_tok", "2"],
  ] as const),
  ...([["rope_scaling", '{"rope_type":"yarn","factor":8,"truncate":false}']] as const),
];

/** In the place of those of the same name, for models with recurrent layers. */
const recurrentKeys: readonly (readonly [key: string, value: string])[] = [
  ["layer_types", '["linear_attention","full_attention"]'],
  ["rope_parameters", '{"rope_theta":10000,"partial_rotary_factor":0.5,"rope_type":"default"}'],
  ["linear_num_key_heads", "1"],
  ["linear_num_value_heads", "2"],
  ["linear_key_head_dim", "16"],
  ["linear_conv_kernel_dim", "4"],
  ["num_experts", "4"],
  ["moe_intermediate_size", "32"],
];

/** Members of a JSON object as text, so that keys may repeat and numbers be what no double is. */
type Members = [key: string, value: string][];

const json = (members: Members): string => `{${members.map(([k, v]) => `${k}:${v}`).join(",")}}`;

function damaged(members: Members, random: Random): Members {
  const copy: Members = members.map(([k, v]) => [k, v]);
  const at = below(random, copy.length);
  const kind = below(random, 5);
  if (kind === 0) copy[at] = [copy[at]![0], pick(random, oddValues)];
  else if (kind === 1) copy[at] = [pick(random, oddKeys), copy[at]![1]];
  else if (kind === 2) copy.push([copy[at]![0], pick(random, oddValues)]);
  else if (kind === 3) copy.splice(at, 1);
  else copy.push([pick(random, oddKeys), pick(random, oddValues)]);
  return copy;
}

function safetensorsCase(random: Random): Outcome {
  const bytes = safetensorsMutant(random);
  const isSound = bytes.length >= 8 && hasSoundJson(bytes);
  const accepted = isAccepted(() => {
    const tensors = parseSafetensors(memorySource("mutant.safetensors", bytes));
    isAccepted(() => {
      const config = JSON.parse(configMutant(random)) as Record<string, unknown>;
      readModel({
        ...describeCheckpoint("mutant", config, { tensors, files: [] }),
        ...{ tokenizer: undefined, tokenizerConfig: undefined, generationConfig: undefined },
      } as Parameters<typeof readModel>[0]);
    });
  });
  return { accepted, pastCounts: isSound };
}

function hasSoundJson(bytes: Uint8Array): boolean {
  const length = new DataView(bytes.buffer).getUint32(0, true);
  return length <= bytes.length - 8 && bytes[8] === 0x7b && bytes[7 + length] === 0x7d;
}

function safetensorsMutant(random: Random): Uint8Array {
  const entry = (dtype: string, shape: string, offsets: string): Members => [
    ['"dtype"', `"${dtype}"`],
    ['"shape"', shape],
    ['"data_offsets"', offsets],
  ];
  const entries: [string, Members][] = [
    ['"model.embed_tokens.weight"', entry("BF16", "[8,32]", "[0,512]")],
    ['"model.norm.weight"', entry("F32", "[32]", "[512,640]")],
    ['"model.layers.0.mlp.experts.down_proj_blocks"', entry("U8", "[2,2,2,16]", "[640,768]")],
  ];
  const kind = random();
  const inside = kind < 0.5 ? below(random, entries.length) : -1;
  let members: Members = entries.map(([name, e], i) => [name, json(i === inside ? damaged(e, random) : e)]);
  members.push(['"__metadata__"', '{"format":"pt"}']);
  if (kind >= 0.4 && kind < 0.75) members = damaged(members, random);
  const header = Buffer.from(json(members));
  const bytes = new Uint8Array(8 + header.length + 768);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
  bytes.set(header, 8);
  if (kind < 0.9) return bytes;
  if (kind < 0.94) return bytes.slice(0, below(random, bytes.length));
  if (kind < 0.97) new DataView(bytes.buffer).setBigUint64(0, pick(random, oddNumbers), true);
  else bytes[below(random, 8 + header.length)] = below(random, 256);
  return bytes;
}

function configMutant(random: Random): string {
  const type = pick(random, [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma3",
    "gemma3_text",
    "gpt_oss",
    "qwen3_5_text",
    "qwen3_5_moe",
    "bert",
  ]);
  const keys = type.startsWith("qwen3_5")
    ? [...configKeys.filter(([k]) => !/layer_types|rope_/.test(k)), ...recurrentKeys]
    : configKeys;
  let members: Members = keys.map(([k, v]) => [`"${k}"`, v]);
  for (let n = below(random, 3); n > 0; n--) members = damaged(members, random);
  members.push(['"model_type"', `"${type}"`]);
  const config = json(members);
  return random() < 0.2 ? `{"model_type":"gemma3","text_config":${config}}` : config;
}
