import type { ChatMessage, ChatToolCall, ContentPart } from "../../models/chat/index.ts";
import { badField } from "./errors.ts";

type Draft = { content: string; reasoning: string; toolCalls: ChatToolCall[] };

/**
 * Builds a conversation from parts that come one by one: what an assistant thought, said and called in a row is one
 * message, and a tool's result finds the tool by the id of its call.
 */
export class Turns {
  private readonly done: ChatMessage[] = [];
  private readonly names = new Map<string, string>();
  private open: Draft | undefined;

  /** `history`: earlier messages, whose calls may get their results now. */
  constructor(history: readonly ChatMessage[] = []) {
    for (const { toolCalls = [] } of history) for (const call of toolCalls) this.learn(call);
  }

  say(
    role: "system" | "developer" | "user" | "assistant",
    content: string,
    parts?: readonly ContentPart[],
  ): void {
    if (role !== "assistant") {
      this.close();
      this.done.push({ role, content, ...(parts ? { parts } : {}) });
      return;
    }
    // Two texts in a row are two messages; text after a call belongs to the next one.
    if (this.open && (this.open.content !== "" || this.open.toolCalls.length > 0)) this.close();
    this.draft().content = content;
  }

  reason(text: string): void {
    if (this.open && (this.open.content !== "" || this.open.toolCalls.length > 0)) this.close();
    this.draft().reasoning += text;
  }

  call(call: ChatToolCall): void {
    this.learn(call);
    this.draft().toolCalls.push(call);
  }

  /** Throws 400 with `param` where no earlier call has this id. */
  result(id: string, content: string, param: string): void {
    const name = this.names.get(id);
    if (name === undefined) throw badField(param, "the id of an earlier call", "an id that no call has");
    this.close();
    this.done.push({ role: "tool", content, name, toolCallId: id });
  }

  messages(): readonly ChatMessage[] {
    this.close();
    return this.done;
  }

  private learn({ id, name }: ChatToolCall): void {
    if (id !== undefined) this.names.set(id, name);
  }

  private draft(): Draft {
    this.open ??= { content: "", reasoning: "", toolCalls: [] };
    return this.open;
  }

  private close(): void {
    const { open } = this;
    if (!open) return;
    this.open = undefined;
    this.done.push({
      role: "assistant",
      content: open.content,
      ...(open.reasoning === "" ? {} : { reasoning: open.reasoning }),
      ...(open.toolCalls.length === 0 ? {} : { toolCalls: open.toolCalls }),
    });
  }
}
