import { SpecialMatcher } from "../tokenizer/special.ts";
import { joinPieces } from "./pieces.ts";
import type { ChatTokenizer, PromptPiece } from "./types.ts";

/*
 * Noncharacters, which no text may contain (Unicode 23.7). They travel through a template as part of strings: trimming,
 * searching and joining work as ever, and afterwards they say who wrote what.
 */
const OPEN = "\uFDD1"; // before a control token that stands in the template
const CLOSE = "\uFDD2"; // behind it
const BROKEN = "\uFDD0"; // inside a control token that a message spells
const CUT = "\uFDD3"; // inside a text that the vocabulary would turn into a token although it is not a control token
const NONCHARACTERS = /[\uFDD0-\uFDD3]/g;

/** Marks texts on their way into a template and reads its output. */
export type TemplateText = {
  /** Text of the template itself. */
  readonly ofTemplate: (text: string) => string;
  /** Text of a message; `ours`: the model wrote it, so marks of its reasoning may stand in it. */
  readonly ofMessage: (text: string, ours: boolean) => string;
  /** Who wrote what in the output. */
  readonly pieces: (rendered: string) => PromptPiece[];
  /** Whether the output has control tokens that the template put together from parts. */
  readonly isComposed: (rendered: string) => boolean;
};

/**
 * `composing`: the template puts control tokens together from parts, such as `'<|' + role + '|>'`. Then a control token
 * counts wherever it stands unless a message spelled it; otherwise only what the template spells is one.
 */
export function templateText(tokenizer: ChatTokenizer, source: string, composing: boolean): TemplateText {
  const controls = new SpecialMatcher(controlTokens(tokenizer));
  const guards = guardedTexts(tokenizer, source);
  return {
    ofTemplate: (text) => replaceMatches(controls, text, (token) => OPEN + token + CLOSE),
    ofMessage: (text, ours) => {
      const clean = text.replace(NONCHARACTERS, "\uFFFD");
      const safe = composing ? replaceMatches(controls, clean, (token) => broken(token, BROKEN)) : clean;
      return ours
        ? safe
        : guards.reduce((cut, guard) => cut.replaceAll(guard, () => broken(guard, CUT)), safe);
    },
    pieces: (rendered) => joinPieces(readPieces(rendered, composing ? controls : undefined)),
    isComposed: (rendered) =>
      readPieces(rendered, undefined).some(
        ({ text, special }) => !special && controls.next(text, 0) !== undefined,
      ),
  };
}

function broken(token: string, mark: string): string {
  const [first = ""] = token;
  return first + mark + token.slice(first.length);
}

function* controlTokens(tokenizer: ChatTokenizer): Iterable<{ id: number; text: string }> {
  for (let id = 0; id < tokenizer.vocabularySize; id++) {
    const text = tokenizer.isControl(id) ? tokenizer.tokenText(id) : "";
    if (text.length > 1) yield { id, text };
  }
}

/** Texts like `<tool_response>` in the template that are tokens, though no control tokens, whoever writes them. */
function guardedTexts(tokenizer: ChatTokenizer, source: string): string[] {
  const texts = new Set(source.match(/<[^<>\s]{1,62}>/g) ?? []);
  return [...texts].filter((text) => {
    const id = tokenizer.idOf(text);
    return id !== undefined && !tokenizer.isControl(id);
  });
}

function replaceMatches(matcher: SpecialMatcher, text: string, replace: (token: string) => string): string {
  let out = "";
  let from = 0;
  for (let match = matcher.next(text, 0); match !== undefined; match = matcher.next(text, from)) {
    out += text.slice(from, match.start) + replace(match.token.text);
    from = match.start + match.token.text.length;
  }
  return from === 0 ? text : out + text.slice(from);
}

function readPieces(rendered: string, controls: SpecialMatcher | undefined): PromptPiece[] {
  const pieces: PromptPiece[] = [];
  // A template may have cut a marked token in two; what is left of its marks means nothing.
  const parts = rendered.split(/\uFDD1([^\uFDD0-\uFDD3]*)\uFDD2/);
  parts.forEach((part, i) => {
    if (i % 2 === 1) pieces.push({ text: part, special: true });
    else for (const piece of wordsOf(part, controls)) pieces.push(piece);
  });
  return pieces;
}

function* wordsOf(text: string, controls: SpecialMatcher | undefined): Iterable<PromptPiece> {
  let from = 0;
  for (let match = controls?.next(text, 0); match !== undefined; match = controls?.next(text, from)) {
    yield* plainPieces(text.slice(from, match.start));
    yield { text: match.token.text, special: true };
    from = match.start + match.token.text.length;
  }
  yield* plainPieces(text.slice(from));
}

function* plainPieces(text: string): Iterable<PromptPiece> {
  for (const [i, part] of text.split(CUT).entries()) {
    const piece = { text: part.replace(NONCHARACTERS, ""), special: false };
    yield i === 0 ? piece : { ...piece, apart: true };
  }
}
