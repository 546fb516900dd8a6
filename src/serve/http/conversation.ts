import type { AnswerStart, ChatFormat, ChatMessage, ChatOptions } from "../../models/chat/index.ts";
import type { GenerationPlan } from "../generation.ts";
import { inlineReasoning, type ReasoningMarks } from "../inline_reasoning.ts";
import type { ReasoningBudget } from "../reasoning_budget.ts";
import { constrainAnswer } from "./constrain.ts";
import type { RouteContext } from "./context.ts";
import { badField, type HttpError, unsupportedField } from "./errors.ts";
import type { ServedModel } from "./options.ts";
import { checkFits, mostTokens, tooLong } from "./prompt_length.ts";
import {
  canSkipReasoning,
  type Effort,
  effortLevel,
  reasoningBudget,
  startAnswer,
  withoutReasoning,
  withThinking,
} from "./reasoning.ts";
import { engineRequest, expectPrompt, stopStringsOf } from "./sampling.ts";
import type { GenerationFields } from "./schema.ts";
import { type StructuredOutput, structuredOutput } from "./structured.ts";
import type { ToolUse } from "./tools.ts";

/** A conversation that is to go on, as every API that has messages comes to it. */
export type Conversation = {
  readonly messages: readonly ChatMessage[];
  readonly use: ToolUse;
  /** Absent: the server's default. */
  readonly effort?: Effort | undefined;
  /** Name of the field that asked for the effort. */
  readonly effortField: string;
  /** Most tokens of reasoning; 0 = none, infinite: reasoning is asked for. */
  readonly budget?: { readonly field: string; readonly tokens: number } | undefined;
  /** An effort or budget the chat format has no place for is a 400; otherwise its field counts as ignored. */
  readonly strict: boolean;
  readonly templateArguments?: Readonly<Record<string, unknown>>;
  /** Absent, null or negative: to the end of the context. */
  readonly maxTokens: number | null | undefined;
  /** Log-probabilities with so many alternatives. */
  readonly topLogprobs?: number | undefined;
  /** What a field of this API alone asks of the text. */
  readonly output?: StructuredOutput | undefined;
  /** Reasoning stays in the content, between marks. */
  readonly inline?: boolean;
  /** Nothing is generated: the prompt is counted, however long it is. */
  readonly counted?: boolean;
};

export type PlannedAnswer = {
  readonly plan: GenerationPlan;
  /** The effort the model was told; absent where its format has none. */
  readonly effort?: "none" | "low" | "medium" | "high";
  readonly ignored: readonly string[];
  readonly output?: StructuredOutput | undefined;
};

/** Writes the prompt and says how the answer is read. */
export async function planAnswer(
  context: RouteContext,
  model: ServedModel,
  body: GenerationFields,
  conversation: Conversation,
): Promise<PlannedAnswer> {
  const { tokenizer, chat } = model;
  const { messages, maxTokens, topLogprobs, inline = false } = conversation;
  const { options, start, budget, ...told } = reasoningOf(context, model, conversation);
  if (budget && (body.n ?? 1) > 1) {
    throw badField("n", "1 where reasoning is bounded", String(body.n));
  }
  const output = structuredOutput(body, conversation.output);
  const most = conversation.counted ? undefined : mostTokens(model);
  if (most !== undefined) await context.inSteps(checkFits(model, heard(messages)));
  const written = await context.inSteps(chat.promptSteps(messages, options, most));
  if (written.length > (most ?? Infinity)) throw tooLong(model, written.length);
  const started = startAnswer(model, start, options, written);
  const prompt = started.tokens.length === 0 ? written : [...written, ...started.tokens];
  if (!conversation.counted) expectPrompt(context, model, body, prompt);
  const parser = () => started.parser(chat.parser(options, written));
  // with the call's end for a stop token there is no second call
  const callEnds = conversation.use.single && !body.ignore_eos ? (chat.callEnds ?? []) : [];
  const request = engineRequest(context, body, {
    ...{ tokenizer, maxTokens },
    formatStops: [...chat.stopTokens, ...callEnds],
  });
  const constrained = await constrainAnswer(context, model, {
    ...{ output, use: conversation.use, options, prompt: written, started: started.tokens },
    stops: request.stopTokens.filter((token) => !callEnds.includes(token)),
  });
  const { constraint } = constrained;
  const plan: GenerationPlan = {
    stops: stopStringsOf(body),
    parser: inline ? () => inlineReasoning(parser(), reasoningMarks(chat.name)) : parser,
    request: {
      prompt,
      ...request,
      ...(constraint ? { constraint } : {}),
      ...(topLogprobs === undefined ? {} : { topLogprobs }),
    },
    ...(budget ? { budget } : {}),
  };
  return { plan, ...told, ignored: [...told.ignored, ...constrained.ignored], output };
}

/** Texts that stand in the prompt in any case; of an answer's, formats leave parts out. */
function heard(messages: readonly ChatMessage[]): string[] {
  return messages.flatMap(({ role, content }) => (role === "assistant" ? [] : [content]));
}

type Reasoning = Omit<PlannedAnswer, "plan"> & {
  readonly options: ChatOptions;
  readonly start?: AnswerStart;
  readonly budget?: ReasoningBudget;
};

/** What the model is told about reasoning, and what is done about it while it answers. */
function reasoningOf({ state }: RouteContext, model: ServedModel, conversation: Conversation): Reasoning {
  const { chat } = model;
  const { use, strict, effortField, budget: asked } = conversation;
  const hasTools = use.tools.length > 0;
  const base: ChatOptions = {
    ...(hasTools ? { tools: use.tools } : {}),
    templateArguments: conversation.templateArguments ?? {},
  };
  const told = (reasoningEffort: "low" | "medium" | "high"): ChatOptions => ({ ...base, reasoningEffort });
  const level = conversation.effort === undefined ? undefined : effortLevel(conversation.effort);
  const readsEffort = chat.reads("reasoning_effort");
  if (use.forced !== undefined) {
    // an answer that begins with a call has no place for reasoning
    const options = told(level === undefined || level === "none" ? "low" : level);
    return {
      options: chat.reads("enable_thinking") ? withThinking(options, false) : options,
      start: { kind: "call", ...use.forced },
      ignored: [],
    };
  }
  if (level === "none" || asked?.tokens === 0) {
    const field = level === "none" ? effortField : (asked?.field ?? "");
    return { ...skipReasoning(model, told("low"), { field, strict, hasTools }) };
  }
  const ignored: string[] = [];
  // a format that only knows on and off: whoever asks for some reasoning wants it on
  const turnsOn = chat.reads("enable_thinking") && base.templateArguments?.enable_thinking === undefined;
  const on = turnsOn && ((level !== undefined && !readsEffort) || asked !== undefined);
  if (level !== undefined && !readsEffort && !chat.reads("enable_thinking")) {
    if (strict) throw noEffort(effortField, chat);
    ignored.push(effortField);
  }
  const bound = asked && Number.isFinite(asked.tokens) && chat.capabilities.reasoning ? asked : undefined;
  const budget = bound && reasoningBudget(model, bound.tokens, hasTools);
  if (bound && !budget) {
    if (strict)
      throw unsupportedField(bound.field, "a reasoning budget", "This model's chat format has none.");
    ignored.push(bound.field);
  }
  const effort = level ?? state.settings.reasoningEffort;
  return {
    options: on ? withThinking(told(effort), true) : told(effort),
    ...(budget ? { budget } : {}),
    ...(readsEffort ? { effort } : {}),
    ignored,
  };
}

/** No reasoning: the format's own way, or an end to it after its first token. */
function skipReasoning(
  model: ServedModel,
  options: ChatOptions,
  {
    field,
    strict,
    hasTools,
  }: { readonly field: string; readonly strict: boolean; readonly hasTools: boolean },
): Reasoning {
  const { chat } = model;
  if (canSkipReasoning(chat, hasTools)) {
    return { ...withoutReasoning(chat, options), effort: "none", ignored: [] };
  }
  const budget = reasoningBudget(model, 0, hasTools);
  if (budget) return { options, budget, effort: "none", ignored: [] };
  if (strict)
    throw unsupportedField(field, "an answer without reasoning", "This model's chat format has none.");
  return { options, ignored: [field] };
}

export function noEffort(param: string, chat: ChatFormat): HttpError {
  const fix = chat.reads("enable_thinking")
    ? "Turn thinking on or off with chat_template_kwargs.enable_thinking."
    : "Leave it out.";
  return unsupportedField(param, "a reasoning effort", `This model's chat format has none. ${fix}`);
}

/** As llama.cpp's server marks reasoning that it leaves in the content. */
function reasoningMarks(format: string): ReasoningMarks {
  if (format === "harmony") return { open: "<|channel|>analysis<|message|>", close: "<|end|>" };
  if (format === "gemma4") return { open: "<|channel>thought\n", close: "<channel|>" };
  return { open: "<think>", close: "</think>" };
}
