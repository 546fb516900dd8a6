import * as v from "valibot";
import { badField, unsupportedField } from "../errors.ts";
import type { RequestLimits } from "../options.ts";
import { budgetEntries, efforts } from "../reasoning.ts";
import { flag, generationEntries, integer, maybe, oneOf, text } from "../schema.ts";

const id = v.pipe(text, v.minLength(1, "an id"), v.maxLength(256, "an id of at most 256 characters"));

/** Fields of POST /v1/responses beside those that all generating routes share. */
export function responseEntries(limits: RequestLimits) {
  const { n: _, max_tokens: __, ...generation } = generationEntries(limits);
  return {
    ...generation,
    input: v.optional(v.unknown()),
    instructions: maybe(text),
    previous_response_id: maybe(id),
    conversation: maybe(
      v.lazy(
        (input) =>
          (typeof input === "string" ? id : v.object({ id }, "an id or an object")) as v.GenericSchema<
            string | { readonly id: string }
          >,
      ),
    ),
    max_output_tokens: maybe(integer(1, 2 ** 31 - 1)),
    max_tool_calls: maybe(integer(1, 2 ** 31 - 1)),
    top_logprobs: maybe(integer(0, limits.topLogprobs)),
    reasoning: maybe(
      v.object({ effort: maybe(efforts), summary: maybe(text), generate_summary: maybe(text) }, "an object"),
    ),
    reasoning_effort: maybe(efforts),
    ...budgetEntries,
    text: maybe(v.object({ format: v.optional(v.unknown()), verbosity: maybe(text) }, "an object")),
    tools: maybe(v.array(v.unknown(), "an array of tools")),
    tool_choice: v.optional(v.unknown()),
    parallel_tool_calls: maybe(flag),
    include: maybe(v.array(text, "an array of strings")),
    store: maybe(flag),
    background: maybe(flag),
    truncation: maybe(oneOf("auto", "disabled")),
    metadata: maybe(
      v.pipe(v.record(text, text, "an object of strings"), v.maxEntries(16, "at most 16 entries")),
    ),
    prompt_cache_key: maybe(text),
    safety_identifier: maybe(text),
    service_tier: maybe(text),
    user: maybe(text),
    prompt: v.optional(v.unknown()),
    psionic_reasoning: maybe(
      v.object({ parser: maybe(text), mode: maybe(oneOf("separate", "suppress")) }, "an object"),
    ),
    psionic_response_state: maybe(
      v.object(
        {
          store: maybe(flag),
          continuation: maybe(oneOf("append_turn", "continue_last_assistant")),
          invalidate_references: maybe(flag),
        },
        "an object",
      ),
    ),
  };
}

export type ResponseFields = v.InferOutput<v.ObjectSchema<ReturnType<typeof responseEntries>, undefined>>;

/** Throws 400 for fields that would change the answer and are not served. */
export function refuseUnserved(body: ResponseFields): void {
  if (body.background) throw unsupportedField("background", "an answer in the background", "Use stream.");
  if (body.prompt !== undefined && body.prompt !== null) {
    throw unsupportedField("prompt", "a stored prompt template", "Send instructions and input.");
  }
  if (body.psionic_response_state?.continuation === "continue_last_assistant") {
    const param = "psionic_response_state.continuation";
    throw unsupportedField(param, "continuing the last message", "Use append_turn.");
  }
  if (body.conversation && body.previous_response_id) {
    throw badField("conversation", "not to stand beside previous_response_id", "both");
  }
  const verbosity = body.text?.verbosity ?? "medium";
  if (verbosity !== "medium") {
    throw unsupportedField("text.verbosity", "verbosity", "Ask for it in the instructions, or leave it out.");
  }
}

const included = ["reasoning.encrypted_content", "message.output_text.logprobs"];

/** Parts of accepted fields that change nothing here. */
export function unusedParts(body: ResponseFields): string[] {
  const parts = (body.include ?? [])
    .filter((name) => !included.includes(name))
    .map((name) => `include.${name}`);
  // The reasoning itself is in the answer; there is no second, shorter account of it.
  if (body.reasoning?.summary) parts.push("reasoning.summary");
  if (body.reasoning?.generate_summary) parts.push("reasoning.generate_summary");
  if (body.truncation === "auto") parts.push("truncation");
  if (body.max_tool_calls) parts.push("max_tool_calls");
  return parts;
}
