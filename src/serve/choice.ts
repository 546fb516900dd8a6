import type { GenerationParser, ParsedEvent } from "../models/chat/index.ts";
import type { GenerateEvent, TokenLogprob } from "./protocol.ts";
import { StopStrings } from "./stop_strings.ts";

/** A generated token with its log-probability and the place of its text in the content (code points). */
export type TokenRecord = TokenLogprob & { readonly top: readonly TokenLogprob[]; readonly offset: number };

/** Code points of a text; halves of a pair that two texts share count once. */
export function codePoints(text: string): number {
  let count = text.length;
  for (let i = 0; i < text.length; i++) if ((text.charCodeAt(i) & 0xfc00) === 0xdc00) count -= 1;
  return count;
}

/** Why a choice ended; names of the serving contract. */
export type FinishCause =
  | "end_of_sequence_token"
  | "stop_sequence"
  | "max_output_tokens"
  | "context_limit"
  | "cancelled"
  | "error";

export type ChoiceEvent =
  /** `records` are there when log-probabilities were asked for. */
  | {
      readonly type: "content";
      readonly choice: number;
      readonly text: string;
      readonly records?: TokenRecord[];
    }
  | { readonly type: "reasoning"; readonly choice: number; readonly text: string }
  | {
      readonly type: "toolCall";
      readonly choice: number;
      readonly index: number;
      readonly name?: string;
      readonly arguments: string;
    }
  | {
      readonly type: "finish";
      readonly choice: number;
      readonly reason: "stop" | "length" | "tool_calls";
      readonly cause: FinishCause;
      readonly matchedStop?: string;
    };

type TokenEvent = Extract<GenerateEvent, { type: "token" }>;
type DoneEvent = Extract<GenerateEvent, { type: "done" }>;

/** One choice of a request: its parser, its stop strings, and the counts for usage. */
export class Choice {
  readonly index: number;
  finished = false;
  /** The last text was reasoning. */
  inReasoning = false;
  completionTokens = 0;
  reasoningTokens = 0;
  private readonly parser: GenerationParser;
  private readonly stops: StopStrings;
  private readonly wantsRecords: boolean;
  private readonly records: TokenRecord[] = [];
  /** Content that the parser gave, including what the stop strings hold back. Code points. */
  private parsedLength = 0;
  private sentLength = 0;
  private calledTool = false;

  constructor(index: number, parser: GenerationParser, stops: readonly string[], wantsRecords: boolean) {
    this.index = index;
    this.parser = parser;
    this.stops = new StopStrings(stops);
    this.wantsRecords = wantsRecords;
  }

  get unparsed(): number {
    return this.parser.unparsed;
  }

  /** Takes a token; after a stop string has matched nothing more comes out. */
  token(event: TokenEvent, out: ChoiceEvent[]): void {
    if (this.finished) return;
    this.completionTokens += 1;
    const parsed = this.parser.push(event.token);
    if (this.wantsRecords && this.parser.inContent && event.logprob !== undefined) {
      this.records.push({
        token: event.token,
        logprob: event.logprob,
        top: event.top ?? [],
        offset: this.parsedLength,
      });
    }
    if (parsed.some(({ type }) => type === "reasoning")) this.reasoningTokens += 1;
    const last = parsed.at(-1);
    if (last) this.inReasoning = last.type === "reasoning";
    this.take(parsed, out);
  }

  /** Takes tokens that the server wrote; they do not count as the model's. */
  force(tokens: readonly number[], out: ChoiceEvent[]): void {
    for (const token of tokens) this.take(this.parser.push(token), out);
    this.inReasoning = false;
  }

  done(event: DoneEvent, out: ChoiceEvent[]): void {
    if (this.finished) return;
    if (event.stopToken !== undefined) this.completionTokens += 1;
    this.take(this.parser.finish(event.stopToken), out);
    if (this.finished) return;
    this.send(this.stops.flush(), out, true);
    this.finished = true;
    const called = this.calledTool && event.reason === "stop";
    out.push({
      type: "finish",
      choice: this.index,
      reason: called ? "tool_calls" : event.reason === "length" ? "length" : "stop",
      cause: causeOf(event),
    });
  }

  private take(parsed: readonly ParsedEvent[], out: ChoiceEvent[]): void {
    for (const event of parsed) {
      if (event.type !== "content") {
        if (event.type === "toolCall") this.calledTool = true;
        out.push({ ...event, choice: this.index });
        continue;
      }
      this.parsedLength += codePoints(event.text);
      const { text, matched } = this.stops.push(event.text);
      this.send(text, out, false);
      if (matched === undefined) continue;
      this.finished = true;
      out.push({
        type: "finish",
        choice: this.index,
        reason: "stop",
        cause: "stop_sequence",
        matchedStop: matched,
      });
      return;
    }
  }

  private send(text: string, out: ChoiceEvent[], last: boolean): void {
    if (text === "" && !(last && this.records.length > 0 && this.sentLength > 0)) return;
    this.sentLength += codePoints(text);
    const event = { type: "content", choice: this.index, text } as const;
    if (!this.wantsRecords) out.push(event);
    else out.push({ ...event, records: this.takeRecords() });
  }

  /** Records of tokens whose text has begun to go out. */
  private takeRecords(): TokenRecord[] {
    const first = this.records.findIndex(({ offset }) => offset >= this.sentLength);
    return this.records.splice(0, first < 0 ? this.records.length : first);
  }
}

function causeOf(event: DoneEvent): FinishCause {
  if (event.reason === "cancelled") return "cancelled";
  if (event.reason === "error") return "error";
  if (event.reason === "stop") return "end_of_sequence_token";
  return event.contextFull ? "context_limit" : "max_output_tokens";
}
