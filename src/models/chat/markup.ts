import type { Tokenizer } from "../tokenizer/index.ts";

/**
 * A noncharacter (Unicode 23.7: never interchanged) that is put into control-token text found in what users wrote. A
 * template may trim, compare and join such text as it likes; the text just never reads as a control token again, and
 * the mark is taken out before the words are tokenised.
 */
const mark = "\uFDD0";

/** Writes rendered conversations as tokens: control tokens where the format put them, plain words elsewhere. */
export class Markup {
  readonly #tokenizer: Tokenizer;
  readonly #control: RegExp | undefined;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
    const texts: string[] = [];
    for (let id = 0; id < tokenizer.vocabularySize; id++) {
      const text = tokenizer.isControl(id) ? tokenizer.tokenText(id) : "";
      if (text.length > 1) texts.push(text);
    }
    texts.sort((a, b) => b.length - a.length);
    this.#control = texts.length > 0 ? new RegExp(texts.map(escapeRegExp).join("|"), "g") : undefined;
  }

  /** User text in which no control token can be read. */
  plain(text: string): string {
    const clean = text.replaceAll(mark, "\uFFFD");
    return this.#control ? clean.replace(this.#control, (token) => token[0] + mark + token.slice(1)) : clean;
  }

  /** Token ids of a rendered conversation; the vocabulary's BOS is there once when it asks for one. */
  encode(rendered: string): number[] {
    const { bos, addBos } = this.#tokenizer;
    const ids: number[] = [];
    const words = (text: string): void => {
      if (text === "") return;
      const options = { special: false, bos: false, eos: false };
      for (const id of this.#tokenizer.encode(text.replaceAll(mark, ""), options)) ids.push(id);
    };
    let from = 0;
    for (const match of this.#control ? rendered.matchAll(this.#control) : []) {
      words(rendered.slice(from, match.index));
      ids.push(this.#tokenizer.idOf(match[0])!);
      from = match.index + match[0].length;
    }
    words(rendered.slice(from));
    if (addBos && bos !== undefined && ids[0] !== bos) ids.unshift(bos);
    return ids;
  }
}

function escapeRegExp(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
}
