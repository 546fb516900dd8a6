import * as v from "valibot";
import type { ChatFormat } from "../../../models/chat/index.ts";
import { answerFrame } from "../answer_frame.ts";
import { describe, readJson, validate } from "../body.ts";
import { chatAnswer } from "../chat_answer.ts";
import type { Route, RouteContext } from "../context.ts";
import { noEffort, type PlannedAnswer, planAnswer } from "../conversation.ts";
import { badField, unsupportedField } from "../errors.ts";
import { ignoredHeaders, sortFields } from "../fields.ts";
import { messagesSchema, readMessages, unusedMembers } from "../messages.ts";
import type { RequestLimits, ServedModel } from "../options.ts";
import { reasoningParserName } from "../parser_names.ts";
import { budgetEntries, budgetOf, efforts } from "../reasoning.ts";
import type { RequestRecord } from "../request_log.ts";
import { respond } from "../respond.ts";
import { bodySchema, flag, generationEntries, integer, maybe, oneOf, text } from "../schema.ts";
import { structuredHeaders } from "../structured.ts";
import { chatTools, readToolChoice, readTools, toolUse } from "../tools.ts";

function chatEntries(limits: RequestLimits) {
  return {
    ...generationEntries(limits),
    messages: messagesSchema(limits),
    max_completion_tokens: maybe(integer(-1, 2 ** 31 - 1)),
    logprobs: maybe(flag),
    top_logprobs: maybe(integer(0, limits.topLogprobs)),
    reasoning_effort: maybe(efforts),
    ...budgetEntries,
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

const bodyFields = bodySchema(chatEntries);

type ChatFields = v.InferOutput<v.ObjectSchema<ReturnType<typeof chatEntries>, undefined>>;

export const chatCompletions: Route = {
  method: "POST",
  path: "/chat/completions",
  generates: true,
  handle: async (context) => {
    const { state, record } = context;
    const { limits } = state.settings;
    const raw = await readJson(context);
    const { entries, schema } = bodyFields(limits);
    const body = validate(schema, raw);
    const { model, name } = await context.take(body.model);
    const { chat } = model;
    // an effort that the format does not read is refused further down, with its reason
    const reads = (name: string) => name === "reasoning_effort" || chat.reads(name);
    const ignored = sortFields(raw as object, entries, reads);
    const { info } = model.engine;
    const reasoningParser = checkReasoning(body, model);
    const { plan, ignored: unused, output } = await chatPlan(context, model, body);
    const sent = raw as { readonly messages: readonly object[] };
    ignored.push(...unusedMembers(sent.messages, chat.capabilities.names), ...unused);
    record.ignored = ignored.length;
    return respond(context, {
      model,
      plans: [plan],
      stream: body.stream ?? false,
      headers: { ...ignoredHeaders(ignored), ...structuredHeaders(output) },
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

async function chatPlan(context: RouteContext, model: ServedModel, body: ChatFields): Promise<PlannedAnswer> {
  const { chat } = model;
  const { limits } = context.state.settings;
  if (body.top_logprobs && !body.logprobs) {
    throw badField("top_logprobs", "logprobs to be true when alternatives are asked for", "no logprobs");
  }
  const offered = readTools(body.tools, chatTools);
  const use = toolUse(offered, readToolChoice(body.tool_choice), model, body.parallel_tool_calls);
  const { effort, templateArguments } = templateFields(chat, body);
  const planned = await planAnswer(context, model, body, {
    messages: readMessages(body.messages, limits, chat),
    use,
    effort,
    effortField: "reasoning_effort",
    budget: budgetOf(body),
    strict: true,
    templateArguments,
    maxTokens: longestAnswer(body, context.record),
    topLogprobs: body.logprobs ? (body.top_logprobs ?? 0) : undefined,
    inline: body.reasoning_format === "none",
  });
  return { ...planned, ignored: [...offered.ignored, ...planned.ignored] };
}

/** The limit under its new or its old name. */
function longestAnswer({ max_completion_tokens: named, max_tokens: old }: ChatFields, record: RequestRecord) {
  if (typeof named === "number" && typeof old === "number" && named !== old) {
    const fix = "It is the older name of the same limit; give one of them";
    throw badField("max_tokens", `what max_completion_tokens says, ${named}`, String(old), fix);
  }
  if (typeof named === "number") record.limitField = "max_completion_tokens";
  return named ?? old;
}

/** What `chat_template_kwargs` says beside the fields of its own. */
function templateFields(chat: ChatFormat, body: ChatFields) {
  const { reasoning_effort: named, ...templateArguments } = body.chat_template_kwargs ?? {};
  const wanted = v.safeParse(maybe(efforts), named);
  if (!wanted.success) {
    throw badField("chat_template_kwargs.reasoning_effort", efforts.options.join(", "), describe(named));
  }
  if (wanted.output && !chat.reads("reasoning_effort")) {
    throw noEffort("chat_template_kwargs.reasoning_effort", chat);
  }
  const thinking = templateArguments.enable_thinking ?? undefined;
  if (thinking !== undefined && typeof thinking !== "boolean") {
    throw badField("chat_template_kwargs.enable_thinking", "true or false", describe(thinking));
  }
  return { effort: body.reasoning_effort ?? wanted.output ?? undefined, templateArguments };
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
