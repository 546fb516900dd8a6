import * as v from "valibot";
import type { Tokenizer } from "../../../models/tokenizer/tokenizer.ts";
import { notToken } from "../../engine/sampling_settings.ts";
import type { TokenIds } from "../../protocol.ts";
import { describe, readJson, validate } from "../body.ts";
import type { Route } from "../context.ts";
import { badField, jsonText } from "../errors.ts";
import { listJson, runsOf, streamOf, textJson } from "../long_json.ts";
import { flag, maybe, text } from "../schema.ts";

const tokenizeSchema = v.object({
  content: text,
  model: maybe(text),
  add_special: maybe(flag),
  parse_special: maybe(flag),
  with_pieces: maybe(flag),
});

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** `{content, add_special?, parse_special?, with_pieces?}` to `{tokens}`, as llama.cpp's server does it. */
export const tokenize: Route = {
  method: "POST",
  path: "/tokenize",
  handle: async (context) => {
    const { take, inSteps } = context;
    const body = validate(tokenizeSchema, await readJson(context));
    const { tokenizer } = (await take(body.model)).model;
    const special = body.parse_special ?? true;
    const outer = body.add_special ? {} : { bos: false, eos: false };
    const parts = await inSteps(tokenizer.encodeSteps(body.content, { special, ...outer }));
    const runs = runsOf(parts, body.with_pieces ? RUN_TOKENS / 8 : RUN_TOKENS);
    const members = body.with_pieces ? withPieces(tokenizer, runs) : runs;
    return jsonText(streamOf(await inSteps(listJson({}, "tokens", members))));
  },
};

/** Tokens that are written, or read, in one step. */
const RUN_TOKENS = 2048;

function* withPieces(tokenizer: Tokenizer, runs: Iterable<readonly number[]>) {
  for (const run of runs) yield run.map((id) => ({ id, piece: piece(tokenizer.tokenBytes(id)) }));
}

/** Text, or bytes where the token alone is not valid UTF-8. */
function piece(bytes: Uint8Array): string | number[] {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return [...bytes];
  }
}

const detokenizeSchema = v.object({
  model: maybe(text),
  tokens: v.custom<readonly unknown[]>(Array.isArray, "an array of token ids"),
});

/** `{tokens}` to `{content}`; control tokens appear as their text. */
export const detokenize: Route = {
  method: "POST",
  path: "/detokenize",
  handle: async (context) => {
    const body = validate(detokenizeSchema, await readJson(context));
    const { tokenizer } = (await context.take(body.model)).model;
    return jsonText(streamOf(await context.inSteps(textJson("content", decoded(tokenizer, body.tokens)))));
  },
};

function* decoded(tokenizer: Tokenizer, tokens: readonly unknown[]): Iterable<string> {
  const decoder = tokenizer.streamDecoder({ special: true, continuation: false });
  const expected = `a token id below ${tokenizer.vocabularySize}`;
  for (let i = 0; i < tokens.length; ) {
    let part = "";
    for (const end = Math.min(tokens.length, i + RUN_TOKENS); i < end; i++) {
      const token = tokens[i];
      const isId = typeof token === "number" && Number.isInteger(token) && token >= 0;
      if (!isId || token >= tokenizer.vocabularySize)
        throw badField(`tokens[${i}]`, expected, isId ? String(token) : describe(token));
      part += decoder.push(token);
    }
    yield part;
  }
  yield decoder.flush();
}

/** A list of token ids from outside; throws 400 for the first that is none. */
export function readTokens(
  list: readonly unknown[] | Int32Array,
  vocabularySize: number,
  param: string,
): TokenIds {
  const tokens = list as TokenIds;
  if (notToken(tokens, vocabularySize) < 0) return tokens;
  // of any vocabulary, that is, before those of this one
  const wrong = notToken(tokens, 2 ** 31);
  if (wrong >= 0) throw badField(`${param}[${wrong}]`, "a token id", describe(list[wrong]));
  checkTokens(tokens, vocabularySize, param);
  return tokens;
}

/** Throws 400 when an id is outside the vocabulary. */
export function checkTokens(tokens: TokenIds, vocabularySize: number, param: string): void {
  const wrong = tokens.findIndex((token) => token >= vocabularySize);
  if (wrong >= 0) {
    throw badField(`${param}[${wrong}]`, `a token id below ${vocabularySize}`, String(tokens[wrong]));
  }
}
