/** What the server needs of a model's chat format; the formats of models/chat have it. */

export type ChatToolCall = { readonly id?: string; readonly name: string; readonly arguments: string };

export type ChatMessage = {
  readonly role: "system" | "developer" | "user" | "assistant" | "tool";
  readonly content: string;
  readonly reasoning?: string;
  /** Of a tool message: the tool that answered. */
  readonly name?: string;
  readonly toolCalls?: readonly ChatToolCall[];
  readonly toolCallId?: string;
};

export type ChatOptions = {
  readonly reasoningEffort?: "low" | "medium" | "high";
  /** Variables of the file's template. */
  readonly templateArguments?: Readonly<Record<string, unknown>>;
};

/** What a parser found in the tokens of an answer. */
export type ParsedEvent =
  | { readonly type: "content"; readonly text: string }
  | { readonly type: "reasoning"; readonly text: string }
  /** A piece of a tool call; `name` comes once, with the first piece. */
  | { readonly type: "toolCall"; readonly index: number; readonly name?: string; readonly arguments: string };

/** Turns the tokens of one answer into its parts. Must not throw. */
export interface GenerationParser {
  push(token: number): readonly ParsedEvent[];
  /** The answer is over; `stopToken` ended it, if one did. */
  finish(stopToken: number | undefined): readonly ParsedEvent[];
  /** The last token was part of content, also when its text is not complete yet. */
  readonly inContent: boolean;
  /** Tokens that fitted no rule of the format. */
  readonly unparsed: number;
}

export interface ChatFormat {
  readonly name: string;
  readonly capabilities: { readonly reasoning: boolean };
  /** Tokens that end an answer beyond the vocabulary's own. */
  readonly stopTokens: readonly number[];
  prompt(messages: readonly ChatMessage[], options: ChatOptions): number[];
  parser(options: ChatOptions): GenerationParser;
}
