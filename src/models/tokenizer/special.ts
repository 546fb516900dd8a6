import { unexpected } from "../../core/error.ts";

/** A token that is cut out of text before anything else happens to the text. */
export type SpecialToken = {
  readonly id: number;
  readonly text: string;
  /** White space before or after the token in the text belongs to it. */
  readonly stripLeft?: boolean;
  readonly stripRight?: boolean;
};

const MAX_TOKEN_UNITS = 512;
const MAX_NODES = 1 << 21;

/** Finds special tokens in text: the leftmost, and the longest of those that start there. */
export class SpecialMatcher {
  /** Trie edges: node * 65536 + UTF-16 unit to node. */
  readonly #edges = new Map<number, number>();
  readonly #tokenAt: (SpecialToken | undefined)[] = [undefined];
  readonly #starts = new Uint8Array(65536);

  constructor(tokens: Iterable<SpecialToken>) {
    for (const token of tokens) {
      // An empty token would match everywhere and move nothing on.
      if (token.text.length > 0) this.#add(token);
    }
  }

  #add(token: SpecialToken): void {
    if (token.text.length > MAX_TOKEN_UNITS) {
      const where = `tokenizer vocabulary, token ${token.id}`;
      throw unexpected(
        "file_malformed",
        where,
        `a special token of at most ${MAX_TOKEN_UNITS} characters`,
        token.text.length,
      );
    }
    this.#starts[token.text.charCodeAt(0)] = 1;
    let node = 0;
    for (let i = 0; i < token.text.length; i++) {
      const edge = node * 65536 + token.text.charCodeAt(i);
      let child = this.#edges.get(edge);
      if (child === undefined) {
        child = this.#tokenAt.length;
        if (child >= MAX_NODES) {
          throw unexpected(
            "file_malformed",
            "tokenizer vocabulary",
            `special tokens of at most ${MAX_NODES} characters together`,
            "more",
          );
        }
        this.#edges.set(edge, child);
        this.#tokenAt.push(undefined);
      }
      node = child;
    }
    this.#tokenAt[node] ??= token;
  }

  /** The first match that starts at or after `from`, and before `until`; or undefined. */
  next(
    text: string,
    from: number,
    until = text.length,
  ): { readonly start: number; readonly token: SpecialToken } | undefined {
    if (this.#edges.size === 0) return undefined;
    for (let start = from; start < until; start++) {
      if (this.#starts[text.charCodeAt(start)] === 0) continue;
      const token = this.#longestAt(text, start);
      if (token !== undefined) return { start, token };
    }
    return undefined;
  }

  #longestAt(text: string, start: number): SpecialToken | undefined {
    let longest: SpecialToken | undefined;
    let node = 0;
    for (let i = start; i < text.length; i++) {
      const child = this.#edges.get(node * 65536 + text.charCodeAt(i));
      if (child === undefined) break;
      node = child;
      longest = this.#tokenAt[node] ?? longest;
    }
    return longest;
  }
}
