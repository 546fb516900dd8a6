import * as v from "valibot";
import type { Steps } from "../../../core/steps.ts";
import type { GenerationPlan } from "../../generation.ts";
import type { TokenIds } from "../../protocol.ts";
import { textParser } from "../../text_parser.ts";
import { answerFrame } from "../answer_frame.ts";
import { describe, readJson, validate } from "../body.ts";
import { type CompletionPrompt, completionAnswer } from "../completion_answer.ts";
import { type Constrain, constrainText } from "../constrain.ts";
import type { Route, RouteContext } from "../context.ts";
import { badField } from "../errors.ts";
import { ignoredHeaders, sortFields } from "../fields.ts";
import type { RequestLimits, ServedModel } from "../options.ts";
import { encodePrompt } from "../prompt_length.ts";
import { respond } from "../respond.ts";
import { engineRequest, expectPrompt, stopStringsOf } from "../sampling.ts";
import { bodySchema, flag, generationEntries, integer, maybe } from "../schema.ts";
import { structuredHeaders, structuredOutput } from "../structured.ts";
import { readTokens } from "./tokenize.ts";

function completionEntries(limits: RequestLimits) {
  return {
    ...generationEntries(limits),
    prompt: v.optional(v.unknown()),
    echo: maybe(flag),
    logprobs: maybe(integer(0, limits.topLogprobs)),
    /** llama.cpp's name for max_tokens. */
    n_predict: maybe(integer(-1, 2 ** 31 - 1)),
    /** Control tokens written out in a prompt become those tokens. */
    parse_special: maybe(flag),
  };
}

const bodyFields = bodySchema(completionEntries);

type CompletionFields = v.InferOutput<v.ObjectSchema<ReturnType<typeof completionEntries>, undefined>>;

export const completions: Route = {
  method: "POST",
  path: "/completions",
  generates: true,
  handle: async (context) => {
    const { state, record, inSteps } = context;
    const { limits } = state.settings;
    const raw = await readJson(context, "prompt");
    const { entries, schema } = bodyFields(limits);
    const body = validate(schema, raw);
    const { model, name } = await context.take(body.model);
    const { info } = model.engine;
    const prompts = await inSteps(readPrompts(body, model, limits));
    expectPrompt(context, model, body, prompts[0]!.tokens);
    const ignored = sortFields(raw as object, entries);
    record.ignored = ignored.length;
    const n = body.n ?? 1;
    const output = structuredOutput(body);
    const constrain = await constrainText(context, model, output);
    return respond(context, {
      model,
      plans: prompts.map((prompt) =>
        completionPlan(context, model, body, { prompt: prompt.tokens, constrain }),
      ),
      stream: body.stream ?? false,
      headers: { ...ignoredHeaders(ignored), ...structuredHeaders(output) },
      shape: completionAnswer({
        ...answerFrame(state, info, "cmpl"),
        model: name,
        tokenizer: model.tokenizer,
        prompts,
        n,
        echo: body.echo ?? false,
        logprobs: typeof body.logprobs === "number",
        includeUsage: body.stream_options?.include_usage ?? false,
      }),
    });
  },
};

function completionPlan(
  context: RouteContext,
  model: ServedModel,
  body: CompletionFields,
  { prompt, constrain }: { readonly prompt: TokenIds; readonly constrain: Constrain | undefined },
): GenerationPlan {
  const maxTokens = body.max_tokens ?? body.n_predict;
  if (typeof body.max_tokens !== "number") context.record.limitField = "n_predict";
  const logprobs = body.logprobs ?? undefined;
  const { tokenizer } = model;
  const request = engineRequest(context, body, { tokenizer, formatStops: [], maxTokens });
  const constraint = constrain?.(request.stopTokens);
  return {
    stops: stopStringsOf(body),
    parser: () => textParser(tokenizer),
    request: {
      prompt,
      ...request,
      ...(constraint ? { constraint } : {}),
      ...(logprobs === undefined ? {} : { topLogprobs: logprobs }),
      ...(body.echo && logprobs !== undefined ? { promptLogprobs: true } : {}),
    },
  };
}

const promptForms = "a string, an array of token ids, or an array of these";

/** The prompts as token ids: text, ids, or lists of either. */
function* readPrompts(
  body: CompletionFields,
  model: ServedModel,
  limits: RequestLimits,
): Steps<CompletionPrompt[]> {
  const { prompt } = body;
  if (prompt === undefined || prompt === null) throw badField("prompt", promptForms, "nothing");
  const single =
    typeof prompt === "string" ||
    prompt instanceof Int32Array ||
    (Array.isArray(prompt) && typeof prompt[0] === "number");
  const list: unknown[] = single ? [prompt] : Array.isArray(prompt) ? prompt : [];
  if (list.length === 0) throw badField("prompt", promptForms, describe(prompt));
  if (list.length > limits.prompts)
    throw badField("prompt", `at most ${limits.prompts} prompts`, String(list.length));
  const prompts: CompletionPrompt[] = [];
  for (const [i, one] of list.entries()) {
    prompts.push(yield* readPrompt(one, single ? "prompt" : `prompt[${i}]`, body, model));
    yield;
  }
  return prompts;
}

function* readPrompt(
  prompt: unknown,
  param: string,
  body: CompletionFields,
  model: ServedModel,
): Steps<CompletionPrompt> {
  const { tokenizer } = model;
  if (typeof prompt === "string") {
    const special = body.parse_special ?? false;
    const tokens = yield* encodePrompt(model, prompt, { special, bos: false, eos: false });
    const { addBos, bos } = tokenizer;
    if (addBos && bos !== undefined && tokens[0] !== bos) return { tokens: [bos, ...tokens], added: 1 };
    if (tokens.length > 0) return { tokens, added: 0 };
    // An empty prompt asks for text from nothing; models begin that with BOS.
    if (tokenizer.bos !== undefined) return { tokens: [tokenizer.bos], added: 1 };
    throw badField(param, "a prompt of at least one token", "an empty string");
  }
  const isList = Array.isArray(prompt) || prompt instanceof Int32Array;
  if (!isList || prompt.length === 0) throw badField(param, promptForms, describe(prompt));
  return { tokens: readTokens(prompt, tokenizer.vocabularySize, param), added: 0 };
}
