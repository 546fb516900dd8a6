import * as v from "valibot";
import type { StructuredOutput } from "../grammar/index.ts";
import { describe, printable } from "./body.ts";
import { badField, unsupportedField } from "./errors.ts";

export type { StructuredOutput };

/** Fields that ask for structured output, under the names of OpenAI's, vLLM's, llama.cpp's and our own API. */
export const structuredEntries = {
  response_format: v.optional(v.unknown()),
  guided_json: v.optional(v.unknown()),
  guided_regex: v.optional(v.unknown()),
  guided_choice: v.optional(v.unknown()),
  guided_grammar: v.optional(v.unknown()),
  structured_outputs: v.optional(v.unknown()),
  grammar: v.optional(v.unknown()),
  json_schema: v.optional(v.unknown()),
  psionic_grammar: v.optional(v.unknown()),
  psionic_structured_output: v.optional(v.unknown()),
};

type StructuredFields = Readonly<Partial<Record<keyof typeof structuredEntries, unknown>>>;

/** What a request asks of its answer's text; `extra` comes from a field of one API only. Throws 400 where two ask. */
export function structuredOutput(
  body: StructuredFields,
  extra?: StructuredOutput,
): StructuredOutput | undefined {
  const found = [
    responseFormat(body.response_format, "response_format"),
    schemaField(body.guided_json, "guided_json"),
    textField(body.guided_regex, "guided_regex", "regex"),
    choiceField(body.guided_choice, "guided_choice"),
    textField(body.guided_grammar, "guided_grammar", "grammar"),
    structuredOutputs(body.structured_outputs),
    textField(body.grammar, "grammar", "grammar"),
    schemaField(body.json_schema, "json_schema"),
    psionicGrammar(body.psionic_grammar),
    psionicOutput(body.psionic_structured_output),
    extra,
  ].filter((output) => output !== undefined);
  const [first, second] = found;
  if (first && second) throw badField(second.field, `not to stand beside ${first.field}`, "both");
  return first;
}

/** OpenAI's `response_format`, the `text.format` of responses and the `format` of messages. */
export function responseFormat(value: unknown, field: string): StructuredOutput | undefined {
  if (isAbsent(value)) return undefined;
  const format = asObject(value, field);
  const { type, json_schema: nested, schema: flat, name: own } = format;
  switch (type) {
    case undefined:
      if (Object.keys(format).length === 0) return undefined;
      break;
    case "text":
      return undefined;
    case "json_object":
      if (isAbsent(flat)) return { field, kind: "json_object", source: undefined };
      return { field: `${field}.schema`, kind: "json_schema", source: parsed(flat, `${field}.schema`) };
    case "json_schema": {
      if (isAbsent(nested)) {
        const at = `${field}.schema`;
        // a format of chat has it one level deeper
        const nests = field === "response_format" ? `${field}.json_schema` : at;
        if (isAbsent(flat)) throw badField(nests, "a JSON schema", describe(flat));
        return { field: at, kind: "json_schema", source: parsed(flat, at), ...named(own) };
      }
      const { schema, name } = asObject(nested, `${field}.json_schema`);
      const at = `${field}.json_schema.schema`;
      if (isAbsent(schema)) throw badField(at, "a JSON schema", describe(schema));
      return { field: at, kind: "json_schema", source: parsed(schema, at), ...named(name) };
    }
    // as other servers extend it
    case "json": {
      const at = `${field}.value`;
      if (isAbsent(format.value)) throw badField(at, "a JSON schema", describe(format.value));
      return schemaField(format.value, at);
    }
    case "regex":
      return requiredText(format.value ?? format.pattern, `${field}.pattern`, "regex");
    case "grammar":
      return requiredText(format.value ?? format.grammar, `${field}.grammar`, "grammar");
  }
  throw badField(`${field}.type`, "text, json_object or json_schema", describe(type));
}

function structuredOutputs(value: unknown): StructuredOutput | undefined {
  if (isAbsent(value)) return undefined;
  const field = "structured_outputs";
  const all = asObject(value, field);
  const found: StructuredOutput[] = [];
  for (const [key, one] of Object.entries(all)) {
    const at = `${field}.${printable(key)}`;
    if (one === null || one === false) continue;
    if (key === "json") found.push({ field: at, kind: "json_schema", source: parsed(one, at) });
    else if (key === "regex" || key === "grammar") found.push(requiredText(one, at, key));
    else if (key === "choice") found.push(choiceList(one, at));
    else if (key === "json_object") found.push({ field: at, kind: "json_object", source: undefined });
    // what they ask for is so anyway
    else if (!["disable_any_whitespace", "disable_fallback", "disable_additional_properties"].includes(key)) {
      throw unsupportedField(at, "this form of structured output", "Use json, regex, choice or grammar.");
    }
  }
  const [first, second] = found;
  if (first && second) throw badField(second.field, `not to stand beside ${first.field}`, "both");
  return first;
}

function psionicGrammar(value: unknown): StructuredOutput | undefined {
  if (isAbsent(value)) return undefined;
  const { grammar, syntax = "gbnf" } = asObject(value, "psionic_grammar");
  if (syntax !== "gbnf") throw badField("psionic_grammar.syntax", "gbnf", describe(syntax));
  return requiredText(grammar, "psionic_grammar.grammar", "grammar");
}

function psionicOutput(value: unknown): StructuredOutput | undefined {
  if (isAbsent(value)) return undefined;
  const field = "psionic_structured_output";
  const all = asObject(value, field);
  switch (all.kind) {
    case "choice":
      return choiceList(all.values, `${field}.values`);
    case "regex":
      return requiredText(all.pattern, `${field}.pattern`, "regex");
    case "grammar":
      if ((all.syntax ?? "gbnf") !== "gbnf") throw badField(`${field}.syntax`, "gbnf", describe(all.syntax));
      return requiredText(all.grammar, `${field}.grammar`, "grammar");
    case "json_schema":
      if (isAbsent(all.schema)) throw badField(`${field}.schema`, "a JSON schema", describe(all.schema));
      return { field: `${field}.schema`, kind: "json_schema", source: all.schema, ...named(all.name) };
    case "json_object":
      return { field, kind: "json_object", source: undefined };
    case "tagged_structure":
      return { field, kind: "tagged_structure", source: taggedSchema(all, field), ...named(all.name) };
  }
  const kinds = "choice, regex, grammar, json_schema, json_object or tagged_structure";
  throw badField(`${field}.kind`, kinds, describe(all.kind));
}

/** One object schema for each tag, which stands in a property of its own. */
function taggedSchema(all: Readonly<Record<string, unknown>>, field: string): unknown {
  const { discriminator, variants } = all;
  if (typeof discriminator !== "string") {
    throw badField(`${field}.discriminator`, "the name of a property", describe(discriminator));
  }
  if (!Array.isArray(variants) || variants.length === 0) {
    throw badField(`${field}.variants`, "an array of variants", describe(variants));
  }
  return {
    anyOf: variants.map((variant, i) => {
      const at = `${field}.variants[${i}]`;
      const { tag, schema } = asObject(variant, at);
      if (typeof tag !== "string") throw badField(`${at}.tag`, "a string", describe(tag));
      const { properties, required, ...rest } = asObject(schema, `${at}.schema`);
      return {
        ...rest,
        type: "object",
        properties: { [discriminator]: { const: tag }, ...(properties as object | undefined) },
        required: [discriminator, ...(Array.isArray(required) ? required : [])],
      };
    }),
  };
}

function schemaField(value: unknown, field: string): StructuredOutput | undefined {
  if (isAbsent(value)) return undefined;
  return { field, kind: "json_schema", source: parsed(value, field) };
}

function textField(value: unknown, field: string, kind: "regex" | "grammar"): StructuredOutput | undefined {
  return isAbsent(value) ? undefined : requiredText(value, field, kind);
}

/** The text of a form that was named: without it nothing would be held to. */
function requiredText(value: unknown, field: string, kind: "regex" | "grammar"): StructuredOutput {
  if (typeof value !== "string") throw badField(field, "a string", describe(value));
  return { field, kind, source: value };
}

const mostChoices = 100_000;

function choiceField(value: unknown, field: string): StructuredOutput | undefined {
  return isAbsent(value) ? undefined : choiceList(value, field);
}

function choiceList(value: unknown, field: string): StructuredOutput {
  if (!Array.isArray(value) || value.length === 0 || value.some((one) => typeof one !== "string")) {
    throw badField(field, "an array of strings", describe(value));
  }
  if (value.length > mostChoices)
    throw badField(field, `at most ${mostChoices} choices`, String(value.length));
  return { field, kind: "choice", source: value };
}

/** An empty text asks for nothing, as clients send it for a field that is not set. */
function isAbsent(value: unknown): boolean {
  return value === undefined || value === null || value === "" || value === false;
}

function asObject(value: unknown, field: string): Readonly<Record<string, unknown>> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as Readonly<Record<string, unknown>>;
  }
  throw badField(field, "an object", describe(value));
}

/** Some clients send a schema as its text. */
function parsed(value: unknown, field: string): unknown {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    throw badField(field, "a JSON schema", "a string that is no JSON");
  }
}

function named(name: unknown): { readonly name?: string } {
  return typeof name === "string" ? { name } : {};
}

const modes: Readonly<Record<StructuredOutput["kind"], readonly [mode: string, parser: string]>> = {
  choice: ["fallback_choice", "choice_set"],
  regex: ["fallback_regex", "regex_subset"],
  grammar: ["fallback_grammar", "gbnf_subset"],
  json_schema: ["fallback_json_schema", "json_schema_subset"],
  json_object: ["fallback_json_object", "json_object"],
  tagged_structure: ["fallback_tagged_structure", "tagged_json_schema"],
};

/** What can be asked for, in the words of the serving contract; the form is held to whatever the model. */
export const structuredCapabilities = {
  structured_outputs: Object.values(modes).map(([, parser]) => parser),
  structured_output_capabilities: Object.entries(modes).map(([kind, [mode, parser]]) => ({
    ...{ kind, support_level: "fallback", mode, parser },
  })),
};

/** How the answer's form is held to, in the words of the serving contract. */
export function structuredHeaders(output: StructuredOutput | undefined): Readonly<Record<string, string>> {
  if (!output) return {};
  const [mode, parser] = modes[output.kind];
  return { "x-psionic-structured-output-mode": mode, "x-psionic-structured-output-parser": parser };
}
