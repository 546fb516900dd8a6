import type { AnswerStart, ChatFormat, ChatMessage, ChatOptions } from "../../models/chat/index.ts";
import type { GenerationPlan } from "../generation.ts";
import { inlineReasoning, type ReasoningMarks } from "../inline_reasoning.ts";
import type { RouteContext } from "./context.ts";
import { type HttpError, unsupportedField } from "./errors.ts";
import type { ServedModel } from "./options.ts";
import { canSkipReasoning, type Effort, effortLevel, startAnswer, withoutReasoning } from "./reasoning.ts";
import { engineRequest, stopStringsOf } from "./sampling.ts";
import type { GenerationFields } from "./schema.ts";
import type { ToolUse } from "./tools.ts";

/** A conversation that is to go on, as every API that has messages comes to it. */
export type Conversation = {
  readonly messages: readonly ChatMessage[];
  readonly use: ToolUse;
  /** Absent: the server's default. */
  readonly effort?: Effort | undefined;
  /** Name of the field that asked for the effort. */
  readonly effortField: string;
  /** An effort the chat format has no place for is a 400; otherwise its field counts as ignored. */
  readonly strict: boolean;
  readonly templateArguments?: Readonly<Record<string, unknown>>;
  /** Absent, null or negative: to the end of the context. */
  readonly maxTokens: number | null | undefined;
  /** Log-probabilities with so many alternatives. */
  readonly topLogprobs?: number | undefined;
  /** Reasoning stays in the content, between marks. */
  readonly inline?: boolean;
};

export type PlannedAnswer = {
  readonly plan: GenerationPlan;
  /** The effort the model was told; absent where its format has none. */
  readonly effort?: "none" | "low" | "medium" | "high";
  readonly ignored: readonly string[];
};

/** Writes the prompt and says how the answer is read. */
export function planAnswer(
  context: RouteContext,
  model: ServedModel,
  body: GenerationFields,
  conversation: Conversation,
): PlannedAnswer {
  const { tokenizer, chat } = model;
  const { messages, maxTokens, topLogprobs, inline = false } = conversation;
  const { options, start, ...told } = chatOptions(context, chat, conversation);
  const started = startAnswer(model, start, options);
  const parser = () => started.parser(chat.parser(options));
  const plan: GenerationPlan = {
    stops: stopStringsOf(body),
    parser: inline ? () => inlineReasoning(parser(), reasoningMarks(chat.name)) : parser,
    request: {
      prompt: [...chat.prompt(messages, options), ...started.tokens],
      ...engineRequest(context, body, { tokenizer, formatStops: chat.stopTokens, maxTokens }),
      ...(topLogprobs === undefined ? {} : { topLogprobs }),
    },
  };
  return { plan, ...told };
}

type Told = Omit<PlannedAnswer, "plan"> & { readonly options: ChatOptions; readonly start?: AnswerStart };

function chatOptions({ state }: RouteContext, chat: ChatFormat, conversation: Conversation): Told {
  const { use, effortField, strict } = conversation;
  const hasTools = use.tools.length > 0;
  const base: ChatOptions = {
    ...(hasTools ? { tools: use.tools } : {}),
    templateArguments: conversation.templateArguments ?? {},
  };
  const wanted = conversation.effort === undefined ? undefined : effortLevel(conversation.effort);
  const ignored: string[] = [];
  if (wanted === "none" && canSkipReasoning(chat, hasTools) && use.forced === undefined) {
    return { ...withoutReasoning(chat, withEffort(base, "low")), effort: "none", ignored };
  }
  const readsEffort = chat.reads("reasoning_effort");
  if (wanted !== undefined && (wanted === "none" || !readsEffort)) {
    if (strict) throw noEffort(effortField, chat, wanted === "none" && readsEffort);
    ignored.push(effortField);
  }
  const effort = wanted === "none" ? "low" : (wanted ?? state.settings.reasoningEffort);
  return {
    options: withEffort(base, effort),
    ...(use.forced === undefined ? {} : { start: { kind: "call", tool: use.forced } }),
    ...(readsEffort ? { effort } : {}),
    ignored,
  };
}

function withEffort(options: ChatOptions, reasoningEffort: "low" | "medium" | "high"): ChatOptions {
  return { ...options, reasoningEffort };
}

/** `off`: the effort is read, but reasoning cannot be turned off beside tools. */
export function noEffort(param: string, chat: ChatFormat, off = false): HttpError {
  if (off) return unsupportedField(param, "no reasoning beside tools", "Use low.");
  const fix = chat.reads("enable_thinking")
    ? "Turn thinking on or off with chat_template_kwargs.enable_thinking."
    : "Leave it out.";
  return unsupportedField(param, "a reasoning effort", `This model's chat format has none. ${fix}`);
}

/** As llama.cpp's server marks reasoning that it leaves in the content. */
function reasoningMarks(format: string): ReasoningMarks {
  if (format === "harmony") return { open: "<|channel|>analysis<|message|>", close: "<|end|>" };
  return { open: "<think>", close: "</think>" };
}
