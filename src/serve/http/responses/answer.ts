import type { ChatMessage, ChatToolCall } from "../../../models/chat/index.ts";
import type { Tokenizer } from "../../../models/tokenizer/tokenizer.ts";
import type { TokenRecord } from "../../choice.ts";
import type { GenerationSummary } from "../../generation.ts";
import type { AnswerFrame } from "../answer_frame.ts";
import type { HttpError } from "../errors.ts";
import { chatLogprob } from "../logprobs.ts";
import type { ManyEvent } from "../many.ts";
import { sealReasoning } from "../reasoning_seal.ts";
import type { AnswerShape } from "../respond.ts";
import { namedEvent } from "../sse.ts";
import { groupedName, type OfferedTools } from "../tools.ts";
import { Turns } from "../turns.ts";
import type { Item } from "./input.ts";

type Status = "in_progress" | "completed" | "incomplete" | "failed" | "cancelled";

/** The wire form of an answer: what the request fixed, and what came of it. */
export type Resource = Item & { readonly output: readonly Item[]; readonly status: Status };

export type ResponseAnswerOptions = AnswerFrame & {
  /** Members that are known from the start. */
  readonly head: Item;
  readonly tokenizer: Tokenizer;
  readonly logprobs: boolean;
  readonly showReasoning: boolean;
  /** Tools that were offered in groups, whose calls name the group. */
  readonly grouped: OfferedTools["grouped"];
  /** Reasoning items carry `encrypted_content`. */
  readonly sealed: boolean;
  readonly cancel: AbortSignal;
  /** Called once with the finished answer and its messages; not for one that failed or was left. */
  readonly onEnd: (resource: Resource, messages: readonly ChatMessage[]) => void;
  readonly onClosed: () => void;
};

type Open =
  | { readonly kind: "message" | "reasoning"; readonly id: string; readonly logprobs: object[]; text: string }
  | {
      readonly kind: "call";
      readonly id: string;
      readonly call: number;
      readonly name: string;
      text: string;
    };

/** Answers of /v1/responses. */
export function responseAnswer(
  options: ResponseAnswerOptions,
): AnswerShape & { readonly resource: () => Resource } {
  const writer = new ResponseWriter(options);
  return {
    opening: () => writer.opening(),
    chunk: (item) => writer.take(item),
    closing: (summary) => writer.close(summary),
    collect: (item) => {
      writer.take(item);
    },
    body: (summary) => {
      writer.close(summary);
      return writer.whole();
    },
    end: "",
    failure: (error) => writer.fail(error),
    // agents learn from the stream, not from a status, that their conversation has grown too long
    streamsRefusal: ({ code }) => code === "context_length_exceeded",
    cancelled: () => {
      writer.close(undefined);
      return writer.whole();
    },
    ended: options.onClosed,
    resource: () => writer.resource(),
  };
}

/** Turns the parts of an answer into items, and each change into an event. */
class ResponseWriter {
  private readonly options: ResponseAnswerOptions;
  private readonly output: Item[] = [];
  private open: Open | undefined;
  private sequence = 0;
  private calls = 0;
  private status: Status = "in_progress";
  private error: { readonly code: string; readonly message: string } | null = null;
  private cause: string | undefined;
  private summary: GenerationSummary | undefined;
  private completedAt: number | null = null;

  constructor(options: ResponseAnswerOptions) {
    this.options = options;
  }

  opening(): string {
    return (
      this.emit("response.created", { response: this.resource() }) +
      this.emit("response.in_progress", { response: this.resource() })
    );
  }

  /** The events of one part of the answer. */
  take({ event }: ManyEvent): string {
    switch (event.type) {
      case "content":
        return this.addText("message", event.text, this.entries(event.records));
      case "reasoning":
        return this.options.showReasoning ? this.addText("reasoning", event.text, []) : "";
      case "toolCall":
        return this.addCall(event.index, event.name, event.arguments);
      case "finish":
        this.cause = event.cause;
        return "";
      default:
        return "";
    }
  }

  /** The end of the last item and the event that ends the answer. */
  close(summary: GenerationSummary | undefined): string {
    this.summary = summary;
    const { cancel } = this.options;
    this.status = cancel.aborted ? "cancelled" : isCut(this.cause) ? "incomplete" : "completed";
    const text = this.endItem(this.status === "completed" ? "completed" : "incomplete");
    this.completedAt = this.status === "completed" ? now() : null;
    this.options.onEnd(this.resource(), this.messages());
    const name = this.status === "completed" ? "response.completed" : "response.incomplete";
    return text + this.emit(name, { response: this.resource() });
  }

  fail(error: HttpError): string {
    if (this.options.cancel.aborted) return this.close(undefined);
    const text = this.endItem("incomplete");
    this.status = "failed";
    this.error = failureOf(error);
    return text + this.emit("response.failed", { response: this.resource() });
  }

  /** The body of an answer that is not streamed. */
  whole(): object {
    const { debug } = this.options;
    const text = this.output.flatMap((item) => (item.type === "message" ? textOf(item) : [])).join("");
    return {
      ...this.resource(),
      output_text: text,
      ...(this.summary && debug?.(this.summary, [this.cause ?? "error"])),
    };
  }

  resource(): Resource {
    const { summary, status } = this;
    const reason = status === "incomplete" ? { reason: "max_output_tokens" } : null;
    return {
      ...this.options.head,
      status,
      completed_at: this.completedAt,
      error: this.error,
      incomplete_details: reason,
      output: [...this.output],
      usage: summary === undefined ? null : responseUsage(summary),
    };
  }

  private messages(): readonly ChatMessage[] {
    const turns = new Turns();
    for (const item of this.output) {
      if (item.type === "reasoning") turns.reason(textOf(item));
      else if (item.type === "message") turns.say("assistant", textOf(item));
      else turns.call(callOf(item));
    }
    return turns.messages();
  }

  private addText(kind: "message" | "reasoning", text: string, logprobs: object[]): string {
    let out = "";
    if (this.open?.kind !== kind) out += this.endItem("completed") + this.beginText(kind);
    const open = this.open as Extract<Open, { readonly logprobs: object[] }>;
    open.text += text;
    open.logprobs.push(...logprobs);
    const place = { ...this.place(open.id), content_index: 0, delta: text };
    if (kind === "reasoning") return out + this.emit("response.reasoning_text.delta", place);
    return out + this.emit("response.output_text.delta", { ...place, logprobs });
  }

  private beginText(kind: "message" | "reasoning"): string {
    const prefix = kind === "message" ? "msg" : "rs";
    const id = `${this.options.id}-${prefix}-${this.count(kind)}`;
    this.open = { kind, id, logprobs: [], text: "" };
    const item = this.item(this.open, "in_progress", []);
    const part = this.part(this.open);
    return (
      this.emit("response.output_item.added", { output_index: this.output.length, item }) +
      this.emit("response.content_part.added", { ...this.place(id), content_index: 0, part })
    );
  }

  private addCall(call: number, name: string | undefined, args: string): string {
    let out = "";
    if (this.open?.kind !== "call" || this.open.call !== call) {
      out += this.endItem("completed");
      const id = `${this.options.id}-fc-${this.calls}`;
      this.calls += 1;
      this.open = { kind: "call", id, call, name: name ?? "", text: "" };
      const item = this.item(this.open, "in_progress", []);
      out += this.emit("response.output_item.added", { output_index: this.output.length, item });
    }
    const open = this.open!;
    open.text += args;
    if (args === "") return out;
    return out + this.emit("response.function_call_arguments.delta", { ...this.place(open.id), delta: args });
  }

  /** Ends the item that is open, if one is. */
  private endItem(status: "completed" | "incomplete"): string {
    const { open } = this;
    if (!open) return "";
    const place = this.place(open.id);
    let out = "";
    if (open.kind === "call") {
      const done = { ...place, name: open.name, arguments: open.text };
      out += this.emit("response.function_call_arguments.done", done);
    } else {
      const at = { ...place, content_index: 0 };
      const type = open.kind === "reasoning" ? "response.reasoning_text.done" : "response.output_text.done";
      const logprobs = open.kind === "reasoning" ? {} : { logprobs: open.logprobs };
      out += this.emit(type, { ...at, text: open.text, ...logprobs });
      out += this.emit("response.content_part.done", { ...at, part: this.part(open) });
    }
    const item = this.item(open, status, open.kind === "call" ? [] : [this.part(open)]);
    out += this.emit("response.output_item.done", { output_index: this.output.length, item });
    this.output.push(item);
    this.open = undefined;
    return out;
  }

  private item(open: Open, status: string, content: readonly Item[]): Item {
    const { id } = open;
    if (open.kind === "message") return { id, type: "message", status, role: "assistant", content };
    if (open.kind === "call") {
      const call_id = `${this.options.id}-tool-${open.call}`;
      const { namespace, name } = this.options.grouped.get(open.name) ?? { name: open.name };
      const group = namespace === undefined ? {} : { namespace };
      return { id, type: "function_call", status, call_id, name, ...group, arguments: open.text };
    }
    const sealed = this.options.sealed && content.length > 0 ? sealReasoning(open.text) : null;
    return { id, type: "reasoning", status, summary: [], content, encrypted_content: sealed };
  }

  private part(open: Exclude<Open, { readonly kind: "call" }>): Item {
    if (open.kind === "reasoning") return { type: "reasoning_text", text: open.text };
    return { type: "output_text", text: open.text, annotations: [], logprobs: [...open.logprobs] };
  }

  private place(item_id: string) {
    return { item_id, output_index: this.output.length };
  }

  private count(type: string): number {
    return this.output.filter((item) => item.type === type).length;
  }

  private entries(records: readonly TokenRecord[] = []): object[] {
    const { logprobs, tokenizer } = this.options;
    return logprobs ? records.map((record) => chatLogprob(tokenizer, record)) : [];
  }

  private emit(type: string, fields: object): string {
    const sequence_number = this.sequence;
    this.sequence += 1;
    return namedEvent({ type, sequence_number, ...fields } as { readonly type: string });
  }
}

function callOf(item: Item): ChatToolCall {
  const name = String(item.name);
  return {
    id: String(item.call_id),
    name: typeof item.namespace === "string" ? groupedName({ namespace: item.namespace, name }) : name,
    arguments: String(item.arguments),
  };
}

function isCut(cause: string | undefined): boolean {
  return cause === "max_output_tokens" || cause === "context_limit";
}

function textOf(item: Item): string {
  return (item.content as readonly { readonly text: string }[]).map(({ text }) => text).join("");
}

function now(): number {
  return Math.floor(Date.now() / 1000);
}

/** `usage` as the Responses API spells it. */
export function responseUsage(summary: GenerationSummary) {
  return {
    input_tokens: summary.promptTokens,
    input_tokens_details: { cached_tokens: summary.cachedTokens },
    output_tokens: summary.completionTokens,
    output_tokens_details: { reasoning_tokens: summary.reasoningTokens },
    total_tokens: summary.promptTokens + summary.completionTokens,
  };
}

/** `error` of an answer that failed; agents look at the code and, for `rate_limit_exceeded`, for the time to wait. */
function failureOf({ code, message }: HttpError): { readonly code: string; readonly message: string } {
  if (code === "queue_full" || code === "admission_refused") {
    return { code: "rate_limit_exceeded", message: `${message} Please try again in 1s.` };
  }
  return { code: code === null || code === "internal" ? "server_error" : code, message };
}
