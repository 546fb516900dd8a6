import * as v from "valibot";
import type { ChatFormat, ChatOptions } from "../../../models/chat/index.ts";
import type { GenerationPlan } from "../../generation.ts";
import { inlineReasoning, type ReasoningMarks } from "../../inline_reasoning.ts";
import { answerFrame } from "../answer_frame.ts";
import { describe, readJson, validate } from "../body.ts";
import { chatAnswer } from "../chat_answer.ts";
import type { Route, RouteContext } from "../context.ts";
import { badField, type HttpError, unsupportedField } from "../errors.ts";
import { ignoredHeaders, sortFields } from "../fields.ts";
import { messagesSchema, readMessages, unusedMembers } from "../messages.ts";
import { resolveModel } from "../model_card.ts";
import type { RequestLimits, ServedModel } from "../options.ts";
import { respond } from "../respond.ts";
import { engineRequest, stopStringsOf } from "../sampling.ts";
import { flag, generationEntries, integer, maybe, oneOf, text } from "../schema.ts";

const efforts = oneOf("low", "medium", "high");

function chatEntries(limits: RequestLimits) {
  return {
    ...generationEntries(limits),
    messages: messagesSchema(limits),
    max_completion_tokens: maybe(integer(-1, 2 ** 31 - 1)),
    logprobs: maybe(flag),
    top_logprobs: maybe(integer(0, limits.topLogprobs)),
    reasoning_effort: maybe(efforts),
    reasoning_format: maybe(oneOf("auto", "none", "deepseek", "deepseek-legacy")),
    psionic_reasoning: maybe(
      v.object({ parser: maybe(text), mode: maybe(oneOf("separate", "suppress")) }, "an object"),
    ),
    chat_template_kwargs: maybe(v.record(text, v.unknown(), "an object")),
    tools: maybe(v.array(v.unknown(), "an array of tools")),
    tool_choice: v.optional(v.unknown()),
    parallel_tool_calls: maybe(flag),
  };
}

type ChatFields = v.InferOutput<v.ObjectSchema<ReturnType<typeof chatEntries>, undefined>>;

export const chatCompletions: Route = {
  method: "POST",
  path: "/chat/completions",
  handle: async (context) => {
    const { state, request, record } = context;
    const model = state.model();
    const { limits } = state.settings;
    const raw = await readJson(request, limits.bodyBytes);
    const entries = chatEntries(limits);
    const body = validate(v.object(entries), raw);
    const { chat } = model;
    // an effort that the format does not read is refused further down, with its reason
    const reads = (name: string) => name === "reasoning_effort" || chat.reads(name);
    const ignored = sortFields(raw as object, entries, reads);
    checkTools(body);
    const { info } = model.engine;
    const name = resolveModel(info, body.model);
    const reasoningParser = checkReasoning(body, model);
    const plan = chatPlan(context, model, body);
    const sent = raw as { readonly messages: readonly object[] };
    ignored.push(...unusedMembers(sent.messages, chat.capabilities.names));
    record.ignored = ignored.length;
    return respond(context, {
      model,
      plans: [plan],
      stream: body.stream ?? false,
      headers: ignoredHeaders(ignored),
      shape: chatAnswer({
        ...answerFrame(state, info, "chatcmpl"),
        model: name,
        choices: plan.request.choices,
        tokenizer: model.tokenizer,
        logprobs: body.logprobs ?? false,
        includeUsage: body.stream_options?.include_usage ?? false,
        showReasoning: body.psionic_reasoning?.mode !== "suppress",
        ...(reasoningParser === undefined ? {} : { reasoningParser }),
      }),
    });
  },
};

function chatPlan(context: RouteContext, model: ServedModel, body: ChatFields): GenerationPlan {
  const { tokenizer, chat } = model;
  const { limits } = context.state.settings;
  if (body.top_logprobs && !body.logprobs) {
    throw badField("top_logprobs", "logprobs to be true when alternatives are asked for", "no logprobs");
  }
  const messages = readMessages(body.messages, limits);
  const maxTokens = body.max_completion_tokens ?? body.max_tokens;
  const inline = body.reasoning_format === "none";
  const options = chatOptions(context, chat, body);
  return {
    stops: stopStringsOf(body),
    parser: () =>
      inline ? inlineReasoning(chat.parser(options), reasoningMarks(chat.name)) : chat.parser(options),
    request: {
      prompt: chat.prompt(messages, options),
      ...engineRequest(context, body, { tokenizer, formatStops: chat.stopTokens, maxTokens }),
      ...(body.logprobs ? { topLogprobs: body.top_logprobs ?? 0 } : {}),
    },
  };
}

function chatOptions({ state }: RouteContext, chat: ChatFormat, body: ChatFields): ChatOptions {
  const { reasoning_effort: named, ...templateArguments } = body.chat_template_kwargs ?? {};
  const wanted = v.safeParse(maybe(efforts), named);
  if (!wanted.success) {
    throw badField("chat_template_kwargs.reasoning_effort", efforts.options.join(", "), describe(named));
  }
  if (!chat.reads("reasoning_effort")) {
    if (body.reasoning_effort) throw noEffort("reasoning_effort", chat);
    if (wanted.output) throw noEffort("chat_template_kwargs.reasoning_effort", chat);
  }
  const thinking = templateArguments.enable_thinking ?? undefined;
  if (thinking !== undefined && typeof thinking !== "boolean") {
    throw badField("chat_template_kwargs.enable_thinking", "true or false", describe(thinking));
  }
  return {
    reasoningEffort: body.reasoning_effort ?? wanted.output ?? state.settings.reasoningEffort,
    templateArguments,
  };
}

function noEffort(param: string, chat: ChatFormat): HttpError {
  const fix = chat.reads("enable_thinking")
    ? "Turn thinking on or off with chat_template_kwargs.enable_thinking."
    : "Leave it out.";
  return unsupportedField(param, "a reasoning effort", `This model's chat format has none. ${fix}`);
}

function checkTools(body: ChatFields): void {
  const choice = body.tool_choice ?? undefined;
  const offered = (body.tools?.length ?? 0) > 0;
  if (offered && choice !== "none") {
    throw unsupportedField("tools", "tool calling", 'Leave tools out, or set tool_choice to "none".');
  }
  if (!offered && choice !== undefined && choice !== "none" && choice !== "auto") {
    throw unsupportedField("tool_choice", "tool calling", "Leave it out.");
  }
}

/** Name of the parser when the request asks for the reasoning object; throws 400 where the model has none. */
function checkReasoning(body: ChatFields, { chat }: ServedModel): string | undefined {
  const asked = body.psionic_reasoning;
  if (!asked) return undefined;
  const parser = chat.capabilities.reasoning ? reasoningParserName(chat.name) : undefined;
  if (parser === undefined) {
    throw unsupportedField("psionic_reasoning", "separate reasoning", "This model has no reasoning parser.");
  }
  if (asked.parser && asked.parser !== parser) {
    throw badField("psionic_reasoning.parser", parser, "the name of another parser");
  }
  return parser;
}

function reasoningParserName(format: string): string {
  return format === "harmony" ? "gpt_oss_harmony" : format;
}

/** As llama.cpp's server marks reasoning that it leaves in the content. */
function reasoningMarks(format: string): ReasoningMarks {
  if (format === "harmony") return { open: "<|channel|>analysis<|message|>", close: "<|end|>" };
  return { open: "<think>", close: "</think>" };
}
