import { PsionicError } from "../../core/error.ts";
import { alphabet } from "./byte_level.ts";
import { tokenizerFromGguf } from "./gguf.ts";
import { tokenizerFromHuggingFace } from "./hugging_face.ts";
import type { Tokenizer } from "./tokenizer.ts";

export type FuzzResult = {
  readonly cases: number;
  /** Vocabularies that were accepted and then used. */
  readonly accepted: number;
  /** Cases that ended with a typed error, in loading or in use. */
  readonly refused: number;
};

type Random = () => number;

/**
 * Damages small vocabularies in the ways files can be wrong, loads them, and encodes and decodes hostile text with
 * those that load. Ends after `count` cases or `durationMs`; throws at the first thing that is not a typed error.
 */
export function fuzzTokenizer(
  seed: number,
  limit: { readonly count?: number; readonly durationMs?: number },
): FuzzResult {
  const started = performance.now();
  let [cases, accepted, refused] = [0, 0, 0];
  const goOn = (): boolean =>
    cases < (limit.count ?? Number.POSITIVE_INFINITY) &&
    performance.now() - started < (limit.durationMs ?? Number.POSITIVE_INFINITY);
  while (goOn()) {
    const random = randomFrom(seed + cases);
    cases++;
    try {
      const tokenizer = load(random);
      accepted++;
      exercise(tokenizer, random);
    } catch (error) {
      if (!(error instanceof PsionicError) || error.code === "internal") {
        throw new Error(`case ${cases - 1} of seed ${seed} broke`, { cause: error });
      }
      refused++;
    }
  }
  return { cases, accepted, refused };
}

/** Mulberry32: numbers in [0, 1), the same for the same seed. */
function randomFrom(seed: number): Random {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function pick<T>(random: Random, values: readonly T[]): T {
  return values[Math.floor(random() * values.length)] as T;
}

function load(random: Random): Tokenizer {
  if (random() < 0.4) return tokenizerFromHuggingFace(mutateJson(huggingFaceJson(random), random, 0));
  const metadata = ggufMetadata(random);
  const keys = [...metadata.keys()];
  for (let damage = Math.floor(random() * 3); damage > 0; damage--) {
    const key = pick(random, keys);
    const value = metadata.get(key);
    metadata.set(key, Array.isArray(value) ? damagedList(value, random) : pick(random, oddValues));
    if (random() < 0.1) metadata.delete(key);
  }
  return tokenizerFromGguf((key) => metadata.get(key));
}

const oddValues: readonly unknown[] = [
  0,
  -1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 53,
  10n ** 18n,
  Number.NaN,
  0.5,
  "",
  "gpt2",
  "llama",
  "\ud800",
  "a".repeat(3000),
  "▁▁",
  "<0xZZ>",
  " ",
  "a  b",
  null,
  undefined,
  true,
  [],
  [[]],
  {},
  ["a", "b"],
];

function damagedList(list: readonly unknown[], random: Random): unknown[] {
  const copy = [...list];
  const at = Math.floor(random() * copy.length);
  switch (Math.floor(random() * 5)) {
    case 0:
      return copy.slice(0, at);
    case 1:
      copy[at] = pick(random, oddValues);
      return copy;
    case 2:
      copy[at] = pick(random, copy);
      return copy;
    case 3:
      copy.push(pick(random, oddValues));
      return copy;
    default:
      return copy.reverse();
  }
}

const words = [
  "a",
  "b",
  "ab",
  "aba",
  "abab",
  "\u0120",
  "\u0120a",
  "\u0120ab",
  "▁",
  "▁a",
  "▁ab",
  "▁▁",
  "é",
  "\n",
  "\n\n",
];
const controls = ["<s>", "</s>", "<unk>", "<|im_end|>", "<|end|>", "<|", "<<<<", "<think>"];

function ggufMetadata(random: Random): Map<string, unknown> {
  const tokens = [...alphabet, ...words, ...controls, "<0x0A>", "<0xC3>", ""];
  const types = tokens.map((token) => {
    if (controls.includes(token)) return pick(random, [2, 3, 4]);
    return token.startsWith("<0x") ? 6 : 1;
  });
  const key = (name: string): string => `tokenizer.ggml.${name}`;
  return new Map<string, unknown>([
    [key("model"), pick(random, ["gpt2", "llama", "gemma4"])],
    [key("pre"), pick(random, ["gpt-2", "gpt-4o", "llama-bpe", "qwen2", "qwen35", "tekken"])],
    [key("tokens"), tokens],
    [key("token_type"), types],
    [key("scores"), tokens.map(() => Math.floor(random() * 8) - 4)],
    [key("merges"), ["a b", "ab a", "ab ab", "\u0120 a", "\u0120 ab", "▁ a", "▁ ab", "▁ ▁", "\n \n"]],
    [key("bos_token_id"), tokens.indexOf("<s>")],
    [key("eos_token_id"), tokens.indexOf("</s>")],
    [key("unknown_token_id"), tokens.indexOf("<unk>")],
    [key("add_bos_token"), random() < 0.5],
    [key("add_space_prefix"), random() < 0.5],
    [key("eos_token_ids"), [0, 1]],
  ]);
}

function huggingFaceJson(random: Random): unknown {
  const texts = [
    ...alphabet,
    ...words.filter((word) => word.length > 1 || word === "▁" || word === "\u0120"),
  ];
  const merges = ["a b", "ab a", "ab ab", "\u0120 a", "\u0120 ab", "▁ a", "▁ ab", "▁ ▁"];
  const byBytes = random() < 0.5;
  return {
    added_tokens: controls.map((content, i) => ({
      id: 400 + i,
      content,
      special: random() < 0.5,
      rstrip: random() < 0.2,
    })),
    normalizer: byBytes ? { type: "NFC" } : { type: "Replace", pattern: { String: " " }, content: "▁" },
    pre_tokenizer: byBytes ? { type: "ByteLevel", add_prefix_space: false, use_regex: true } : null,
    decoder: byBytes
      ? { type: "ByteLevel" }
      : {
          type: "Sequence",
          decoders: [{ type: "Replace", pattern: { String: "▁" }, content: " " }, { type: "Fuse" }],
        },
    post_processor: null,
    model: {
      type: "BPE",
      unk_token: "a",
      byte_fallback: random() < 0.5,
      fuse_unk: random() < 0.5,
      vocab: Object.fromEntries([...new Set(texts)].map((text, id) => [text, id])),
      merges: random() < 0.5 ? merges : merges.map((rule) => rule.split(" ")),
    },
  };
}

/** Replaces a few values anywhere in a JSON tree. */
function mutateJson(value: unknown, random: Random, depth: number): unknown {
  if (random() < 0.004 * (depth + 1)) return pick(random, oddValues);
  if (Array.isArray(value)) {
    if (random() < 0.05) return damagedList(value, random);
    return value.length > 40 ? value : value.map((element) => mutateJson(element, random, depth + 1));
  }
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value);
  if (entries.length > 40) {
    const at = Math.floor(random() * entries.length);
    if (random() < 0.1) entries[at] = [entries[at]?.[0] ?? "", pick(random, oddValues)];
    return Object.fromEntries(entries);
  }
  return Object.fromEntries(entries.map(([key, inner]) => [key, mutateJson(inner, random, depth + 1)]));
}

const hostileBits = [
  "a",
  "b",
  "ab",
  " ",
  "  ",
  "\n",
  "\r\n",
  "<s>",
  "<",
  "<|im_end|>",
  "▁",
  "é",
  "e\u0301",
  "😀",
  "\ud800",
  "\udc00",
  "\0",
  "中",
  "9",
  "'S",
  "\u0120",
];

function exercise(tokenizer: Tokenizer, random: Random): void {
  let text = "";
  for (let bits = Math.floor(random() * 60); bits > 0; bits--) text += pick(random, hostileBits);
  if (random() < 0.05) text = pick(random, hostileBits).repeat(5000);
  const ids = tokenizer.encode(text, { special: random() < 0.5 });
  const user = tokenizer.encode(text, { special: false, bos: false, eos: false });
  const unknown = tokenizer.roles.unknown;
  const control = user.find((id) => tokenizer.isControl(id) && id !== unknown);
  if (control !== undefined) throw new Error(`user text became the control token ${control}`);
  const whole = tokenizer.decode(ids);
  const stream = tokenizer.streamDecoder({ continuation: false });
  const streamed = ids.map((id) => stream.push(id)).join("") + stream.flush();
  if (streamed !== whole)
    throw new Error(`streaming gave ${JSON.stringify(streamed)}, not ${JSON.stringify(whole)}`);
  const random32 = Array.from({ length: 20 }, () => Math.floor(random() * tokenizer.vocabularySize));
  tokenizer.decode(random32, { special: true });
  for (const id of random32) tokenizer.tokenText(id);
  if (random() < 0.2)
    tokenizer.decode([pick(random, [-1, 0.5, Number.NaN, tokenizer.vocabularySize, 2 ** 31])]);
}
