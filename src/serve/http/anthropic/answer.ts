import type { GenerationSummary } from "../../generation.ts";
import type { AnswerFrame } from "../answer_frame.ts";
import type { ManyEvent } from "../many.ts";
import { sealReasoning } from "../reasoning_seal.ts";
import type { AnswerShape } from "../respond.ts";
import { namedEvent } from "../sse.ts";
import { anthropicError } from "./errors.ts";

export type AnthropicAnswerOptions = AnswerFrame & {
  /** As the request spelled it. */
  readonly model: string;
  readonly promptTokens: number;
  /** `omitted`: a block without its text, which the client sends back in the signature. */
  readonly thinking: "shown" | "omitted" | "hidden";
  /** The request's number in the log, which errors name. */
  readonly requestId: string;
};

type Open =
  | { readonly kind: "text" | "thinking"; text: string }
  | { readonly kind: "tool_use"; readonly call: number; readonly name: string; text: string };

/** Answers of /v1/messages. */
export function anthropicAnswer(options: AnthropicAnswerOptions): AnswerShape {
  const writer = new BlockWriter(options);
  return {
    opening: () => writer.opening(),
    chunk: (item) => writer.take(item),
    closing: (summary) => writer.close(summary),
    collect: (item) => {
      writer.take(item);
    },
    body: (summary) => {
      writer.close(summary);
      return writer.whole(summary);
    },
    end: "",
    failure: (error) => namedEvent(anthropicError(error, options.requestId)),
  };
}

/** Turns the parts of an answer into blocks, and each change into an event. */
class BlockWriter {
  private readonly options: AnthropicAnswerOptions;
  private readonly blocks: object[] = [];
  private open: Open | undefined;
  private finish: Extract<ManyEvent["event"], { type: "finish" }> | undefined;

  constructor(options: AnthropicAnswerOptions) {
    this.options = options;
  }

  opening(): string {
    const { promptTokens } = this.options;
    // how much of the prompt is cached is known only later; the last usage counts
    const usage = usageOf({ promptTokens, cachedTokens: 0, completionTokens: 0, reasoningTokens: 0 });
    const message = { ...this.head(), content: [], stop_reason: null, stop_sequence: null, usage };
    return (
      namedEvent({ type: "message_start", message } as { readonly type: string }) +
      namedEvent({ type: "ping" })
    );
  }

  /** The events of one part of the answer. */
  take({ event }: ManyEvent): string {
    switch (event.type) {
      case "content":
        return this.addText("text", event.text);
      case "reasoning":
        return this.options.thinking === "hidden" ? "" : this.addText("thinking", event.text);
      case "toolCall":
        return this.addCall(event.index, event.name, event.arguments);
      case "finish":
        this.finish = event;
        return "";
      default:
        return "";
    }
  }

  close(summary: GenerationSummary): string {
    const delta = this.stop();
    return (
      this.endBlock() +
      this.emit("message_delta", { delta, usage: usageOf(summary) }) +
      this.emit("message_stop", {})
    );
  }

  whole(summary: GenerationSummary): object {
    const { debug } = this.options;
    return {
      ...this.head(),
      content: this.blocks,
      ...this.stop(),
      usage: usageOf(summary),
      ...debug?.(summary, [this.finish?.cause ?? "error"]),
    };
  }

  private head() {
    const { id, model } = this.options;
    return { id, type: "message", role: "assistant", model };
  }

  private stop() {
    const { finish } = this;
    return { stop_reason: stopReason(finish), stop_sequence: finish?.matchedStop ?? null };
  }

  private addText(kind: "text" | "thinking", text: string): string {
    if (text === "") return "";
    let out = "";
    if (this.open?.kind !== kind) {
      out += this.endBlock();
      this.open = { kind, text: "" };
      const empty =
        kind === "text" ? { type: "text", text: "" } : { type: "thinking", thinking: "", signature: "" };
      out += this.begin(empty);
    }
    this.open!.text += text;
    if (kind === "thinking" && this.options.thinking === "omitted") return out;
    const delta = kind === "text" ? { type: "text_delta", text } : { type: "thinking_delta", thinking: text };
    return out + this.delta(delta);
  }

  private addCall(call: number, name: string | undefined, args: string): string {
    let out = "";
    if (this.open?.kind !== "tool_use" || this.open.call !== call) {
      out += this.endBlock();
      this.open = { kind: "tool_use", call, name: name ?? "", text: "" };
      out += this.begin({ type: "tool_use", id: this.callId(call), name: name ?? "", input: {} });
    }
    this.open!.text += args;
    return args === "" ? out : out + this.delta({ type: "input_json_delta", partial_json: args });
  }

  /** Ends the block that is open, if one is. */
  private endBlock(): string {
    const { open } = this;
    if (!open) return "";
    const signature = this.signature(open);
    const out =
      (open.kind === "thinking" ? this.delta({ type: "signature_delta", signature }) : "") +
      this.emit("content_block_stop", { index: this.blocks.length });
    this.blocks.push(this.block(open, signature));
    this.open = undefined;
    return out;
  }

  private block(open: Open, signature: string): object {
    if (open.kind === "tool_use") {
      return { type: "tool_use", id: this.callId(open.call), name: open.name, input: inputOf(open.text) };
    }
    if (open.kind === "text") return { type: "text", text: open.text };
    return { type: "thinking", thinking: this.options.thinking === "omitted" ? "" : open.text, signature };
  }

  private begin(block: object): string {
    return this.emit("content_block_start", { index: this.blocks.length, content_block: block });
  }

  private delta(delta: object): string {
    return this.emit("content_block_delta", { index: this.blocks.length, delta });
  }

  private callId(call: number): string {
    return `${this.options.id}-tool-${call}`;
  }

  /** Clients send thinking back only with one; nothing is checked when they do. */
  private signature({ text }: Open): string {
    return this.options.thinking === "omitted"
      ? sealReasoning(text)
      : `${this.options.id}-${this.blocks.length}`;
  }

  private emit(type: string, fields: object): string {
    return namedEvent({ type, ...fields });
  }
}

function stopReason(finish: Extract<ManyEvent["event"], { type: "finish" }> | undefined): string {
  if (finish?.cause === "context_limit") return "model_context_window_exceeded";
  if (finish?.reason === "tool_calls") return "tool_use";
  if (finish?.reason === "length") return "max_tokens";
  return finish?.cause === "stop_sequence" ? "stop_sequence" : "end_turn";
}

/** Arguments as an object. What the model wrote otherwise stands under one name, for the tool to complain about. */
function inputOf(text: string): object {
  if (text.trim() === "") return {};
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  } catch {
    // falls through: not JSON is handled like JSON that is no object
  }
  return { raw_arguments: text };
}

type Counts = Pick<
  GenerationSummary,
  "promptTokens" | "cachedTokens" | "completionTokens" | "reasoningTokens"
>;

/** `usage`: tokens from the cache are not among the input tokens. */
function usageOf({ promptTokens, cachedTokens, completionTokens, reasoningTokens }: Counts) {
  return {
    input_tokens: promptTokens - cachedTokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cachedTokens,
    output_tokens: completionTokens,
    output_tokens_details: { thinking_tokens: reasoningTokens },
  };
}
