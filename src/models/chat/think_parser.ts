import type { Tokenizer } from "../tokenizer/index.ts";
import type { GenerationParser, ParsedEvent } from "./types.ts";

/** Everything is content but what stands between `<think>` and `</think>`, where the vocabulary has these tokens. */
export class ThinkParser implements GenerationParser {
  readonly unparsed = 0;
  inContent = false;
  readonly #decoder: ReturnType<Tokenizer["streamDecoder"]>;
  readonly #tokenizer: Tokenizer;
  readonly #open: number | undefined;
  readonly #close: number | undefined;
  #thinking: boolean;
  /** White space at the start of a part is layout, not text. */
  #atStart = true;

  constructor(tokenizer: Tokenizer, thinking: boolean) {
    this.#tokenizer = tokenizer;
    this.#decoder = tokenizer.streamDecoder();
    this.#open = tokenizer.idOf("<think>");
    this.#close = tokenizer.idOf("</think>");
    this.#thinking = thinking;
  }

  push(token: number): readonly ParsedEvent[] {
    if (token === this.#open || (token === this.#close && this.#thinking)) {
      const events = this.#emit(this.#decoder.flush());
      this.#thinking = token === this.#open;
      this.#atStart = true;
      this.inContent = false;
      return events;
    }
    if (!(token >= 0 && token < this.#tokenizer.vocabularySize)) return [];
    this.inContent = !this.#thinking;
    return this.#emit(this.#decoder.push(token));
  }

  finish(): readonly ParsedEvent[] {
    this.inContent = false;
    return this.#emit(this.#decoder.flush());
  }

  #emit(text: string): readonly ParsedEvent[] {
    const trimmed = this.#atStart && this.#open !== undefined ? text.trimStart() : text;
    if (trimmed === "") return [];
    this.#atStart = false;
    return [{ type: this.#thinking ? "reasoning" : "content", text: trimmed }];
  }
}
