import type { AnswerParser } from "./choice.ts";

export type ChatToolCall = { readonly id?: string; readonly name: string; readonly arguments: string };

export type ChatMessage = {
  readonly role: "system" | "developer" | "user" | "assistant" | "tool";
  readonly content: string;
  readonly reasoning?: string;
  readonly name?: string;
  readonly toolCalls?: readonly ChatToolCall[];
  readonly toolCallId?: string;
};

export type PromptOptions = {
  readonly reasoningEffort?: "low" | "medium" | "high";
  /** Variables of the file's template. */
  readonly templateArguments?: Readonly<Record<string, unknown>>;
};

/** What the server needs of a model's chat format. */
export interface ChatFormat {
  readonly name: string;
  readonly capabilities: { readonly reasoning: boolean };
  /** Tokens that end an answer beyond the vocabulary's own. */
  readonly stopTokens: readonly number[];
  prompt(messages: readonly ChatMessage[], options: PromptOptions): number[];
  parser(): AnswerParser;
}
