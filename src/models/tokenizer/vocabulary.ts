import { unexpected } from "../../core/error.ts";

/** Token types, with the numbers of `tokenizer.ggml.token_type`. */
export const TokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Whether plain text may not become a token of this type, however it is spelled. */
export function isReserved(type: number | undefined): boolean {
  return type === TokenType.control || type === TokenType.unknown || type === TokenType.byte;
}

/** Larger vocabularies are taken for damage; the largest in use have a few hundred thousand tokens. */
export const MAX_VOCABULARY = 1 << 22;

/** Tokens with a part to play; each is there when the file names it. */
export type TokenRoles = {
  readonly bos?: number;
  readonly eos?: number;
  readonly eot?: number;
  readonly eom?: number;
  readonly unknown?: number;
  readonly separator?: number;
  readonly padding?: number;
  readonly mask?: number;
};

export type Vocabulary = {
  /** Token texts as the file has them, by id. */
  readonly texts: readonly string[];
  /** A TokenType by id. */
  readonly types: Uint8Array;
  readonly roles: TokenRoles;
  readonly stopTokens: ReadonlySet<number>;
  /** The token with this text that plain text may turn into; never a control, unknown or byte token. */
  readonly plainId: (text: string) => number | undefined;
  /** Any token with this text. */
  readonly idOf: (text: string) => number | undefined;
};

const stopTexts = [
  "<|eot_id|>",
  "<|im_end|>",
  "<|end|>",
  "<|return|>",
  "<|call|>",
  "<|endoftext|>",
  "<|end_of_text|>",
  "<|eom_id|>",
  "<end_of_turn>",
  "<turn|>",
  "<|tool_response>",
];
/** The same, for texts that are also plain words of markup: they count only where the file calls them control tokens. */
const plainLookingStopTexts = ["<EOT>", "_<EOT>", "<eos>", "</s>"];
/** Coding models end a completion with these; they stay visible, as their files say. */
const fillStopTexts = ["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"];

/** Indexes a vocabulary and derives the set of tokens that end a generation. Of equal texts the first is used. */
export function makeVocabulary(
  texts: readonly string[],
  types: Uint8Array,
  roles: TokenRoles,
  moreStopTokens: readonly number[],
): Vocabulary {
  const plain = new Map<string, number>();
  const reserved = new Map<string, number>();
  for (let id = 0; id < texts.length; id++) {
    const text = texts[id] as string;
    if (text === "") continue;
    const map = isReserved(types[id]) ? reserved : plain;
    if (!map.has(text)) map.set(text, id);
  }
  const idOf = (text: string): number | undefined => reserved.get(text) ?? plain.get(text);
  const stopTokens = stopSet(idOf, roles, moreStopTokens);
  for (const text of plainLookingStopTexts) {
    const id = reserved.get(text);
    if (id !== undefined && types[id] === TokenType.control) stopTokens.add(id);
  }
  // In Gemma 4 this is text about markup, not an end.
  if (idOf("<|tool_response>") !== undefined) stopTokens.delete(idOf("</s>") ?? -1);
  for (const text of stopTexts) {
    const id = idOf(text);
    // Some files call these normal, and user text could then end a turn or open another.
    if (id === undefined || !stopTokens.has(id)) continue;
    types[id] = TokenType.control;
    plain.delete(text);
    reserved.set(text, id);
  }
  return { texts, types, roles, stopTokens, plainId: (text) => plain.get(text), idOf };
}

function stopSet(
  idOf: (text: string) => number | undefined,
  roles: TokenRoles,
  more: readonly number[],
): Set<number> {
  const stop = new Set<number>(more);
  const ids = [roles.eos, roles.eot, roles.eom, ...[...stopTexts, ...fillStopTexts].map(idOf)];
  for (const id of ids) if (id !== undefined) stop.add(id);
  // Harmony closes one message with <|end|> and goes on with the next.
  if (idOf("<|return|>") !== undefined && idOf("<|call|>") !== undefined) {
    stop.delete(idOf("<|end|>") ?? -1);
  }
  return stop;
}

/** Refuses counts that no vocabulary has. */
export function checkSize(where: string, size: number): void {
  if (Number.isInteger(size) && size > 0 && size <= MAX_VOCABULARY) return;
  throw unexpected("file_malformed", where, `between 1 and ${MAX_VOCABULARY} tokens`, size);
}

/** A stored id: undefined when absent, an error when it names no token of `size`. */
export function checkId(where: string, value: unknown, size: number): number | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value < size) return value;
  throw unexpected("file_malformed", where, `a token id below ${size}`, describe(value));
}

/** A value from a file in a few characters, for messages. */
export function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (typeof value === "number" || typeof value === "bigint" || typeof value === "boolean")
    return String(value);
  if (value === undefined || value === null) return "nothing";
  return Array.isArray(value) ? "a list" : `a value of type ${typeof value}`;
}
