import * as v from "valibot";
import type { Steps } from "../../../core/steps.ts";
import type { TokenIds } from "../../protocol.ts";
import { describe, readJson, validate } from "../body.ts";
import type { Route } from "../context.ts";
import { badField, HttpError, jsonText } from "../errors.ts";
import { ignoredHeaders, sortFields } from "../fields.ts";
import { listJson, streamOf } from "../long_json.ts";
import type { RequestLimits, ServedModel } from "../options.ts";
import { encodePrompt } from "../prompt_length.ts";
import { flag, integer, maybe, oneOf, text } from "../schema.ts";
import { embedAll, numbersOf, usageOf } from "../vectors.ts";
import { readTokens } from "./tokenize.ts";

const entries = {
  model: maybe(text),
  input: v.optional(v.unknown()),
  encoding_format: maybe(oneOf("float", "base64")),
  dimensions: maybe(integer(1, 2 ** 31 - 1)),
  /** Control tokens written out in a text become those tokens. */
  parse_special: maybe(flag),
};

/** `{input, encoding_format?, dimensions?}` to one vector of length 1 for each input, as OpenAI's API has it. */
export const embeddings: Route = {
  method: "POST",
  path: "/embeddings",
  handle: async (context) => {
    const { state, record, inSteps } = context;
    const { limits } = state.settings;
    const raw = await readJson(context);
    const body = validate(v.object(entries), raw);
    const ignored = sortFields(raw as object, entries);
    record.ignored = ignored.length;
    const { model, name } = await context.take(body.model);
    checkModel(model);
    const dimensions = dimensionsOf(body.dimensions, model);
    const inputs = await inSteps(readInputs(body.input, body.parse_special ?? false, model, limits));
    const { vectors, headers } = await embedAll(context, model, inputs, "input");
    function* data() {
      for (const [index, whole] of vectors.base64.entries()) {
        const base64 = dimensions === undefined ? whole : shortened(whole, dimensions);
        const embedding = body.encoding_format === "base64" ? base64 : numbersOf(base64);
        yield [{ object: "embedding", index, embedding }];
      }
    }
    const usage = usageOf(vectors);
    const text = await inSteps(listJson({ object: "list" }, "data", data(), { model: name, usage }));
    return jsonText(streamOf(text), 200, { ...headers, ...ignoredHeaders(ignored) });
  },
};

/** A reranker's vector is a score, and some engines make none. */
function checkModel({ engine }: ServedModel): void {
  const { embedding } = engine.info;
  if (embedding && embedding.pooling !== "rank") return;
  const message = embedding
    ? "This model is a reranker: it gives scores and no embeddings. Use /v1/rerank."
    : "This model lacks embeddings support.";
  throw new HttpError(400, message, { code: "unsupported_capability", param: "model" });
}

function dimensionsOf(asked: number | null | undefined, { engine }: ServedModel): number | undefined {
  const most = engine.info.embedding?.dimensions ?? 0;
  if (asked === null || asked === undefined || asked === most) return undefined;
  if (asked <= most) return asked;
  throw badField("dimensions", `1 to ${most}, the width of this model`, String(asked));
}

/** The first numbers of a vector, brought to length 1 again. */
function shortened(base64: string, dimensions: number): string {
  const kept = numbersOf(base64).slice(0, dimensions);
  const norm = Math.sqrt(kept.reduce((sum, x) => sum + x * x, 0));
  const scaled = Float32Array.from(kept, (x) => (norm > 0 ? x / norm : 0));
  return Buffer.from(scaled.buffer).toString("base64");
}

const inputForms = "a string, an array of strings, an array of token ids, or an array of these arrays";

/** The inputs as token ids. */
function* readInputs(
  input: unknown,
  special: boolean,
  model: ServedModel,
  limits: RequestLimits,
): Steps<readonly TokenIds[]> {
  if (input === undefined || input === null) throw badField("input", inputForms, "nothing");
  const single = typeof input === "string" || (Array.isArray(input) && typeof input[0] === "number");
  const list: readonly unknown[] = single ? [input] : Array.isArray(input) ? input : [];
  if (list.length === 0) throw badField("input", inputForms, describe(input));
  if (list.length > limits.inputs)
    throw badField("input", `at most ${limits.inputs} inputs`, String(list.length));
  const inputs: TokenIds[] = [];
  for (const [i, one] of list.entries()) {
    inputs.push(yield* readInput(one, single ? "input" : `input[${i}]`, special, model));
    yield;
  }
  return inputs;
}

function* readInput(input: unknown, param: string, special: boolean, model: ServedModel): Steps<TokenIds> {
  const { tokenizer } = model;
  if (typeof input === "string") {
    const tokens = input === "" ? [] : yield* encodePrompt(model, input, { special });
    if (tokens.length > 0) return tokens;
    throw badField(param, "a text of at least one token", describe(input));
  }
  if (!Array.isArray(input) || input.length === 0) throw badField(param, inputForms, describe(input));
  return readTokens(input, tokenizer.vocabularySize, param);
}
