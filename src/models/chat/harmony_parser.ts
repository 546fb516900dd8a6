import type { Tokenizer } from "../tokenizer/index.ts";
import type { AnswerParser, ParsedEvent } from "./types.ts";

type Marker = "start" | "end" | "message" | "channel" | "constrain" | "return" | "call";
const markers: readonly Marker[] = ["start", "end", "message", "channel", "constrain", "return", "call"];

/** Where the text of the open message goes. */
type Target =
  | { readonly kind: "content" }
  | { readonly kind: "reasoning" }
  | { readonly kind: "tool"; readonly index: number }
  | { readonly kind: "nothing" };

/** A header longer than this is taken for text that lost its markup. */
const longestHeader = 200;

/**
 * Reads an answer token by token, with `<|start|>assistant` already behind it. Markers count by their ids, so text that
 * only looks like one is text. Nothing throws: what fits no rule becomes content and is counted.
 */
export class HarmonyParser implements AnswerParser {
  unparsed = 0;
  inContent = false;
  readonly #tokenizer: Tokenizer;
  readonly #markers = new Map<number, Marker>();
  #decoder: ReturnType<Tokenizer["streamDecoder"]>;
  /** Undefined while a header is read. */
  #target: Target | undefined;
  /** Text of the header so far, markers in their written form. */
  #header = "";
  #headerTokens = 0;
  #calls = 0;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
    this.#decoder = tokenizer.streamDecoder();
    for (const name of markers) {
      const id = tokenizer.idOf(`<|${name}|>`);
      if (id !== undefined) this.#markers.set(id, name);
    }
  }

  push(token: number): readonly ParsedEvent[] {
    const marker = this.#markers.get(token);
    if (marker) return this.#mark(marker);
    if (this.#isUnknownControl(token)) {
      this.unparsed++;
      return [];
    }
    const text = this.#decoder.push(token);
    if (this.#target) {
      this.inContent = this.#target.kind === "content";
      return this.#emit(text);
    }
    this.#header += text;
    this.#headerTokens++;
    return this.#headerIsText() ? this.#headerAsContent() : [];
  }

  finish(_stopToken: number | undefined): readonly ParsedEvent[] {
    const rest = this.#decoder.flush();
    this.inContent = false;
    if (this.#target) return this.#emit(rest);
    this.#header += rest;
    // A header that never came to its message: with a channel it is markup cut short, without one it is text.
    if (this.#header.includes("<|") || /^\s*$/.test(this.#header) || /^\s*to=\S*\s*$/.test(this.#header))
      return [];
    return this.#headerAsContent();
  }

  #isUnknownControl(token: number): boolean {
    return !(token >= 0 && token < this.#tokenizer.vocabularySize) || this.#tokenizer.isControl(token);
  }

  #mark(marker: Marker): readonly ParsedEvent[] {
    const flushed = this.#decoder.flush();
    this.inContent = false;
    if (this.#target) {
      const events = this.#emit(flushed);
      if (marker === "message" || marker === "constrain") {
        this.unparsed++;
        return events;
      }
      this.#openHeader(marker === "channel" ? "assistant<|channel|>" : marker === "start" ? "" : "assistant");
      return events;
    }
    this.#header += flushed;
    if (marker === "message") return this.#openMessage();
    if (marker === "start") {
      const events = this.#looksLikeHeader() ? [] : this.#headerAsContent();
      this.#openHeader("");
      return events;
    }
    if (marker === "channel" || marker === "constrain") {
      this.#header += ` <|${marker}|>`;
      return [];
    }
    // end, return or call inside a header: what stood there was text, or nothing.
    const events = this.#looksLikeHeader() ? [] : this.#headerAsContent();
    this.#openHeader("assistant");
    return events;
  }

  #openHeader(start: string): void {
    this.#target = undefined;
    this.#header = start.replace("<|", " <|");
    this.#headerTokens = 0;
  }

  /** Whether the words so far can stand in a header: a role, ` to=...`, a content type. */
  #looksLikeHeader(): boolean {
    return (
      this.#header.includes("<|") ||
      /^\s*[\w.:-]*(\s+to=\S*)?(\s+\w*)?\s*$/.test(this.#header) ||
      this.#header === ""
    );
  }

  /** The first header has its role behind it already: only a recipient or content type may come before a marker. */
  #headerIsText(): boolean {
    if (this.#header.length > longestHeader) return true;
    if (this.#header.includes("<|")) return false;
    const start = this.#header.trimStart();
    const opening =
      start === "" || "to=".startsWith(start) || start.startsWith("to=") || start.startsWith(":");
    const afterStart = /^(assistant|system|developer|user|tool|functions)?/.exec(start)![0] !== "";
    const partOfRole = ["assistant", "system", "developer", "user", "tool", "functions."].some((r) =>
      r.startsWith(start),
    );
    return !(opening || afterStart || partOfRole);
  }

  #headerAsContent(): readonly ParsedEvent[] {
    const text = this.#header.replaceAll(/ ?<\|\w+\|>/g, "");
    this.unparsed += this.#headerTokens;
    this.#target = { kind: "content" };
    this.#header = "";
    this.inContent = true;
    return this.#emit(text);
  }

  #openMessage(): readonly ParsedEvent[] {
    const { channel, recipient } = readHeader(this.#header);
    this.#header = "";
    if (recipient?.startsWith("functions.")) {
      const index = this.#calls++;
      this.#target = { kind: "tool", index };
      return [{ type: "toolCall", index, name: recipient.slice("functions.".length), arguments: "" }];
    }
    if (recipient && recipient !== "assistant" && recipient !== "user") this.#target = { kind: "nothing" };
    else if (channel === "analysis") this.#target = { kind: "reasoning" };
    else this.#target = { kind: "content" };
    return [];
  }

  #emit(text: string): readonly ParsedEvent[] {
    const target = this.#target;
    if (!target || text === "" || target.kind === "nothing") return [];
    if (target.kind === "tool") return [{ type: "toolCall", index: target.index, arguments: text }];
    return [{ type: target.kind, text }];
  }
}

/** Channel and recipient of a header in any of the orders that models write. */
export function readHeader(header: string): {
  readonly channel: string | undefined;
  readonly recipient: string | undefined;
} {
  // A stray channel header may stand before the real one: the last counts.
  const channels = [...header.matchAll(/<\|channel\|>\s*([^\s<]*)/g)].map((m) => m[1]!);
  const recipients = [...header.matchAll(/(?:^|\s)to=([^\s<]+)/g)].map((m) => m[1]!);
  const channel = channels.filter((c) => c !== "").at(-1);
  return { channel, recipient: recipients.at(-1) ?? bareRecipient(header) };
}

/** After the channel a lone word that is no content type names the recipient. */
function bareRecipient(header: string): string | undefined {
  const match = /<\|channel\|>\s*\S+\s+(functions\.\S+)/.exec(header);
  return match?.[1];
}
