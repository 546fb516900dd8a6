import { PsionicError } from "../../core/error.ts";
import type { Steps } from "../../core/steps.ts";
import type { EncodeOptions } from "../../models/tokenizer/tokenizer.ts";
import type { ServedModel } from "./options.ts";

/** What normal forms and templates may take away of a text: this many units become one at most. */
const slack = 4;
/** A prompt of more contexts than this is not counted to its end; so many tokens in any case. */
const countedContexts = 4;
const countedTokens = 1 << 16;
/** Texts of more units for each token of the context are counted before anything is made of them: few of them fit. */
const likelyUnits = 6;

/** How many tokens of a prompt are counted, at most. */
export function mostTokens({ engine }: ServedModel): number {
  return Math.max(countedContexts * engine.info.contextLength, countedTokens);
}

/** Refuses texts that are too long for the context, before a prompt is made of them; the most that a number can tell, if need be. */
export function* checkFits(model: ServedModel, texts: readonly string[]): Steps<void> {
  const { engine, tokenizer } = model;
  const { contextLength } = engine.info;
  const length = texts.reduce((sum, text) => sum + text.length, 0);
  const least = Math.floor(length / (slack * tokenizer.longestToken));
  if (least >= contextLength) throw tooLong(model, least);
  const most = mostTokens(model);
  if (length < (likelyUnits / countedContexts) * most) return;
  let count = 0;
  for (const text of texts) {
    const parts = yield* tokenizer.encodeSteps(
      text,
      { special: false, bos: false, eos: false },
      most - count,
    );
    count += parts.reduce((sum, part) => sum + part.length, 0);
    if (count > most) break;
    yield;
  }
  if (count >= contextLength) throw tooLong(model, count);
}

/** A text as a prompt; refuses one that is too long to be counted. */
export function* encodePrompt(model: ServedModel, text: string, options: EncodeOptions): Steps<number[]> {
  yield* checkFits(model, [text]);
  const most = mostTokens(model);
  const ids = (yield* model.tokenizer.encodeSteps(text, options, most)).flat();
  if (ids.length > most) throw tooLong(model, ids.length);
  return ids;
}

/** The refusal of a prompt of which so many tokens were counted. */
export function tooLong({ engine }: ServedModel, least: number): PsionicError {
  const { contextLength } = engine.info;
  const promptTokens = `at least ${least}`;
  return new PsionicError(
    "context_overflow",
    `[prompt] expected fewer than ${contextLength} tokens, got ${promptTokens}`,
    { promptTokens, contextLength },
  );
}
