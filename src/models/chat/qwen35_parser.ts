import { MarkReader, TrimmedText } from "./mark_reader.ts";
import { Qwen35Call } from "./qwen35_call.ts";
import type { AnswerRegion, ChatTokenizer, ChatTool, GenerationParser, ParsedEvent } from "./types.ts";

export type Qwen35ParserOptions = {
  /** Tools that may be called; without any, what looks like a call is text. */
  readonly tools?: readonly ChatTool[];
  /** The prompt ended in an open `<think>`. */
  readonly thinking?: boolean;
};

const MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>"] as const;
type Mark = (typeof MARKS)[number];

/**
 * Reads Qwen 3.5's answers: a think block, text, calls. The marks are known by id, but they are words of the vocabulary
 * like others: where one makes no sense as a mark it is text, and counted.
 */
export function qwen35Parser(tokenizer: ChatTokenizer, options: Qwen35ParserOptions = {}): GenerationParser {
  return new Qwen35Reader(tokenizer, options);
}

class Qwen35Reader implements GenerationParser {
  unparsed = 0;
  inContent = false;
  private readonly reader: MarkReader<Mark>;
  private readonly tools: ReadonlyMap<string, ChatTool>;
  private thinking: boolean;
  /** Nothing but white space has come: a `<think>` may repeat the prompt's, or open a block that was not asked for. */
  private untouched = true;
  private readonly content = new TrimmedText();
  private reasoning = new TrimmedText();
  private call: Qwen35Call | undefined;
  private calls = 0;
  /** The last token gave no text to anybody. */
  private silent = false;
  private out: ParsedEvent[] = [];

  constructor(tokenizer: ChatTokenizer, { tools = [], thinking = false }: Qwen35ParserOptions) {
    this.thinking = thinking;
    this.tools = new Map(tools.map((tool) => [tool.name, tool]));
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
    if (this.call !== undefined) return this.call.region;
    return { kind: this.thinking ? "reasoning" : "content" };
  }

  push(token: number): readonly ParsedEvent[] {
    this.silent = false;
    this.reader.read(token);
    this.inContent = !this.silent && !this.thinking && this.call === undefined;
    return this.takeOut();
  }

  finish(stopToken: number | undefined): readonly ParsedEvent[] {
    this.reader.flush();
    // a call's end may be what stopped the answer
    this.reader.readEnd(stopToken, "</tool_call>");
    const { call } = this;
    if (call !== undefined) {
      if (stopToken !== undefined && call.inHead) this.closeCall(call, "");
      else call.end(stopToken !== undefined);
    }
    this.call = undefined;
    this.inContent = false;
    return this.takeOut();
  }

  private takeOut(): readonly ParsedEvent[] {
    const { out } = this;
    if (out.length > 0) this.out = [];
    return out;
  }

  private takeText(text: string): void {
    if (this.call === undefined) {
      this.say(text);
      return;
    }
    const rest = this.call.add(text);
    if (rest !== undefined) this.abandonCall(rest);
  }

  private takeMark(mark: Mark): void {
    this.silent = true;
    if (this.call !== undefined) this.takeMarkInCall(mark, this.call);
    else if (mark === "<tool_call>" && this.tools.size > 0) this.openCall();
    else if (mark === "</think>" && this.thinking) this.thinking = false;
    else if (mark === "<think>" && this.untouched) {
      this.thinking = true;
      this.untouched = false;
    } else {
      this.unparsed += 1;
      if (mark !== "</think>" || !this.untouched) this.sayMark(mark);
    }
  }

  private takeMarkInCall(mark: Mark, call: Qwen35Call): void {
    if (mark === "</tool_call>") this.closeCall(call, mark);
    else if (call.inValue) this.takeText(mark);
    else {
      this.unparsed += 1;
      // before another call the end of this one is missing
      if (mark !== "<tool_call>") this.takeText(mark);
      else {
        this.closeCall(call, "");
        this.openCall();
      }
    }
  }

  private closeCall(call: Qwen35Call, mark: "</tool_call>" | ""): void {
    const rest = call.close();
    if (rest !== undefined && rest.trim() !== "") this.abandonCall(rest + mark);
    else if (!call.begun) this.unparsed += 1;
    this.call = undefined;
  }

  private openCall(): void {
    // the model may forget to close its reasoning
    this.thinking = false;
    this.untouched = false;
    this.content.pause();
    this.call = new Qwen35Call(this.tools, {
      begin: (name) => {
        this.out.push({ type: "toolCall", index: this.calls, name, arguments: "" });
        this.calls += 1;
      },
      write: (json) => this.out.push({ type: "toolCall", index: this.calls - 1, arguments: json }),
      lost: () => {
        this.unparsed += 1;
      },
    });
  }

  /** What began like a call is text. */
  private abandonCall(text: string): void {
    const { call } = this;
    this.call = undefined;
    this.unparsed += 1;
    this.say(call?.begun ? text : `<tool_call>${text}`);
  }

  private sayMark(mark: Mark): void {
    this.silent = false;
    this.say(mark);
  }

  private say(text: string): void {
    const blank = this.untouched && text.trim() === "";
    if (!blank) this.untouched = false;
    const shown = (this.thinking ? this.reasoning : this.content).add(text);
    if (shown === "") return;
    this.out.push({ type: this.thinking ? "reasoning" : "content", text: shown });
  }
}
