import * as v from "valibot";
import type { ChatOptions } from "../../../models/chat/index.ts";
import type { GenerationPlan } from "../../generation.ts";
import { inlineReasoning, type ReasoningMarks } from "../../inline_reasoning.ts";
import { describe, readJson, validate } from "../body.ts";
import { chatAnswer } from "../chat_answer.ts";
import type { Route, RouteContext } from "../context.ts";
import { debugFields } from "../debug_fields.ts";
import { badField, unsupportedField } from "../errors.ts";
import { ignoredHeader, sortFields } from "../fields.ts";
import { messagesSchema, readMessages } from "../messages.ts";
import { resolveModel } from "../model_card.ts";
import type { RequestLimits, ServedModel } from "../options.ts";
import { respond } from "../respond.ts";
import { prefixCacheOf, samplingOf, stopStringsOf, stopTokensOf } from "../sampling.ts";
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
    const ignored = sortFields(raw as object, entries, model.chat.name === "template");
    record.ignored = ignored.length;
    checkTools(body);
    const { info } = model.engine;
    const name = resolveModel(info, body.model);
    const reasoningParser = checkReasoning(body, model);
    const plan = chatPlan(context, model, body);
    const { debugFields: debug } = state.settings;
    return respond(context, {
      model,
      plans: [plan],
      stream: body.stream ?? false,
      headers: ignored.length > 0 ? { "x-psionic-ignored": ignoredHeader(ignored) } : {},
      shape: chatAnswer({
        id: state.nextId("chatcmpl"),
        model: name,
        fingerprint: `psionic-${info.planDigest.replace(/^.*:/, "").slice(0, 16)}`,
        choices: plan.request.choices,
        tokenizer: model.tokenizer,
        logprobs: body.logprobs ?? false,
        includeUsage: body.stream_options?.include_usage ?? false,
        showReasoning: body.psionic_reasoning?.mode !== "suppress",
        ...(reasoningParser === undefined ? {} : { reasoningParser }),
        ...(debug ? { debug: (summary, causes) => debugFields(summary, causes, info.contextLength) } : {}),
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
  const { stopTokens, logitBias } = stopTokensOf(body, tokenizer, chat.stopTokens);
  const sampling = samplingOf(body, tokenizer, limits);
  const asked = body.max_completion_tokens ?? body.max_tokens;
  const inline = body.reasoning_format === "none";
  const options = chatOptions(context, body);
  return {
    stops: stopStringsOf(body),
    parser: () =>
      inline ? inlineReasoning(chat.parser(options), reasoningMarks(chat.name)) : chat.parser(options),
    request: {
      prompt: chat.prompt(messages, options),
      ...(asked === null || asked === undefined || asked < 0 ? {} : { maxTokens: asked }),
      sampling:
        logitBias.length === 0
          ? sampling
          : { ...sampling, logitBias: [...(sampling.logitBias ?? []), ...logitBias] },
      stopTokens,
      choices: body.n ?? 1,
      client: context.client,
      ...(body.logprobs ? { topLogprobs: body.top_logprobs ?? 0 } : {}),
      ...prefixCacheOf(body, context.keyIndex),
    },
  };
}

function chatOptions({ state }: RouteContext, body: ChatFields): ChatOptions {
  const { reasoning_effort: named, ...templateArguments } = body.chat_template_kwargs ?? {};
  const wanted = v.safeParse(maybe(efforts), named);
  if (!wanted.success) {
    throw badField("chat_template_kwargs.reasoning_effort", efforts.options.join(", "), describe(named));
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
