import { streamDecoder } from "../tokenizer/decode.ts";
import type { AnswerRegion, ChatTokenizer, GenerationParser, ParsedEvent } from "./types.ts";

export type PlainParserOptions = {
  /** Text between `<think>` and `</think>` is reasoning, where the vocabulary has these tokens. */
  readonly split: boolean;
  /** The prompt ended in an open `<think>`. */
  readonly thinking?: boolean;
};

/** Reads answers without channels: everything is content, but for a think block. */
export function plainParser(tokenizer: ChatTokenizer, options: PlainParserOptions): GenerationParser {
  const split = options.split && tokenizer.idOf("</think>") !== undefined;
  return new PlainReader(tokenizer, split, split && options.thinking === true);
}

class PlainReader implements GenerationParser {
  unparsed = 0;
  inContent = false;
  private readonly tokenizer: ChatTokenizer;
  private readonly open: number | undefined;
  private readonly close: number | undefined;
  private readonly decoder: ReturnType<typeof streamDecoder>;
  private thinking: boolean;
  /** White space at a part's beginning is layout. Without think blocks nothing is taken away. */
  private atStart: boolean;
  /** White space at the end of reasoning, which is layout unless more follows. */
  private held = "";

  constructor(tokenizer: ChatTokenizer, split: boolean, thinking: boolean) {
    this.tokenizer = tokenizer;
    this.open = split ? tokenizer.idOf("<think>") : undefined;
    this.close = split ? tokenizer.idOf("</think>") : undefined;
    this.thinking = thinking;
    this.atStart = split;
    const tokenBytes = (id: number): Uint8Array => tokenizer.tokenBytes(id);
    this.decoder = streamDecoder({ tokenBytes, isControl: () => false, spacePrefix: false }, {});
  }

  get region(): AnswerRegion {
    return { kind: this.thinking ? "reasoning" : "content" };
  }

  push(token: number): readonly ParsedEvent[] {
    if (token === this.open || token === this.close) return this.turn(token === this.open);
    if (!this.isText(token)) {
      this.unparsed += 1;
      this.inContent = false;
      return this.emit(this.decoder.flush());
    }
    this.inContent = !this.thinking;
    return this.emit(this.decoder.push(token));
  }

  finish(): readonly ParsedEvent[] {
    this.inContent = false;
    return this.emit(this.decoder.flush());
  }

  private turn(thinking: boolean): readonly ParsedEvent[] {
    const events = this.emit(this.decoder.flush());
    // A second mark of the same kind says nothing; a leading `<think>` may repeat the prompt's.
    if (this.thinking === thinking && !(thinking && this.atStart)) this.unparsed += 1;
    this.thinking = thinking;
    this.atStart = true;
    this.held = "";
    this.inContent = false;
    return events;
  }

  private isText(token: number): boolean {
    const known = Number.isInteger(token) && token >= 0 && token < this.tokenizer.vocabularySize;
    return known && !this.tokenizer.isControl(token);
  }

  private emit(text: string): readonly ParsedEvent[] {
    let shown = this.atStart ? text.trimStart() : text;
    if (shown === "") return [];
    this.atStart = false;
    if (!this.thinking) return [{ type: "content", text: shown }];
    const whole = this.held + shown;
    shown = whole.trimEnd();
    this.held = whole.slice(shown.length);
    return shown === "" ? [] : [{ type: "reasoning", text: shown }];
  }
}
