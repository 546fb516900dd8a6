import * as v from "valibot";
import { readJson, validate } from "../body.ts";
import type { Route } from "../context.ts";
import { badField, json } from "../errors.ts";
import { flag, integer, maybe, text } from "../schema.ts";

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
  handle: async ({ state, request, take }) => {
    const body = validate(tokenizeSchema, await readJson(request, state.settings.limits.bodyBytes));
    const { tokenizer } = (await take(body.model)).model;
    const special = body.parse_special ?? true;
    const outer = body.add_special ? {} : { bos: false, eos: false };
    const tokens = tokenizer.encode(body.content, { special, ...outer });
    if (!body.with_pieces) return json({ tokens });
    return json({ tokens: tokens.map((id) => ({ id, piece: piece(tokenizer.tokenBytes(id)) })) });
  },
};

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
  tokens: v.array(integer(0, 2 ** 31 - 1), "an array of token ids"),
});

/** `{tokens}` to `{content}`; control tokens appear as their text. */
export const detokenize: Route = {
  method: "POST",
  path: "/detokenize",
  handle: async ({ state, request, take }) => {
    const body = validate(detokenizeSchema, await readJson(request, state.settings.limits.bodyBytes));
    const { tokenizer } = (await take(body.model)).model;
    const { tokens } = body;
    checkTokens(tokens, tokenizer.vocabularySize, "tokens");
    return json({ content: tokenizer.decode(tokens, { special: true }) });
  },
};

/** Throws 400 when an id is outside the vocabulary. */
export function checkTokens(tokens: readonly number[], vocabularySize: number, param: string): void {
  const wrong = tokens.findIndex((token) => token >= vocabularySize);
  if (wrong >= 0) {
    throw badField(`${param}[${wrong}]`, `a token id below ${vocabularySize}`, String(tokens[wrong]));
  }
}
