import { type StreamDecoder, streamDecoder } from "../tokenizer/decode.ts";
import type { ChatTokenizer } from "./types.ts";

/** What a parser makes of the parts of an answer. */
export type MarkHandler<M extends string> = {
  /** Whole characters; never empty. */
  readonly text: (text: string) => void;
  readonly mark: (mark: M) => void;
  /** A control token that the format does not use, or an id that the vocabulary does not have. */
  readonly unknown: () => void;
};

/**
 * Splits tokens into a format's marks, known by id, and text between them. Bytes of an unfinished character wait, and
 * end where anything but text comes. Text that spells a mark is text.
 */
export class MarkReader<M extends string> {
  private readonly tokenizer: ChatTokenizer;
  private readonly handler: MarkHandler<M>;
  private readonly marks = new Map<number, M>();
  private readonly decoder: StreamDecoder;

  constructor(tokenizer: ChatTokenizer, marks: readonly M[], handler: MarkHandler<M>) {
    this.tokenizer = tokenizer;
    this.handler = handler;
    for (const mark of marks) {
      const id = tokenizer.idOf(mark);
      if (id !== undefined) this.marks.set(id, mark);
    }
    const tokenBytes = (id: number): Uint8Array => tokenizer.tokenBytes(id);
    const source = { tokenBytes, isControl: () => false, spacePrefix: false };
    this.decoder = streamDecoder(source, { continuation: true });
  }

  read(token: number): void {
    const mark = this.marks.get(token);
    if (mark === undefined && this.isText(token)) {
      this.give(this.decoder.push(token));
      return;
    }
    this.flush();
    if (mark === undefined) this.handler.unknown();
    else this.handler.mark(mark);
  }

  /** The token that ended the answer, where it is this mark. */
  readEnd(token: number | undefined, mark: M): void {
    if (token !== undefined && this.marks.get(token) === mark) this.handler.mark(mark);
  }

  /** Ends a character whose other bytes do not come. */
  flush(): void {
    this.give(this.decoder.flush());
  }

  private give(text: string): void {
    if (text !== "") this.handler.text(text);
  }

  private isText(token: number): boolean {
    const known = Number.isInteger(token) && token >= 0 && token < this.tokenizer.vocabularySize;
    return known && !this.tokenizer.isControl(token);
  }
}

/** Text without the white space around it, which waits until more text shows that it is not the end. */
export class TrimmedText {
  /** Text has been given since the beginning, or since the last `pause`. */
  begun = false;
  private held = "";

  /** What can be shown of all that has come. */
  add(text: string): string {
    const rest = this.begun ? text : text.trimStart();
    if (rest === "") return "";
    this.begun = true;
    const shown = rest.trimEnd();
    const out = shown === "" ? "" : this.held + shown;
    this.held = (shown === "" ? this.held : "") + rest.slice(shown.length);
    return out;
  }

  /** Something else comes between; should text follow, the white space before counts, that behind does not. */
  pause(): void {
    this.begun = false;
  }
}
