import { answerFrame } from "../answer_frame.ts";
import { readJson, validate } from "../body.ts";
import type { Route, RouteContext } from "../context.ts";
import { type PlannedAnswer, planAnswer } from "../conversation.ts";
import { json } from "../errors.ts";
import { ignoredHeaders, sortFields } from "../fields.ts";
import { truthHeaders } from "../headers.ts";
import { modelFacts } from "../model_card.ts";
import type { ServedModel } from "../options.ts";
import { budgetOf } from "../reasoning.ts";
import { respond } from "../respond.ts";
import { responseAnswer } from "../responses/answer.ts";
import { type Continued, continueConversation } from "../responses/conversation.ts";
import { responseHead } from "../responses/head.ts";
import { type ResponseFields, refuseUnserved, responseEntries, unusedParts } from "../responses/request.ts";
import { bodySchema } from "../schema.ts";
import { responseFormat, structuredHeaders } from "../structured.ts";
import { type OfferedTools, readToolChoice, readTools, responseTools, toolUse } from "../tools.ts";

type Request = {
  readonly model: ServedModel;
  readonly body: ResponseFields;
  /** As the request spells the model. */
  readonly name: string;
  readonly id: string;
  readonly continued: Continued;
  readonly planned: PlannedAnswer;
  readonly grouped: OfferedTools["grouped"];
  readonly ignored: readonly string[];
};

const bodyFields = bodySchema(responseEntries);

/** Everything up to the generation; nothing is kept yet. */
async function readRequest(context: RouteContext, counted: boolean): Promise<Request> {
  const { state, record } = context;
  record.limitField = "max_output_tokens";
  const { limits } = state.settings;
  const raw = await readJson(context);
  const { entries, schema } = bodyFields(limits);
  const body = validate(schema, raw);
  const unknown = sortFields(raw as object, entries);
  refuseUnserved(body);
  const { model, name } = await context.take(body.model);
  const { info } = model.engine;
  const id = state.nextId("resp");
  const offered = readTools(body.tools, responseTools);
  const use = toolUse(offered, readToolChoice(body.tool_choice), model, body.parallel_tool_calls);
  const continued = continueConversation(context, body, id, modelFacts(info).name, model.chat);
  const planned = await planAnswer(context, model, body, {
    messages: continued.prompt,
    use,
    effort: body.reasoning?.effort ?? body.reasoning_effort ?? undefined,
    effortField: body.reasoning?.effort ? "reasoning.effort" : "reasoning_effort",
    budget: budgetOf(body),
    strict: false,
    // a stream tells of a prompt that does not fit itself, with its length
    counted: counted || body.stream === true,
    maxTokens: body.max_output_tokens,
    output: responseFormat(body.text?.format, "text.format"),
    topLogprobs: wantsLogprobs(body) ? (body.top_logprobs ?? 0) : undefined,
  });
  const ignored = [
    ...unknown,
    ...unusedParts(body),
    ...offered.ignored,
    ...continued.input.ignored,
    ...planned.ignored,
  ];
  record.ignored = ignored.length;
  return { model, body, name, id, continued, planned, grouped: offered.grouped, ignored };
}

function wantsLogprobs(body: ResponseFields): boolean {
  return (body.include ?? []).includes("message.output_text.logprobs") || (body.top_logprobs ?? 0) > 0;
}

export const responses: Route = {
  method: "POST",
  path: "/responses",
  generates: true,
  handle: async (context) => {
    const read = await readRequest(context, false);
    const { state, keyIndex } = context;
    const { model, body, id, continued, planned } = read;
    const { info } = model.engine;
    const store = body.psionic_response_state?.store ?? body.store ?? true;
    if (body.psionic_response_state?.invalidate_references && continued.previous) {
      state.responses.invalidate(continued.conversation, keyIndex);
    }
    const cancelling = new AbortController();
    const shape = responseAnswer({
      ...answerFrame(state, info, "resp"),
      id,
      head: responseHead(state, read, store),
      tokenizer: model.tokenizer,
      logprobs: planned.plan.request.topLogprobs !== undefined,
      grouped: read.grouped,
      showReasoning: body.psionic_reasoning?.mode !== "suppress",
      sealed: (body.include ?? []).includes("reasoning.encrypted_content"),
      cancel: cancelling.signal,
      onEnd: (resource, messages) => {
        if (!store) return;
        state.responses.put({
          id,
          owner: keyIndex,
          conversation: continued.conversation,
          model: modelFacts(info).name,
          instructions: continued.instructions,
          resource,
          inputItems: continued.input.items,
          messages: [...(continued.previous?.messages ?? []), ...continued.input.messages, ...messages],
        });
      },
      onClosed: () => state.responses.end(id),
    });
    state.responses.begin(id, {
      owner: keyIndex,
      resource: shape.resource,
      inputItems: continued.input.items,
      cancel: () => cancelling.abort(new DOMException("The response was cancelled.", "AbortError")),
    });
    return respond(context, {
      model,
      plans: [planned.plan],
      stream: body.stream ?? false,
      headers: { ...ignoredHeaders(read.ignored), ...structuredHeaders(planned.output) },
      shape,
      cancel: cancelling.signal,
    });
  },
};

/** How many tokens the prompt of a request has, without answering it. */
export const inputTokens: Route = {
  method: "POST",
  path: "/responses/input_tokens",
  handle: async (context) => {
    const { model, planned, ignored } = await readRequest(context, true);
    const count = planned.plan.request.prompt.length;
    const headers = { ...truthHeaders(model.engine.info), ...ignoredHeaders(ignored) };
    return json({ object: "response.input_tokens", input_tokens: count }, 200, headers);
  },
};
