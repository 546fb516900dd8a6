import { PsionicError } from "../../core/error.ts";
import type { ServedModel } from "./options.ts";

/** What normal forms and templates may take away of a text: this many units become one at most. */
const slack = 4;

/**
 * Refuses texts that are too long for the context however they are divided into tokens. They are encoded by the thread that
 * answers everybody, and a body full of text takes it seconds.
 */
export function checkFits({ engine, tokenizer }: ServedModel, texts: readonly string[]): void {
  const { contextLength } = engine.info;
  const length = texts.reduce((sum, text) => sum + text.length, 0);
  const least = Math.floor(length / (slack * tokenizer.longestToken));
  if (least < contextLength) return;
  const promptTokens = `at least ${least}`;
  throw new PsionicError(
    "context_overflow",
    `[prompt] expected fewer than ${contextLength} tokens, got ${promptTokens}`,
    { promptTokens, contextLength },
  );
}
