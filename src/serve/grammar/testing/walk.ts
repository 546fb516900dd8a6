import { defaultModelPath } from "../../../models/default_model.ts";
import { openModelFiles } from "../../../models/files/source.ts";
import { openTokenizer } from "../../../models/open_tokenizer.ts";
import type { Tokenizer } from "../../../models/tokenizer/tokenizer.ts";
import { compileGrammar } from "../compile.ts";
import { Grammars, type TokenMask } from "../constraint.ts";
import type { Grammar } from "../expr.ts";
import { packTokens } from "../token_trie.ts";

/** A vocabulary with the grammars over it, as the engine holds them. */
export type Vocabulary = {
  readonly tokenizer: Tokenizer;
  readonly grammars: Grammars;
  readonly stop: number;
  readonly width: number;
  /** Tokens of nothing but ends of strings, lists and objects. */
  readonly ends: ReadonlySet<number>;
};

/** The default model's vocabulary. */
export function defaultVocabulary(): Vocabulary {
  const tokenizer = openTokenizer(openModelFiles(defaultModelPath()));
  const grammars = new Grammars(tokenizer.vocabularySize);
  grammars.learn(packTokens(tokenizer, new Set()));
  const ends = new Set<number>();
  for (let id = 0; id < tokenizer.vocabularySize; id++) {
    const isEnd = /^["\]}]+$/.test(Buffer.from(tokenizer.tokenBytes(id)).toString("latin1"));
    if (isEnd && !tokenizer.isControl(id)) ends.add(id);
  }
  return { tokenizer, grammars, stop: tokenizer.eos!, width: tokenizer.vocabularySize, ends };
}

/** Numbers in [0, 1), the same for the same seed. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function allowedTokens({ words }: TokenMask): number[] {
  const ids: number[] = [];
  for (let w = 0; w < words.length; w++) {
    for (let rest = words[w]!; rest !== 0; rest &= rest - 1) {
      ids.push(w * 32 + 31 - Math.clz32(rest & -rest));
    }
  }
  return ids;
}

export type Walk = { readonly text: string; readonly tokens: readonly number[]; readonly whole: boolean };

let digests = 0;

/**
 * An answer made of random tokens that the masks allow. After `patience` tokens the end is taken where it is allowed, else
 * a short token, so that most walks end.
 */
export function randomWalk(
  vocabulary: Vocabulary,
  grammar: Grammar,
  random: () => number,
  { patience = 20, most = 400 } = {},
): Walk {
  return openWalk(vocabulary, grammar)(random, { patience, most });
}

/** The same for several walks through one grammar. */
export function openWalk({ tokenizer, grammars, stop, ends }: Vocabulary, grammar: Grammar) {
  const program = compileGrammar(grammar);
  const digest = `walk ${digests++}`;
  return (random: () => number, { patience = 20, most = 400 } = {}): Walk => {
    const constraint = grammars.add(digest, program).open({ digest, consumed: [], stops: [stop] });
    const tokens: number[] = [];
    let whole = false;
    while (tokens.length < most) {
      if (constraint.ended) {
        whole = true;
        break;
      }
      const allowed = allowedTokens(constraint.mask());
      const late = tokens.length > patience;
      if (allowed.includes(stop) && (late || allowed.length === 1 || random() < 0.1)) {
        whole = true;
        break;
      }
      const texts = allowed.filter((id) => id !== stop);
      const token = late ? closing(ends, texts, random) : texts[Math.floor(random() * texts.length)]!;
      constraint.accept(token);
      tokens.push(token);
    }
    return { text: tokenizer.decode(tokens, { continuation: true }), tokens, whole };
  };
}

/** One of the tokens that tend to bring a text to its end. */
function closing(ends: ReadonlySet<number>, tokens: readonly number[], random: () => number): number {
  const closers = tokens.filter((id) => ends.has(id));
  const from = closers.length > 0 && random() < 0.9 ? closers : tokens;
  return from[Math.floor(random() * from.length)]!;
}
