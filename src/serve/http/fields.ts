import { describe, printable } from "./body.ts";
import { unsupportedField } from "./errors.ts";

/** Fields that change nothing about the answer; accepted and not acted upon. */
export const neutralFields: ReadonlySet<string> = new Set([
  "user",
  "metadata",
  "store",
  "prompt_cache_key",
  "prompt_cache_retention",
  "service_tier",
  "safety_identifier",
  // Says how to answer faster, not what.
  "prediction",
  "id_slot",
  "timings_per_token",
  "return_progress",
  "priority",
  "request_id",
  "client_metadata",
  // The context is never shifted, so there is nothing to keep or discard.
  "n_keep",
  "n_discard",
]);

type Refused = {
  /** An empty object asks for the thing with its defaults. */
  readonly emptyCounts?: true;
  /** Values that ask for nothing, beyond absent, null, false, 0, "" and empty lists and objects. */
  readonly harmless?: (value: unknown) => boolean;
  readonly what: string;
  readonly fix: string;
};

const drop = "Leave the field out";
const later = "Ask for it in the prompt instead, or leave the field out";
const textOnly = (value: unknown): boolean =>
  Array.isArray(value) && value.every((entry) => entry === "text");

/** Fields that would change the answer and have no implementation: refused by name unless they ask for nothing. */
export const refusedFields: ReadonlyMap<string, Refused> = new Map<string, Refused>([
  ["functions", { what: "function calling", fix: drop }],
  [
    "function_call",
    { what: "function calling", fix: drop, harmless: (value) => value === "none" || value === "auto" },
  ],
  ["audio", { what: "audio output", fix: drop }],
  ["modalities", { what: "output other than text", fix: drop, harmless: textOnly }],
  ["web_search_options", { what: "web search", fix: drop, emptyCounts: true }],
  ["suffix", { what: "text after the completion", fix: drop }],
  [
    "best_of",
    { what: "choosing the best of several completions", fix: "Use n", harmless: (value) => value === 1 },
  ],
  ["verbosity", { what: "verbosity", fix: later, harmless: (value) => value === "medium" }],
  ["mirostat", { what: "mirostat", fix: "Use temperature, top_p or min_p" }],
  ["mirostat_tau", { what: "mirostat", fix: drop }],
  ["mirostat_eta", { what: "mirostat", fix: drop }],
  ["dynatemp_range", { what: "a dynamic temperature", fix: "Use temperature" }],
  ["dynatemp_exponent", { what: "a dynamic temperature", fix: drop, harmless: (value) => value === 1 }],
  ["top_n_sigma", { what: "top_n_sigma", fix: "Use min_p", harmless: (value) => value === -1 }],
  ["samplers", { what: "another order of samplers", fix: drop }],
  ["n_probs", { what: "n_probs", fix: "Use logprobs" }],
  ["min_tokens", { what: "a least number of tokens", fix: drop }],
  ["length_penalty", { what: "beam search", fix: drop, harmless: (value) => value === 1 }],
  ["use_beam_search", { what: "beam search", fix: drop }],
  ["bad_words", { what: "bad_words", fix: "Use logit_bias" }],
  ["lora", { what: "adapters by number", fix: "Name one in model, as <model>:<adapter>" }],
  ["chat_template", { what: "another chat template", fix: "Render it yourself and use /v1/completions" }],
  ["documents", { what: "documents", fix: "Put them into a message" }],
  ["continue_final_message", { what: "continuing the last message", fix: "Use /v1/completions" }],
  [
    "add_generation_prompt",
    { what: "leaving out the start of the answer", fix: drop, harmless: (value) => value === true },
  ],
  ["include_stop_str_in_output", { what: "a stop string in the output", fix: drop }],
  ["truncate_prompt_tokens", { what: "cutting the prompt", fix: "Shorten it before sending" }],
  ["image_data", { what: "image input", fix: drop }],
  ["logits_processors", { what: "logits processors", fix: "Use logit_bias" }],
]);

function asksForNothing(value: unknown, emptyCounts = false): boolean {
  if (value === null || value === undefined || value === false || value === 0 || value === "") return true;
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === "object" && !emptyCounts && Object.keys(value).length === 0;
}

/**
 * Goes over all names of a body: refuses what would change the answer, passes over what is neutral, and gives the names
 * nobody here knows. `reads`: whether the chat format has a use for a variable of `chat_template_kwargs`.
 */
export function sortFields(
  body: object,
  known: Readonly<Record<string, unknown>>,
  reads: (variable: string) => boolean = () => false,
): string[] {
  const unknown = unknownMembers(body, known, reads);
  for (const [name, value] of Object.entries(body)) {
    if (Object.hasOwn(known, name) || neutralFields.has(name)) continue;
    const refused = refusedFields.get(name);
    if (!refused) {
      unknown.push(name);
      continue;
    }
    if (asksForNothing(value, refused.emptyCounts) || refused.harmless?.(value)) continue;
    throw unsupportedField(name, refused.what, `${refused.fix}; the value was ${describe(value)}.`);
  }
  return unknown;
}

/** Members of the object fields; `include_obfuscation` only pads chunks. */
const knownMembers: Readonly<Record<string, readonly string[]>> = {
  stream_options: ["include_usage", "include_obfuscation"],
  psionic_prefix_cache: ["mode", "tenant_id"],
  psionic_reasoning: ["parser", "mode"],
  chat_template_kwargs: [],
  reasoning: ["effort", "summary", "generate_summary"],
  text: ["format", "verbosity"],
  thinking: ["type", "budget_tokens", "display"],
  output_config: ["effort", "format"],
  tool_choice: ["type", "name", "function", "disable_parallel_tool_use", "allowed_tools", "mode", "tools"],
  // one of these is the form, the others say what it is called
  response_format: ["type", "json_schema", "schema", "name", "strict", "value", "pattern", "grammar"],
  psionic_response_state: ["store", "continuation", "invalidate_references"],
};

/** Names inside object fields that nobody here knows, as `stream_options.name`. */
function unknownMembers(
  body: object,
  fields: Readonly<Record<string, unknown>>,
  reads: (variable: string) => boolean,
): string[] {
  return Object.entries(knownMembers).flatMap(([field, known]) => {
    const taken = Object.hasOwn(fields, field) && Object.hasOwn(body, field);
    const value: unknown = taken ? (body as Record<string, unknown>)[field] : undefined;
    if (typeof value !== "object" || value === null) return [];
    const variables = field === "chat_template_kwargs";
    return Object.keys(value)
      .filter((name) => !(variables ? reads(name) : known.includes(name)))
      .map((name) => `${field}.${name}`);
  });
}

const maxNamed = 32;

/** `x-psionic-ignored`, where there is something to name. */
export function ignoredHeaders(names: readonly string[]): Readonly<Record<string, string>> {
  if (names.length === 0) return {};
  const shown = names.slice(0, maxNamed).map((name) => printable(name).replaceAll(",", "?"));
  if (names.length > maxNamed) shown.push("...");
  return { "x-psionic-ignored": shown.join(", ") };
}
