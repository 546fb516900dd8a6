import { unexpected } from "../../core/error.ts";
import type { Merges } from "./byte_level.ts";
import { checkId, checkSize, describe, MAX_VOCABULARY } from "./vocabulary.ts";

export type Json = unknown;
export type JsonRecord = Readonly<Record<string, Json>>;

const FILE = "tokenizer.json";
/** Sequences within sequences: real files have one level, and a deep file must not exhaust the stack. */
export const MAX_NESTING = 8;
const MAX_MERGES = 1 << 24;

export function isRecord(value: Json): value is JsonRecord {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function record(value: Json, what: string): JsonRecord {
  if (isRecord(value)) return value;
  throw unexpected("file_malformed", `${FILE}, ${what}`, "an object", describe(value));
}

/** A list, or an error that names the place. */
export function array(value: Json, what: string): readonly Json[] {
  if (Array.isArray(value)) return value;
  throw unexpected("file_malformed", `${FILE}, ${what}`, "a list", describe(value));
}

/** A boolean that may be left out. */
export function boolean(from: JsonRecord, key: string, byDefault: boolean, what: string): boolean {
  const value = from[key];
  if (value === undefined || value === null) return byDefault;
  if (typeof value === "boolean") return value;
  throw unexpected("file_malformed", `${FILE}, ${what}.${key}`, "true or false", describe(value));
}

export function declined(what: string, expected: string, got: Json): Error {
  return unexpected("unsupported", `${FILE}, ${what}`, expected, describe(got));
}

/** The tables of a BPE model; every other kind of model is declined by name. */
export function readBpe(model: JsonRecord) {
  // Files of the first versions leave the type out.
  const type = model.type ?? (model.merges !== undefined ? "BPE" : undefined);
  if (type !== "BPE") throw declined("model.type", "BPE", type);
  if (typeof model.dropout === "number" && model.dropout > 0) {
    throw declined("model.dropout", "none", model.dropout);
  }
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    const affix = model[key] ?? "";
    if (affix !== "") throw declined(`model.${key}`, "none", affix);
  }
  const unknown = model.unk_token ?? undefined;
  if (unknown !== undefined && typeof unknown !== "string") {
    throw unexpected("file_malformed", `${FILE}, model.unk_token`, "a string", describe(unknown));
  }
  return {
    vocabulary: readVocabulary(record(model.vocab, "model.vocab")),
    merges: readMerges(array(model.merges, "model.merges")),
    unknown,
    byteFallback: boolean(model, "byte_fallback", false, "model"),
    fuseUnknown: boolean(model, "fuse_unk", false, "model"),
    ignoreMerges: boolean(model, "ignore_merges", false, "model"),
  };
}

function readVocabulary(vocab: JsonRecord): ReadonlyMap<string, number> {
  const entries = Object.entries(vocab);
  checkSize(`${FILE}, model.vocab`, entries.length);
  const texts = new Map<string, number>();
  const taken = new Set<number>();
  for (const [text, value] of entries) {
    const id = tokenId(value, "model.vocab");
    if (taken.has(id)) throw unexpected("file_malformed", `${FILE}, model.vocab`, "an id once", id);
    taken.add(id);
    texts.set(text, id);
  }
  return texts;
}

function tokenId(value: Json, what: string): number {
  const id = checkId(`${FILE}, ${what}`, value, MAX_VOCABULARY);
  if (id !== undefined) return id;
  throw unexpected("file_malformed", `${FILE}, ${what}`, "a token id", describe(value));
}

function readMerges(rules: readonly Json[]): Merges {
  if (rules.length > MAX_MERGES) {
    throw unexpected("file_malformed", `${FILE}, model.merges`, `at most ${MAX_MERGES} rules`, rules.length);
  }
  return {
    length: rules.length,
    at: (index) => {
      const rule = rules[index];
      // Old files write "left right", new ones ["left", "right"].
      const sides = typeof rule === "string" ? rule.split(" ") : rule;
      if (Array.isArray(sides) && sides.length === 2) {
        const [left, right]: Json[] = sides;
        if (typeof left === "string" && typeof right === "string" && left !== "" && right !== "") {
          return [left, right];
        }
      }
      throw unexpected(
        "file_malformed",
        `${FILE}, model.merges, rule ${index}`,
        "two tokens",
        describe(rule),
      );
    },
  };
}

export type AddedToken = {
  readonly id: number;
  readonly text: string;
  readonly special: boolean;
  readonly normalized: boolean;
  readonly stripLeft: boolean;
  readonly stripRight: boolean;
};

export function readAddedTokens(value: Json): readonly AddedToken[] {
  if (value === undefined || value === null) return [];
  return array(value, "added_tokens").map((element, index) => {
    const what = `added_tokens[${index}]`;
    const token = record(element, what);
    if (typeof token.content !== "string") {
      throw unexpected("file_malformed", `${FILE}, ${what}.content`, "a string", describe(token.content));
    }
    if (boolean(token, "single_word", false, what)) throw declined(`${what}.single_word`, "false", true);
    return {
      id: tokenId(token.id, `${what}.id`),
      text: token.content,
      special: boolean(token, "special", false, what),
      normalized: boolean(token, "normalized", false, what),
      stripLeft: boolean(token, "lstrip", false, what),
      stripRight: boolean(token, "rstrip", false, what),
    };
  });
}

/** The id of a token that a config names by its text, or by a record with the text. */
export function namedId(token: Json, texts: readonly string[]): number | undefined {
  const text = isRecord(token) ? token.content : token;
  if (typeof text !== "string" || text === "") return undefined;
  const id = texts.indexOf(text);
  return id < 0 ? undefined : id;
}

/** BOS and EOS: which tokens, and whether encoding adds them. The settings win over the post-processor. */
export function readEnds(postProcessor: Json, settings: JsonRecord, texts: readonly string[]) {
  const template = templateEnds(postProcessor);
  const bos = namedId(settings.bos_token, texts) ?? namedId(template.first, texts);
  const eos = namedId(settings.eos_token, texts) ?? namedId(template.last, texts);
  const addBos = boolean(settings, "add_bos_token", template.first !== undefined, "tokenizer_config");
  const addEos = boolean(settings, "add_eos_token", template.last !== undefined, "tokenizer_config");
  if (addBos && bos === undefined) throw unnamedEnd("BOS");
  if (addEos && eos === undefined) throw unnamedEnd("EOS");
  return { bos, eos, addBos, addEos };
}

function unnamedEnd(name: string): Error {
  return unexpected(
    "file_malformed",
    FILE,
    `a ${name} token in the vocabulary`,
    "none, though it is to be added",
  );
}

/** The tokens that a post-processor puts around a single text. */
function templateEnds(processor: Json, depth = 0): { readonly first?: string; readonly last?: string } {
  if (processor === undefined || processor === null) return {};
  const step = record(processor, "post_processor");
  switch (step.type) {
    case "ByteLevel":
      return {};
    case "Sequence": {
      const inner = array(step.processors, "post_processor.processors");
      if (depth >= MAX_NESTING)
        throw declined("post_processor", `at most ${MAX_NESTING} nested sequences`, inner);
      return Object.assign({}, ...inner.map((one) => templateEnds(one, depth + 1)));
    }
    case "TemplateProcessing":
      return singleTemplate(array(step.single, "post_processor.single"));
    default:
      throw declined("post_processor.type", "ByteLevel, TemplateProcessing or Sequence", step.type);
  }
}

function singleTemplate(template: readonly Json[]): { readonly first?: string; readonly last?: string } {
  const special = (part: Json): string | undefined => {
    const token = isRecord(part) ? part.SpecialToken : undefined;
    const id = isRecord(token) ? token.id : undefined;
    return typeof id === "string" ? id : undefined;
  };
  const text = template.findIndex((part) => isRecord(part) && part.Sequence !== undefined);
  if (text < 0 || text > 1 || template.length > text + 2) {
    throw declined("post_processor.single", "a text with at most one token on each side", template);
  }
  const first = text === 1 ? special(template[0]) : undefined;
  const last = special(template[text + 1]);
  return { ...(first !== undefined && { first }), ...(last !== undefined && { last }) };
}

/** `eos_token_id` of a generation config: one id or several. */
export function stopIds(config: Json, size: number): number[] {
  const value = isRecord(config) ? config.eos_token_id : undefined;
  if (value === undefined || value === null) return [];
  const ids: readonly Json[] = Array.isArray(value) ? value : [value];
  return ids
    .map((id) => checkId("generation config, eos_token_id", id, size))
    .filter((id) => id !== undefined);
}
