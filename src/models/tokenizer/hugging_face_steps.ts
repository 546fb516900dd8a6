import {
  array,
  boolean,
  declined,
  isRecord,
  type Json,
  type JsonRecord,
  MAX_NESTING,
  record,
} from "./hugging_face_tables.ts";
import { normalForm, toNfc } from "./normal_form.ts";
import { MARK } from "./sentence_piece.ts";
import { type PreTokenizer, preTokenizers } from "./split.ts";

/** A step on a stretch of text between special tokens; `start` says whether it begins the whole text. */
export type Prepare = (text: string, start: boolean) => string;

const same: Prepare = (text) => text;

/** Normalisers: Unicode forms, Prepend, Replace of a fixed string, and sequences of them. */
export function readNormalizer(value: Json, depth = 0): Prepare {
  if (value === undefined || value === null) return same;
  const step = record(value, "normalizer");
  switch (step.type) {
    case "NFC":
      return toNfc;
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = step.type;
      return (text) => normalForm(text, form);
    }
    case "Prepend": {
      const prefix = string(step, "prepend", "normalizer");
      return (text) => (text === "" ? text : prefix + text);
    }
    case "Replace": {
      const from = fixedPattern(step, "normalizer");
      const to = string(step, "content", "normalizer");
      return (text) => text.replaceAll(from, () => to);
    }
    case "Sequence": {
      const inner = array(step.normalizers, "normalizer.normalizers");
      if (depth >= MAX_NESTING)
        throw declined("normalizer", `at most ${MAX_NESTING} nested sequences`, inner);
      const steps = inner.map((one) => readNormalizer(one, depth + 1));
      return (text, start) => steps.reduce((done, next) => next(done, start), text);
    }
    default:
      throw declined("normalizer.type", "NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence", step.type);
  }
}

export type PreTokenization =
  | { readonly kind: "bytes"; readonly name: string; readonly preTokenizer: PreTokenizer }
  | { readonly kind: "characters"; readonly prepare: Prepare };

/** Recognises the pre-tokenizers that this project has scanners for; others are declined with what they say. */
export function readPreTokenizer(value: Json, normalize: Prepare): PreTokenization {
  const steps = flatten(value);
  const last = steps[steps.length - 1];
  if (last?.type === "ByteLevel") return byteLevelSteps(steps, last);
  const [step] = steps;
  if (step === undefined) return { kind: "characters", prepare: same };
  if (steps.length > 1)
    throw declined("pre_tokenizer", "a known combination", steps.map((s) => s.type).join(", "));
  switch (step.type) {
    case "Metaspace":
      return { kind: "characters", prepare: metaspace(step) };
    case "Split":
      // Blanks are marks by then, so this step of the Gemma files finds nothing to cut.
      if (fixedPattern(step, "pre_tokenizer") === " " && !normalize(" ", true).includes(" "))
        return { kind: "characters", prepare: same };
      throw declined("pre_tokenizer.pattern", "a known pattern", step.pattern);
    default:
      throw declined("pre_tokenizer.type", "ByteLevel, Split, Metaspace or Sequence", step.type);
  }
}

function flatten(value: Json): JsonRecord[] {
  if (value === undefined || value === null) return [];
  const step = record(value, "pre_tokenizer");
  if (step.type !== "Sequence") return [step];
  return array(step.pretokenizers, "pre_tokenizer.pretokenizers").flatMap((inner) => [
    record(inner, "pre_tokenizer"),
  ]);
}

function byteLevelSteps(steps: readonly JsonRecord[], byteLevel: JsonRecord): PreTokenization {
  const what = "pre_tokenizer";
  if (boolean(byteLevel, "add_prefix_space", true, what)) {
    throw declined(`${what}.add_prefix_space`, "false", true);
  }
  const [split] = steps;
  if (steps.length === 1 && boolean(byteLevel, "use_regex", true, what)) return known("gpt-2");
  const fits = steps.length === 2 && split?.type === "Split" && !boolean(byteLevel, "use_regex", true, what);
  if (!fits) throw declined(what, "a known combination", steps.map((s) => s.type).join(", "));
  const isolated = split.behavior === "Isolated" && !boolean(split, "invert", false, what);
  // The patterns cover all text, so keeping the matches and dropping what lies between is the same.
  const matches = split.behavior === "Removed" && boolean(split, "invert", false, what);
  if (!isolated && !matches) throw declined(`${what}.behavior`, "Isolated", split.behavior);
  const pattern = isRecord(split.pattern) ? split.pattern.Regex : undefined;
  for (const [name, preTokenizer] of preTokenizers) {
    if (preTokenizer.pattern === pattern) return { kind: "bytes", name, preTokenizer };
  }
  throw declined(`${what}.pattern`, "the expression of a known pre-tokenizer", pattern);
}

function known(name: string): PreTokenization {
  const preTokenizer = preTokenizers.get(name);
  if (preTokenizer === undefined) throw declined("pre_tokenizer", "a known pre-tokenizer", name);
  return { kind: "bytes", name, preTokenizer };
}

function metaspace(step: JsonRecord): Prepare {
  const what = "pre_tokenizer";
  const replacement = step.replacement ?? MARK;
  if (replacement !== MARK) throw declined(`${what}.replacement`, MARK, replacement);
  if (boolean(step, "split", true, what)) throw declined(`${what}.split`, "false", true);
  const byDefault = boolean(step, "add_prefix_space", true, what) ? "always" : "never";
  const scheme = step.prepend_scheme ?? byDefault;
  if (scheme !== "always" && scheme !== "first" && scheme !== "never") {
    throw declined(`${what}.prepend_scheme`, "always, first or never", scheme);
  }
  return (text, start) => {
    const marked = text.replaceAll(" ", MARK);
    const wanted = scheme === "always" || (scheme === "first" && start);
    return wanted && text !== "" && !marked.startsWith(MARK) ? MARK + marked : marked;
  };
}

/** Checks that a decoder is one that decoding by token bytes equals; says whether it takes a leading blank away. */
export function readSpaceStrip(value: Json, kind: PreTokenization["kind"]): boolean {
  const steps = decoderSteps(value);
  let strip = false;
  for (const step of steps) {
    const isKnown =
      kind === "bytes"
        ? step.type === "ByteLevel"
        : step.type === "Replace" || step.type === "ByteFallback" || step.type === "Fuse";
    if (isKnown) continue;
    if (kind === "characters" && step.type === "Strip" && step.content === " " && step.start === 1)
      strip = true;
    else if (kind === "characters" && step.type === "Metaspace") strip = step.prepend_scheme !== "never";
    else throw declined("decoder.type", "the decoder that belongs to the model", step.type);
  }
  return strip;
}

function decoderSteps(value: Json): JsonRecord[] {
  if (value === undefined || value === null) return [];
  const step = record(value, "decoder");
  if (step.type !== "Sequence") return [step];
  return array(step.decoders, "decoder.decoders").map((inner) => record(inner, "decoder"));
}

function fixedPattern(step: JsonRecord, what: string): string {
  const pattern = isRecord(step.pattern) ? step.pattern.String : undefined;
  if (typeof pattern === "string" && pattern !== "") return pattern;
  throw declined(
    `${what}.pattern`,
    "a fixed string",
    isRecord(step.pattern) ? step.pattern.Regex : step.pattern,
  );
}

function string(step: JsonRecord, key: string, what: string): string {
  const value = step[key];
  if (typeof value === "string") return value;
  throw declined(`${what}.${key}`, "a string", value);
}
