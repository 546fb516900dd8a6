import * as v from "valibot";
import { describe } from "../body.ts";
import { badField, unsupportedField } from "../errors.ts";
import type { RequestLimits } from "../options.ts";
import { efforts } from "../reasoning.ts";
import { flag, generationEntries, integer, maybe, oneOf, text } from "../schema.ts";
import type { ToolChoice } from "../tools.ts";

/** Fields of a conversation; what is counted and what is answered have them in common. */
function conversationEntries(limits: RequestLimits) {
  const message = v.object(
    { role: oneOf("user", "assistant", "system"), content: v.optional(v.unknown()) },
    "an object with role and content",
  );
  return {
    messages: v.pipe(
      v.array(message, "an array of messages"),
      v.minLength(1, "at least one message"),
      v.maxLength(limits.messages, `at most ${limits.messages} messages`),
    ),
    system: v.optional(v.unknown()),
    tools: maybe(v.array(v.unknown(), "an array of tools")),
    tool_choice: maybe(
      v.object(
        {
          type: oneOf("auto", "any", "tool", "none"),
          name: maybe(text),
          disable_parallel_tool_use: maybe(flag),
        },
        "an object with a type",
      ),
    ),
    thinking: maybe(
      v.object(
        {
          type: oneOf("enabled", "disabled", "adaptive"),
          budget_tokens: maybe(integer(0, 2 ** 31 - 1)),
          display: maybe(oneOf("summarized", "omitted")),
        },
        "an object with a type",
      ),
    ),
    output_config: maybe(v.object({ effort: maybe(efforts), format: v.optional(v.unknown()) }, "an object")),
  };
}

/** Fields of POST /v1/messages; `counted`: nothing is generated, so no limit is needed. */
export function anthropicEntries(limits: RequestLimits, counted: boolean) {
  const {
    n: _,
    stop: stopStrings,
    stream_options: __,
    max_tokens: ___,
    ...generation
  } = generationEntries(limits);
  const most = integer(1, 2 ** 31 - 1);
  return {
    ...generation,
    ...conversationEntries(limits),
    max_tokens: counted ? maybe(most) : most,
    stop_sequences: stopStrings,
    /** The name of `output_config.format` in the API's beta. */
    output_format: v.optional(v.unknown()),
  };
}

export type AnthropicFields = v.InferOutput<v.ObjectSchema<ReturnType<typeof anthropicEntries>, undefined>>;

/** Throws 400 for fields that would change the answer and are not served. */
export function refuseUnserved(body: AnthropicFields, raw: object): void {
  const { mcp_servers: servers } = raw as { readonly mcp_servers?: unknown };
  if (Array.isArray(servers) && servers.length > 0) {
    throw unsupportedField("mcp_servers", "calling other servers", "Offer their tools in tools.");
  }
  if (typeof body.stop_sequences === "string") {
    throw badField("stop_sequences", "an array of strings", describe(body.stop_sequences));
  }
}

/** The choice in the words of the other APIs. */
export function anthropicChoice(body: AnthropicFields): ToolChoice | undefined {
  const choice = body.tool_choice;
  if (!choice) return undefined;
  if (choice.type === "any") return { kind: "required" };
  if (choice.type !== "tool") return { kind: choice.type };
  if (!choice.name) throw badField("tool_choice.name", "the name of a tool", "nothing");
  return { kind: "named", name: choice.name };
}
