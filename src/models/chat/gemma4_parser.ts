import { Gemma4Arguments } from "./gemma4_arguments.ts";
import { MarkReader, TrimmedText } from "./mark_reader.ts";
import type { AnswerRegion, ChatTokenizer, ChatTool, GenerationParser, ParsedEvent } from "./types.ts";

export type Gemma4ParserOptions = {
  /** Tools that may be called; without any, what looks like a call is text. */
  readonly tools?: readonly ChatTool[];
  /** The prompt ended in an open thought channel. */
  readonly thinking?: boolean;
  /** Thinking was turned off: thoughts that come nevertheless are for nobody. */
  readonly dropsThoughts?: boolean;
};

const MARKS = [
  ...(["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>'] as const),
  ...(["<|tool_response>", "<tool_response|>", "<|turn>", "<turn|>"] as const),
] as const;
type Mark = (typeof MARKS)[number];

/** Longest name of a channel or a function that is waited for, UTF-16 units. */
const MAX_CHANNEL = 32;
const MAX_NAME = 256;

/** A call whose arguments have begun has some. */
type Call = { head: string; name: string; arguments: Gemma4Arguments | undefined };

/**
 * `channel`: the name behind `<|channel>`, or no name. `role`: of a turn that the model opened. `response`: a tool's
 * answer that the model made up.
 */
type State = "content" | "channel" | "thought" | "call" | "response" | "role";

/** Reads Gemma 4's answers: a thought channel, text, calls whose arguments become JSON. */
export function gemma4Parser(tokenizer: ChatTokenizer, options: Gemma4ParserOptions = {}): GenerationParser {
  return new Gemma4Reader(tokenizer, options);
}

class Gemma4Reader implements GenerationParser {
  unparsed = 0;
  inContent = false;
  private readonly reader: MarkReader<Mark>;
  private readonly offered: ReadonlySet<string>;
  private readonly dropsThoughts: boolean;
  private state: State;
  private readonly content = new TrimmedText();
  private readonly thought = new TrimmedText();
  /** Text behind `<|channel>` that may be its name. */
  private channel = "";
  private call: Call = { head: "", name: "", arguments: undefined };
  private calls = 0;
  /** A call in the text is one that nobody can run: its marks are text too. */
  private spelling = false;
  private silent = false;
  private out: ParsedEvent[] = [];

  constructor(tokenizer: ChatTokenizer, options: Gemma4ParserOptions) {
    const { tools = [], thinking = false, dropsThoughts = false } = options;
    this.offered = new Set(tools.map(({ name }) => name));
    this.state = thinking ? "thought" : "content";
    this.dropsThoughts = dropsThoughts;
    this.reader = new MarkReader<Mark>(tokenizer, MARKS, {
      text: (text) => this.takeText(text),
      mark: (mark) => this.takeMark(mark),
      unknown: () => {
        this.silent = true;
        this.unparsed += 1;
      },
    });
  }

  get region(): AnswerRegion {
    const { state, call } = this;
    if (state === "content") return { kind: "content" };
    if (state === "thought") return { kind: "reasoning" };
    if (state !== "call" || call.arguments === undefined || call.arguments.isDone) return { kind: "markup" };
    return { kind: "arguments", tool: call.name, notation: "gemma4" };
  }

  push(token: number): readonly ParsedEvent[] {
    this.silent = false;
    this.reader.read(token);
    this.inContent = !this.silent && this.state === "content";
    return this.takeOut();
  }

  /** An end that is missing is added where the model ended the answer; a call that was cut stays open. */
  finish(stopToken: number | undefined): readonly ParsedEvent[] {
    this.reader.flush();
    // a call's end may be what stopped the answer
    this.reader.readEnd(stopToken, "<tool_call|>");
    if (this.state === "channel") this.endChannelName();
    if (this.state === "call" && stopToken !== undefined) this.closeCall("");
    this.state = "content";
    this.inContent = false;
    return this.takeOut();
  }

  private takeOut(): readonly ParsedEvent[] {
    const { out } = this;
    if (out.length > 0) this.out = [];
    return out;
  }

  private takeText(text: string): void {
    switch (this.state) {
      case "content":
        this.say(text);
        break;
      case "thought":
        this.think(text);
        break;
      case "channel":
        this.takeChannel(text);
        break;
      case "call":
        this.takeCall(text);
        break;
      case "response":
        this.unparsed += 1;
        break;
      case "role":
        this.takeRole(text);
    }
  }

  private takeMark(mark: Mark): void {
    this.silent = true;
    if (this.state === "call") this.takeMarkInCall(mark);
    else if (mark === "<turn|>") this.leave();
    else if (mark === "<|channel>") {
      this.leave();
      this.channel = "";
      this.state = "channel";
    } else if (mark === "<channel|>" && (this.state === "thought" || this.state === "channel")) this.leave();
    else if (mark === "<|tool_call>" && this.offered.size > 0) {
      this.leave();
      this.openCall();
    } else if (mark === "<|tool_response>") {
      this.leave();
      this.state = "response";
    } else if (mark === "<tool_response|>" && this.state === "response") this.state = "content";
    else if (mark === "<|turn>") {
      this.leave();
      this.state = "role";
    } else this.takeStrayMark(mark);
  }

  /** Ends a thought or the name of its channel. */
  private leave(): void {
    if (this.state === "channel") this.endChannelName();
    this.state = "content";
  }

  private takeStrayMark(mark: Mark): void {
    this.unparsed += 1;
    if (mark === "<|tool_call>") this.spelling = true;
    const written = this.spelling && ["<|tool_call>", "<tool_call|>", '<|"|>'].includes(mark);
    if (mark === "<tool_call|>") this.spelling = false;
    if (!written || this.state === "response" || this.state === "role") return;
    this.silent = false;
    this.takeText(mark);
  }

  private takeMarkInCall(mark: Mark): void {
    const { call } = this;
    if (mark === "<tool_call|>") this.closeCall(mark);
    else if (mark === '<|"|>') {
      if (call.arguments !== undefined) this.write(call.arguments.quote());
      else this.takeCall(mark);
    } else if (call.arguments?.inString) this.takeCall(mark);
    else {
      // whatever begins here, the call's end is missing
      this.unparsed += 1;
      this.closeCall("");
      this.takeMark(mark);
    }
  }

  private takeChannel(text: string): void {
    this.channel += text;
    const end = this.channel.indexOf("\n");
    const line = end < 0 ? this.channel : this.channel.slice(0, end);
    const isName = line.length <= MAX_CHANNEL && /^\w*$/.test(line.trim());
    if (isName && end < 0) return;
    const rest = isName ? this.channel.slice(end + 1) : this.channel;
    if (isName && line.trim() !== "thought" && line.trim() !== "") this.unparsed += 1;
    this.state = "thought";
    if (rest !== "") this.think(rest);
  }

  /** The channel ends before its first line does. */
  private endChannelName(): void {
    const { channel } = this;
    this.state = "thought";
    if (channel.trim() !== "thought" && channel !== "") this.think(channel);
    this.channel = "";
  }

  private takeRole(text: string): void {
    const end = text.indexOf("\n");
    if (end < 0) return;
    this.state = "content";
    if (end + 1 < text.length) this.say(text.slice(end + 1));
  }

  private openCall(): void {
    this.content.pause();
    this.call = { head: "", name: "", arguments: undefined };
    this.state = "call";
  }

  private takeCall(text: string): void {
    const { call } = this;
    if (call.arguments !== undefined) {
      this.write(call.arguments.add(text));
      return;
    }
    call.head += text;
    const brace = call.head.indexOf("{");
    const name = nameOf(brace < 0 ? call.head : call.head.slice(0, brace), this.offered, brace >= 0);
    if (name === undefined) this.abandonCall("");
    else if (brace >= 0) {
      const rest = call.head.slice(brace + 1);
      const read = this.beginCall(name);
      this.write(read.add(rest));
    }
  }

  private beginCall(name: string): Gemma4Arguments {
    const { call } = this;
    const read = new Gemma4Arguments(() => {
      this.unparsed += 1;
    });
    call.name = name;
    call.arguments = read;
    this.out.push({ type: "toolCall", index: this.calls, name, arguments: "" });
    this.calls += 1;
    return read;
  }

  private write(json: string): void {
    if (json !== "") this.out.push({ type: "toolCall", index: this.calls - 1, arguments: json });
  }

  private closeCall(mark: "<tool_call|>" | ""): void {
    const { call } = this;
    if (call.arguments !== undefined) this.write(call.arguments.close());
    else if (call.head.trim() === "") this.unparsed += 1;
    else {
      // no braces: a call without arguments
      const name = nameOf(call.head, this.offered, true);
      if (name === undefined) {
        this.abandonCall(mark);
        return;
      }
      this.unparsed += 1;
      this.write(this.beginCall(name).close());
    }
    this.state = "content";
  }

  /** What began like a call is text. */
  private abandonCall(mark: "<tool_call|>" | ""): void {
    this.unparsed += 1;
    this.state = "content";
    this.spelling = mark === "";
    this.say(`<|tool_call>${this.call.head}${mark}`);
  }

  private say(text: string): void {
    const shown = this.content.add(text);
    if (shown !== "") this.out.push({ type: "content", text: shown });
  }

  private think(text: string): void {
    const shown = this.thought.add(text);
    if (shown !== "" && !this.dropsThoughts) this.out.push({ type: "reasoning", text: shown });
  }
}

/** The function's name in a call's head; "" while it may still come, undefined where it cannot. */
function nameOf(head: string, offered: ReadonlySet<string>, complete: boolean): string | undefined {
  const text = head.trim();
  const prefix = "call:";
  if (!complete && prefix.startsWith(text)) return "";
  const called = text.startsWith(prefix);
  const name = called ? text.slice(prefix.length).trim() : text;
  if (name.length > MAX_NAME || /[\s<>{}"']/.test(name)) return undefined;
  if (complete) return name !== "" && (called || offered.has(name)) ? name : undefined;
  return called || [...offered].some((known) => known.startsWith(name)) ? "" : undefined;
}
