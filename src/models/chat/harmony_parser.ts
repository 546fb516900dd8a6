import { type StreamDecoder, streamDecoder } from "../tokenizer/decode.ts";
import {
  type BodyKind,
  couldBeHeader,
  type HeaderPart,
  isHeaderText,
  readHeader,
  splitMissingMessage,
} from "./harmony_header.ts";
import type { ToolNames } from "./harmony_tools.ts";
import type { AnswerRegion, ChatTokenizer, GenerationParser, ParsedEvent } from "./types.ts";

/** Where text went that is in no event, UTF-16 units; with the events they account for every character. */
export type HarmonyAccount = { readonly headerLength: number; readonly droppedLength: number };

/**
 * Reads GPT-OSS answers token by token, `<|start|>assistant` being the end of the prompt. Marks are recognised by id,
 * so text that spells one is text. No sequence of tokens is an error: what fits no rule becomes content and is counted.
 */
export function harmonyParser(
  tokenizer: ChatTokenizer,
  names: ToolNames,
): GenerationParser & { readonly account: HarmonyAccount } {
  return new HarmonyReader(tokenizer, names);
}

type Mark = "start" | "message" | "channel" | "constrain" | "stop";

const MARKS: readonly (readonly [string, Mark])[] = [
  ["<|start|>", "start"],
  ["<|message|>", "message"],
  ["<|channel|>", "channel"],
  ["<|constrain|>", "constrain"],
  ["<|end|>", "stop"],
  ["<|return|>", "stop"],
  ["<|call|>", "stop"],
  ["<|endoftext|>", "stop"],
];

const UNMARKED: BodyKind = { kind: "content", odd: true };

class HarmonyReader implements GenerationParser {
  unparsed = 0;
  inContent = false;
  private readonly tokenizer: ChatTokenizer;
  private readonly names: ToolNames;
  private readonly marks = new Map<number, Mark>();
  private readonly decoder: StreamDecoder;
  /** Undefined while in a header. */
  private body: BodyKind | undefined;
  private parts: HeaderPart[] = [{ mark: "role", text: "" }];
  /** The role is known to be assistant: the prompt or an earlier message said so. */
  private hinted = true;
  /** A mark said that this is a header; without one, text may turn out to be content. */
  private announced = false;
  /** No mark came yet. */
  private untouched = true;
  private headerTokens = 0;
  private headerLength = 0;
  private droppedLength = 0;
  private toolCalls = 0;
  private out: ParsedEvent[] = [];

  constructor(tokenizer: ChatTokenizer, names: ToolNames) {
    this.tokenizer = tokenizer;
    this.names = names;
    for (const [text, mark] of MARKS) {
      const id = tokenizer.idOf(text);
      if (id !== undefined) this.marks.set(id, mark);
    }
    const tokenBytes = (id: number): Uint8Array => tokenizer.tokenBytes(id);
    const source = { tokenBytes, isControl: () => false, spacePrefix: false };
    this.decoder = streamDecoder(source, { continuation: true });
  }

  get account(): HarmonyAccount {
    return { headerLength: this.headerLength, droppedLength: this.droppedLength };
  }

  get region(): AnswerRegion {
    const { body } = this;
    if (body?.kind === "tool") return { kind: "arguments", tool: body.name, notation: "json" };
    return { kind: body === undefined || body.kind === "dropped" ? "markup" : body.kind };
  }

  push(token: number): readonly ParsedEvent[] {
    const mark = this.marks.get(token);
    if (mark !== undefined) this.takeMark(mark);
    else if (!this.isText(token)) {
      // A control token that Harmony does not use.
      this.endText();
      this.unparsed += 1;
      this.inContent = false;
    } else {
      if (this.body === undefined) this.headerTokens += 1;
      else if (this.body.odd) this.unparsed += 1;
      this.takeText(this.decoder.push(token));
      this.inContent = this.body?.kind === "content";
    }
    return this.takeOut();
  }

  finish(stopToken?: number): readonly ParsedEvent[] {
    const mark = stopToken === undefined ? undefined : this.marks.get(stopToken);
    if (mark !== undefined) this.takeMark(mark);
    this.endText();
    this.abandonHeader();
    this.inContent = false;
    return this.takeOut();
  }

  /** Ids that the vocabulary does not have carry no text either. */
  private isText(token: number): boolean {
    const known = Number.isInteger(token) && token >= 0 && token < this.tokenizer.vocabularySize;
    return known && !this.tokenizer.isControl(token);
  }

  private takeOut(): readonly ParsedEvent[] {
    const { out } = this;
    if (out.length > 0) this.out = [];
    return out;
  }

  /** Bytes of an unfinished character end where a mark comes. */
  private endText(): void {
    const rest = this.decoder.flush();
    if (rest !== "") this.takeText(rest);
  }

  private takeMark(mark: Mark): void {
    this.endText();
    this.inContent = false;
    switch (mark) {
      case "start":
        this.abandonHeader();
        this.beginHeader("role", false, true);
        break;
      case "channel":
        if (this.body !== undefined) this.beginHeader("channel", true, true);
        else this.addPart("channel");
        break;
      case "constrain":
        if (this.body !== undefined) this.unparsed += 1;
        else this.addPart("constrain");
        break;
      case "message":
        if (this.body !== undefined) this.unparsed += 1;
        else this.openBody(readHeader(this.parts, this.hinted, this.names));
        break;
      case "stop":
        this.abandonHeader();
        this.beginHeader("role", true, false);
        break;
    }
    this.untouched = false;
  }

  private takeText(text: string): void {
    if (this.body !== undefined) {
      this.emit(text);
      return;
    }
    const last = this.parts.length - 1;
    const part = this.parts[last]!;
    const longer = { mark: part.mark, text: part.text + text };
    this.parts[last] = longer;
    if (!couldBeHeader(longer.text, this.announced)) this.openWithoutMark();
  }

  private beginHeader(mark: HeaderPart["mark"], hinted: boolean, announced: boolean): void {
    this.body = undefined;
    this.parts = [{ mark, text: "" }];
    this.hinted = hinted;
    this.announced = announced;
    this.headerTokens = 0;
  }

  private addPart(mark: HeaderPart["mark"]): void {
    this.parts.push({ mark, text: "" });
    this.announced = true;
  }

  /** The text of the parts was header. */
  private countHeader(): void {
    for (const { text } of this.parts) this.headerLength += text.length;
    this.headerTokens = 0;
  }

  private openBody(body: BodyKind): void {
    this.countHeader();
    this.body = body;
    if (body.kind !== "tool") return;
    this.out.push({ type: "toolCall", index: this.toolCalls, name: body.name, arguments: "" });
    this.toolCalls += 1;
  }

  /** The last part has text that is none of a header: the message mark is missing, or this never was a header. */
  private openWithoutMark(): void {
    this.unparsed += this.headerTokens;
    const { mark, text } = this.parts.at(-1)!;
    const { header, body } = this.announced
      ? splitMissingMessage({ mark, text })
      : { header: "", body: text };
    this.parts[this.parts.length - 1] = { mark, text: header };
    this.openBody(this.announced ? readHeader(this.parts, this.hinted, this.names) : UNMARKED);
    this.emit(body);
  }

  /** The header ends without a message mark. */
  private abandonHeader(): void {
    if (this.body !== undefined) return;
    const last = this.parts.at(-1)!;
    if (last.text === "" || this.isMarkup(last)) {
      if (!this.announced) this.unparsed += this.headerTokens;
      this.countHeader();
    } else this.openWithoutMark();
    this.parts = [{ mark: "role", text: "" }];
  }

  private isMarkup(part: HeaderPart): boolean {
    // An answer without any mark may well be the one word `json`.
    return this.untouched ? part.text.includes("to=") : isHeaderText(part);
  }

  private emit(text: string): void {
    if (text === "" || this.body === undefined) return;
    switch (this.body.kind) {
      case "tool":
        this.out.push({ type: "toolCall", index: this.toolCalls - 1, arguments: text });
        break;
      case "dropped":
        this.droppedLength += text.length;
        break;
      default:
        this.out.push({ type: this.body.kind, text });
    }
  }
}
