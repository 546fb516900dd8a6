import type { Steps } from "../../core/steps.ts";

/** What chat formats need of a tokenizer. */
export interface ChatTokenizer {
  readonly vocabularySize: number;
  /** The token that begins a text, and whether the vocabulary asks for it. */
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly addBos: boolean;
  encode(
    text: string,
    options: { readonly special: boolean; readonly bos?: boolean; readonly eos?: boolean },
  ): readonly number[];
  encodeSteps(
    text: string,
    options: { readonly special: boolean; readonly bos?: boolean; readonly eos?: boolean },
    most?: number,
  ): Steps<readonly (readonly number[])[]>;
  idOf(token: string): number | undefined;
  isControl(id: number): boolean;
  /** The bytes a token adds to the text; those of its name for a control token. */
  tokenBytes(id: number): Uint8Array;
  tokenText(id: number): string;
}

/** A call of a tool in a history; `arguments` is the JSON text the model wrote. */
export type ChatToolCall = { readonly id?: string; readonly name: string; readonly arguments: string };

/** A piece of a message; an image or a video is its place and nothing more, as no pixels are read. */
export type ContentPart =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "image" | "video" };

/** How a model's file says it takes media, and who would have to read them. Absent members: not at all. */
export type MediaSupport = {
  readonly family: string;
  /**
   * `processor_owned`: only an image processor's lane takes them, which does not exist here; `prompt_projection_only`:
   * each becomes its marks in the prompt.
   */
  readonly visual?:
    | { readonly mode: "processor_owned"; readonly owner: string }
    | {
        readonly mode: "prompt_projection_only";
        readonly blocks: number;
        readonly width: number | undefined;
        readonly tokens: Readonly<Record<"visionStart" | "visionEnd" | "image", number | undefined>>;
      };
  readonly audio?: { readonly mode: "processor_owned"; readonly owner: string };
  /** Sizes of the family that take audio, where this one does not. */
  readonly audioSizes?: readonly string[];
};

export type ChatMessage = {
  readonly role: "system" | "developer" | "user" | "assistant" | "tool";
  readonly content: string;
  /** The content with its media in their places; `content` is its text then. Read by formats that project media. */
  readonly parts?: readonly ContentPart[];
  readonly reasoning?: string;
  /** Of a tool message: the tool that answered. Of others: the author, which few formats write. */
  readonly name?: string;
  readonly toolCalls?: readonly ChatToolCall[];
  readonly toolCallId?: string;
  /** Results of its calls, for templates that have a place for them in the message that called. */
  readonly toolResponses?: readonly { readonly name: string; readonly response: unknown }[];
};

/** A function the model may call; `parameters` is a JSON schema. */
export type ChatTool = {
  readonly name: string;
  readonly description?: string;
  readonly parameters?: Readonly<Record<string, unknown>>;
};

export type ChatOptions = {
  readonly reasoningEffort?: "low" | "medium" | "high";
  readonly tools?: readonly ChatTool[];
  /** `YYYY-MM-DD`; without it Harmony tells the model no date. */
  readonly currentDate?: string;
  /** Variables of the file's template, such as `enable_thinking`. */
  readonly templateArguments?: Readonly<Record<string, unknown>>;
  /** Tokens of a prompt that the caller looks at; a file's template refuses conversations that are far longer. */
  readonly mostTokens?: number;
};

/**
 * A part of a prompt. Control tokens written out in `text` become those tokens only where `special` is true. `apart`:
 * not tokenised in one run with what stands before.
 */
export type PromptPiece = { readonly text: string; readonly special: boolean; readonly apart?: true };

/** What a parser found in the tokens of an answer. */
export type ParsedEvent =
  | { readonly type: "content"; readonly text: string }
  | { readonly type: "reasoning"; readonly text: string }
  /** A piece of a tool call; `name` comes once, with the first piece. */
  | { readonly type: "toolCall"; readonly index: number; readonly name?: string; readonly arguments: string };

/** How a format spells the arguments of a call: as JSON, in Gemma 4's notation, or one tagged value for each parameter. */
export type ArgumentNotation = "json" | "gemma4" | "qwen35";

/**
 * What the next token of an answer would be part of. Whoever constrains tokens does so in `content` (all of it is the
 * final answer, which white space may precede) and in `arguments` (from the first character behind the call's head, the
 * `{` of `json` and `gemma4` included); `reasoning` and `markup` stay free. A region ends where the parser says the next one.
 */
export type AnswerRegion =
  | { readonly kind: "reasoning" | "markup" | "content" }
  | {
      readonly kind: "arguments";
      readonly tool: string;
      readonly notation: ArgumentNotation;
      /** The parameter whose value stands here, in notations that name one at a time. */
      readonly parameter?: string;
    };

/** Turns the tokens of one answer into its parts. Does not throw, whatever the tokens are. */
export interface GenerationParser {
  push(token: number): readonly ParsedEvent[];
  /** The answer is over; `stopToken` ended it, if one did. */
  finish(stopToken: number | undefined): readonly ParsedEvent[];
  /** The last token was part of content, also when its text is not complete yet. */
  readonly inContent: boolean;
  /** Tokens that fitted no rule of the format. */
  readonly unparsed: number;
  /** Where the answer is after the last token; absent where a parser knows no more than `inContent`. */
  readonly region?: AnswerRegion | undefined;
}

/** What an answer is made to begin with: its text, without reasoning, or a call, of the named tool or of one it chooses. */
export type AnswerStart = { readonly kind: "content" } | { readonly kind: "call"; readonly tool?: string };

/**
 * The form of an answer to a prompt, for whoever lets a model write nothing else: control tokens (`mark`), text that stands
 * there as it is, any text without marks (`free`), and places where the caller's own constraint holds.
 */
export type AnswerShape =
  | { readonly kind: "mark" | "text"; readonly text: string }
  | { readonly kind: "free" | "content" }
  | { readonly kind: "arguments"; readonly tool: string; readonly notation: ArgumentNotation }
  | { readonly kind: "seq" | "choice"; readonly of: readonly AnswerShape[] }
  | { readonly kind: "repeat"; readonly of: AnswerShape; readonly min: number; readonly max: number };

/** What an answer may have: text that is `free` or the caller's (`own`), or none; calls of the tools in the chat options. */
export type AnswerWish = {
  readonly text: "free" | "own" | "none";
  readonly calls: "none" | "one" | "several";
  /** Only this tool. */
  readonly tool?: string;
};

/** How a model's conversations are written and its answers read. */
export interface ChatFormat {
  readonly name: string;
  readonly capabilities: {
    readonly reasoning: boolean;
    readonly tools: boolean;
    /** Names of authors get into the prompt. */
    readonly names: boolean;
  };
  /** Whether a variable such as `reasoning_effort` or `enable_thinking` can change a prompt. */
  reads(variable: string): boolean;
  /** Tokens that end an answer beyond the vocabulary's own. */
  readonly stopTokens: readonly number[];
  render(messages: readonly ChatMessage[], options?: ChatOptions): PromptPiece[];
  /** Token ids of a conversation, up to where the answer begins. */
  prompt(messages: readonly ChatMessage[], options?: ChatOptions): number[];
  /** The same in steps, for conversations that may be long; ends beyond `most` tokens with some more than these. */
  promptSteps(messages: readonly ChatMessage[], options?: ChatOptions, most?: number): Steps<number[]>;
  /**
   * Text, control tokens included, that an answer to `prompt` must begin with to go straight to what it says or to a
   * call; absent where the format has no such text.
   */
  readonly opening?: (start: AnswerStart, options?: ChatOptions, prompt?: readonly number[]) => string;
  /** The form of answers to `prompt`; absent where nobody has told it. */
  readonly shape?: (wish: AnswerWish, options?: ChatOptions, prompt?: readonly number[]) => AnswerShape;
  /** Tokens that are no text of an answer, beside the vocabulary's control tokens. */
  readonly marks?: readonly string[];
  /** Tokens that end a call; another may follow. Absent or empty where an answer has one call at most. */
  readonly callEnds?: readonly number[];
  /**
   * Texts, control tokens included, that end reasoning: the first leaves open what follows, the last one does not. Empty
   * or absent where answers have none.
   */
  readonly reasoningEnds?: readonly string[];
  /** Absent: the model reads text only. */
  readonly media?: MediaSupport;
  /** Reads the answer to `prompt`, which was written with the same options; formats whose prompts may open reasoning look. */
  parser(options?: ChatOptions, prompt?: readonly number[]): GenerationParser;
}
