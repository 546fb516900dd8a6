import { unexpected } from "../../core/error.ts";
import { alphabetBytes, byteLevelEncoder, type EncodeText, type Merges, mergeRules } from "./byte_level.ts";
import { toNfc } from "./normal_form.ts";
import { characterEncoder, MARK, markBytes, scoreRules } from "./sentence_piece.ts";
import { type PreTokenizer, preTokenizers } from "./split.ts";
import { makeTokenizer, type Tokenizer } from "./tokenizer.ts";
import {
  checkId,
  checkSize,
  describe,
  makeVocabulary,
  type TokenRoles,
  TokenType,
  type Vocabulary,
} from "./vocabulary.ts";

/** A list as metadata holds it: an array, a typed array or a string table. */
type List = { readonly length: number; readonly at: (index: number) => unknown };
type Metadata = (key: string) => unknown;

const WHERE = "tokenizer metadata";
const PREFIX = "tokenizer.ggml.";
/** How files write "no such token" in an unsigned field. */
const NO_ID = 0xffffffff;

/**
 * A tokenizer from the metadata of a GGUF file. `metadata` gives the value of a key: scalars as they are, arrays as
 * anything with `length` and `at`, undefined when absent.
 */
export function tokenizerFromGguf(metadata: Metadata): Tokenizer {
  const model = metadata(`${PREFIX}model`);
  switch (model) {
    case "gpt2":
      return byteLevel(metadata);
    case "llama":
      return sentencePiece(metadata);
    case "gemma4":
      return gemma4(metadata);
    default:
      throw unexpected("unsupported", WHERE, "tokenizer.ggml.model gpt2, llama or gemma4", describe(model), {
        details: { model },
      });
  }
}

function byteLevel(metadata: Metadata): Tokenizer {
  const pre = text(metadata, "pre") ?? "default";
  const preTokenizer = knownPreTokenizer(pre);
  const vocabulary = readVocabulary(metadata);
  const rules = mergeRules(readMerges(metadata), vocabulary);
  const encode = byteLevelEncoder(vocabulary, rules, preTokenizer);
  const normalised: EncodeText = preTokenizer.nfc ? (piece, out) => encode(toNfc(piece), out) : encode;
  return makeTokenizer({
    kind: "gpt2",
    pre,
    vocabulary,
    ...readEnds(metadata, vocabulary, preTokenizer.addBos),
    encodeText: normalised,
    bytesOf: alphabetBytes,
    spacePrefix: false,
  });
}

function knownPreTokenizer(name: string): PreTokenizer {
  const found = preTokenizers.get(name);
  if (found !== undefined) return found;
  const known = `tokenizer.ggml.pre of ${[...preTokenizers.keys()].join(", ")}`;
  throw unexpected("unsupported", WHERE, known, describe(name), { details: { pre: name } });
}

function sentencePiece(metadata: Metadata): Tokenizer {
  const charsmap = metadata(`${PREFIX}precompiled_charsmap`);
  if (isList(charsmap) && charsmap.length > 0) {
    throw unexpected("unsupported", WHERE, "no precompiled_charsmap", `one of ${charsmap.length} bytes`);
  }
  if (flag(metadata, "remove_extra_whitespaces") === true) {
    throw unexpected("unsupported", WHERE, "remove_extra_whitespaces false", "true");
  }
  const vocabulary = readVocabulary(metadata);
  const rules = scoreRules(vocabulary, readScores(metadata, vocabulary.texts.length));
  const encode = characterEncoder(vocabulary, rules, { ...characterOptions, ignoreMerges: false });
  const prefix = (flag(metadata, "add_space_prefix") ?? true) ? MARK : "";
  return makeTokenizer({
    kind: "llama",
    pre: "",
    vocabulary,
    ...readEnds(metadata, vocabulary, true),
    encodeText: (piece, out) => encode(prefix + piece.replaceAll(" ", MARK), out),
    bytesOf: markBytes,
    spacePrefix: prefix !== "",
  });
}

/** Short lines that are one step. */
const LINES_A_STEP = 1024;

const characterOptions = { fuseUnknown: false, byteFallback: true } as const;

function gemma4(metadata: Metadata): Tokenizer {
  const vocabulary = readVocabulary(metadata);
  const rules = mergeRules(readMerges(metadata), vocabulary);
  const encode = characterEncoder(vocabulary, rules, { ...characterOptions, ignoreMerges: false });
  return makeTokenizer({
    kind: "gemma4",
    pre: "",
    vocabulary,
    ...readEnds(metadata, vocabulary, true),
    // Checkpoints say not to add it because their template prints it; the model needs exactly one either way.
    addBos: vocabulary.roles.bos !== undefined,
    *encodeText(piece, out) {
      let count = 0;
      for (const [line] of piece.replaceAll(" ", MARK).matchAll(/[^\n]+|\n+/g)) {
        const newlines = line.startsWith("\n") ? vocabulary.plainId(line) : undefined;
        if (newlines === undefined) yield* encode(line, out);
        else out.push(newlines);
        if (++count % LINES_A_STEP === 0) yield;
      }
    },
    bytesOf: markBytes,
    spacePrefix: false,
  });
}

function readVocabulary(metadata: Metadata): Vocabulary {
  const tokens = list(metadata, "tokens");
  checkSize(`${WHERE}, ${PREFIX}tokens`, tokens.length);
  const texts = Array.from({ length: tokens.length }, (_, id) => stringAt(tokens, "tokens", id));
  const types = readTypes(metadata, texts);
  const typed = metadata(`${PREFIX}token_type`) !== undefined;
  const id = (key: string): number | undefined => {
    const value = metadata(`${PREFIX}${key}_token_id`);
    return value === NO_ID || value === -1
      ? undefined
      : checkId(`${PREFIX}${key}_token_id`, value, texts.length);
  };
  const found: Record<keyof TokenRoles, number | undefined> = {
    bos: id("bos"),
    eos: id("eos"),
    eot: id("eot"),
    eom: id("eom"),
    unknown: id("unknown"),
    separator: id("seperator"),
    padding: id("padding"),
    mask: id("mask"),
  };
  if (!typed) guessTypes(texts, types, found);
  return makeVocabulary(texts, types, found, readStopIds(metadata, texts.length));
}

const byteText = /^<0x[0-9A-Fa-f]{2}>$/;

/** Without stored types, what the roles and the spelling of byte tokens say. */
function guessTypes(texts: readonly string[], types: Uint8Array, roles: TokenRoles): void {
  for (const id of [roles.bos, roles.eos, roles.eot, roles.eom]) {
    if (id !== undefined) types[id] = TokenType.control;
  }
  if (roles.unknown !== undefined) types[roles.unknown] = TokenType.unknown;
  texts.forEach((text, id) => {
    if (byteText.test(text)) types[id] = TokenType.byte;
  });
}

function readTypes(metadata: Metadata, texts: readonly string[]): Uint8Array {
  const stored = metadata(`${PREFIX}token_type`);
  const types = new Uint8Array(texts.length).fill(TokenType.normal);
  if (stored === undefined) return types;
  const values = list(metadata, "token_type");
  sameLength("token_type", values, texts.length);
  for (let id = 0; id < texts.length; id++) {
    const type = Number(values.at(id));
    if (!Number.isInteger(type) || type < 0 || type > 6) {
      throw unexpected("file_malformed", `${PREFIX}token_type of token ${id}`, "a type from 1 to 6", type);
    }
    // 0 is "undefined" in files of old converters.
    types[id] = type === 0 ? TokenType.normal : type;
    if (type === TokenType.byte && !byteText.test(texts[id] as string)) {
      const got = describe(texts[id]);
      throw unexpected("file_malformed", `${PREFIX}tokens, byte token ${id}`, "a text such as <0x0A>", got);
    }
  }
  return types;
}

function readScores(metadata: Metadata, size: number): Float64Array {
  const values = list(metadata, "scores");
  sameLength("scores", values, size);
  return Float64Array.from({ length: size }, (_, id) => {
    const score = values.at(id);
    if (typeof score === "number" && !Number.isNaN(score)) return score;
    throw unexpected("file_malformed", `${PREFIX}scores of token ${id}`, "a number", describe(score));
  });
}

function readMerges(metadata: Metadata): Merges {
  const merges = list(metadata, "merges");
  if (merges.length > MAX_MERGES) {
    throw unexpected("file_malformed", `${PREFIX}merges`, `at most ${MAX_MERGES} rules`, merges.length);
  }
  return {
    length: merges.length,
    at: (index) => {
      const rule = stringAt(merges, "merges", index);
      const blank = rule.indexOf(" ", 1);
      if (blank > 0 && blank < rule.length - 1) return [rule.slice(0, blank), rule.slice(blank + 1)];
      throw unexpected(
        "file_malformed",
        `${PREFIX}merges, rule ${index}`,
        "two tokens and a blank",
        describe(rule),
      );
    },
  };
}

const MAX_MERGES = 1 << 24;

function readStopIds(metadata: Metadata, size: number): number[] {
  const stored = metadata(`${PREFIX}eos_token_ids`);
  if (stored === undefined) return [];
  const ids = list(metadata, "eos_token_ids");
  if (ids.length > size) {
    throw unexpected("file_malformed", `${PREFIX}eos_token_ids`, `at most ${size} ids`, ids.length);
  }
  return Array.from({ length: ids.length }, (_, i) =>
    checkId(`${PREFIX}eos_token_ids`, ids.at(i), size),
  ).filter((id) => id !== undefined);
}

/** BOS and EOS as the file asks; a family's default applies only where the file names the token. */
function readEnds(metadata: Metadata, vocabulary: Vocabulary, bosByDefault: boolean) {
  const { bos, eos } = vocabulary.roles;
  const addBos = flag(metadata, "add_bos_token") ?? (bosByDefault && bos !== undefined);
  const addEos = flag(metadata, "add_eos_token") ?? false;
  if (addBos && bos === undefined) throw unnamedEnd("bos");
  if (addEos && eos === undefined) throw unnamedEnd("eos");
  return { addBos, addEos };
}

function unnamedEnd(name: "bos" | "eos"): Error {
  const got = `${PREFIX}add_${name}_token without it`;
  return unexpected("file_malformed", WHERE, `${PREFIX}${name}_token_id`, got);
}

function isList(value: unknown): value is List {
  return (
    typeof value === "object" &&
    value !== null &&
    typeof (value as Partial<List>).length === "number" &&
    typeof (value as Partial<List>).at === "function"
  );
}

function list(metadata: Metadata, key: string): List {
  const value = metadata(PREFIX + key);
  if (isList(value)) return value;
  throw unexpected("file_malformed", WHERE, `a list ${PREFIX}${key}`, describe(value));
}

function stringAt(values: List, key: string, index: number): string {
  const value = values.at(index);
  if (typeof value === "string") return value;
  throw unexpected("file_malformed", `${PREFIX}${key}, element ${index}`, "a string", describe(value));
}

function sameLength(key: string, values: List, size: number): void {
  if (values.length === size) return;
  throw unexpected("file_malformed", `${PREFIX}${key}`, `${size} elements, one a token`, values.length);
}

function text(metadata: Metadata, key: string): string | undefined {
  const value = metadata(PREFIX + key);
  if (value === undefined || typeof value === "string") return value;
  throw unexpected("file_malformed", PREFIX + key, "a string", describe(value));
}

function flag(metadata: Metadata, key: string): boolean | undefined {
  const value = metadata(PREFIX + key);
  if (value === undefined || typeof value === "boolean") return value;
  throw unexpected("file_malformed", PREFIX + key, "true or false", describe(value));
}
