import { answerFrame } from "../answer_frame.ts";
import { anthropicAnswer } from "../anthropic/answer.ts";
import { anthropicError } from "../anthropic/errors.ts";
import { readAnthropic } from "../anthropic/input.ts";
import {
  type AnthropicFields,
  anthropicChoice,
  anthropicEntries,
  refuseUnserved,
} from "../anthropic/request.ts";
import { readJson, validate } from "../body.ts";
import type { Route, RouteContext } from "../context.ts";
import { type PlannedAnswer, planAnswer } from "../conversation.ts";
import { badField, json } from "../errors.ts";
import { ignoredHeaders, sortFields } from "../fields.ts";
import { truthHeaders } from "../headers.ts";
import type { ServedModel } from "../options.ts";
import { budgetOf } from "../reasoning.ts";
import { respond } from "../respond.ts";
import { bodySchema } from "../schema.ts";
import { responseFormat, structuredHeaders } from "../structured.ts";
import { anthropicTools, readTools, toolUse } from "../tools.ts";

type Request = {
  readonly model: ServedModel;
  readonly body: AnthropicFields;
  /** As the request spells the model. */
  readonly name: string;
  readonly planned: PlannedAnswer;
  readonly ignored: readonly string[];
};

const bodyFields = bodySchema((limits) => anthropicEntries(limits, false));
const countedFields = bodySchema((limits) => anthropicEntries(limits, true));

async function readRequest(context: RouteContext, counted: boolean): Promise<Request> {
  const { state, record } = context;
  const { limits } = state.settings;
  const raw = (await readJson(context)) as object;
  const { entries, schema } = (counted ? countedFields : bodyFields)(limits);
  const body = validate(schema, raw);
  const unknown = sortFields(raw, entries);
  refuseUnserved(body, raw);
  if (!counted && body.messages.at(-1)?.role === "assistant") {
    const fix = "An answer cannot be continued; leave its beginning out";
    throw badField(
      `messages[${body.messages.length - 1}].role`,
      "user or system at the end",
      "assistant",
      fix,
    );
  }
  const { model, name } = await context.take(body.model);
  const offered = readTools(body.tools, anthropicTools);
  const parallel = body.tool_choice?.disable_parallel_tool_use !== true;
  const use = toolUse(offered, anthropicChoice(body), model, parallel);
  const input = readAnthropic(body, limits, model.chat);
  const fields = { ...body, stop: body.stop_sequences, max_tokens: undefined };
  const planned = await planAnswer(context, model, fields, {
    messages: input.messages,
    use,
    effort: body.output_config?.effort ?? undefined,
    effortField: "output_config.effort",
    budget: budgetOf(body),
    strict: false,
    counted,
    maxTokens: undefined,
    output:
      responseFormat(body.output_config?.format, "output_config.format") ??
      responseFormat(body.output_format, "output_format"),
  });
  const ignored = [...unknown, ...offered.ignored, ...input.ignored, ...planned.ignored];
  record.ignored = ignored.length;
  return { model, body, name, planned: { ...planned, plan: limited(planned.plan, model, body) }, ignored };
}

/**
 * Clients ask for the most tokens a model could write, without knowing how many the prompt leaves: an answer that
 * reaches the end of the context says so in its stop reason.
 */
function limited(
  plan: PlannedAnswer["plan"],
  { engine }: ServedModel,
  body: AnthropicFields,
): PlannedAnswer["plan"] {
  const left = engine.info.contextLength - plan.request.prompt.length;
  const asked = body.max_tokens ?? undefined;
  if (asked === undefined || asked > left) return plan;
  return { ...plan, request: { ...plan.request, maxTokens: asked } };
}

function shownThinking({ thinking }: AnthropicFields): "shown" | "omitted" | "hidden" {
  if (!thinking || thinking.type === "disabled") return "hidden";
  return thinking.display === "omitted" ? "omitted" : "shown";
}

export const messages: Route = {
  method: "POST",
  path: "/messages",
  generates: true,
  errorBody: anthropicError,
  handle: async (context) => {
    const { state, record } = context;
    const { model, body, name, planned, ignored } = await readRequest(context, false);
    return respond(context, {
      model,
      plans: [planned.plan],
      stream: body.stream ?? false,
      headers: { ...ignoredHeaders(ignored), ...structuredHeaders(planned.output) },
      shape: anthropicAnswer({
        ...answerFrame(state, model.engine.info, "msg"),
        model: name,
        promptTokens: planned.plan.request.prompt.length,
        thinking: shownThinking(body),
        requestId: record.id,
      }),
    });
  },
};

/** How many tokens the prompt of a request has, without answering it. */
export const countTokens: Route = {
  method: "POST",
  path: "/messages/count_tokens",
  errorBody: anthropicError,
  handle: async (context) => {
    const { model, planned, ignored } = await readRequest(context, true);
    const headers = { ...truthHeaders(model.engine.info), ...ignoredHeaders(ignored) };
    return json({ input_tokens: planned.plan.request.prompt.length }, 200, headers);
  },
};
