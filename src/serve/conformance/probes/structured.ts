import { at, parsed, textAt } from "../json.ts";
import { must, type Probe } from "../probe.ts";
import { chat, mustBeError, readChoice, weatherQuestion, weatherTool } from "../shapes.ts";
import { structured } from "./ai_sdk.ts";

const path = "/v1/chat/completions";

function jsonSchema(schema: unknown): unknown {
  return { type: "json_schema", json_schema: { name: "value", strict: true, schema } };
}

/** `{side: value}` and nothing else. */
function onlySide(value: string): unknown {
  const properties = { side: { const: value } };
  return jsonSchema({ type: "object", properties, required: ["side"], additionalProperties: false });
}

/** Schemas that made other servers crash, hang or give up. */
const hostile: Readonly<Record<string, unknown>> = {
  "a pattern of 5,000 characters": { type: "string", pattern: `^${"a?".repeat(2500)}$` },
  "nested quantifiers": { type: "string", pattern: "^((a+)+)+$" },
  "maxLength 5000": { type: "string", maxLength: 5000 },
  recursion: {
    $defs: { node: { type: "object", properties: { next: { $ref: "#/$defs/node" } } } },
    $ref: "#/$defs/node",
  },
  "$ref in an array": {
    $defs: { n: { type: "integer" } },
    type: "array",
    items: { $ref: "#/$defs/n" },
    maxItems: 2,
  },
  "a $ref to itself": { $ref: "#" },
  "an enum of 5,000 values": { enum: Array.from({ length: 5000 }, (_, i) => `value ${i}`) },
  "depth 200": deep(200),
};

function deep(levels: number): unknown {
  let schema: unknown = { type: "string" };
  for (let i = 0; i < levels; i++) schema = { type: "object", properties: { a: schema } };
  return schema;
}

/** Longest time that a schema may take, with a few tokens of an answer, milliseconds. */
const schemaMs = 30_000;

/** Complaints about structured output. */
export const structuredProbes: readonly Probe[] = [
  {
    name: "complaints.schema",
    requires: "a schema holds in the final answer of a reasoning model, and control tokens stay possible",
    threads: "lmstudio-bug-tracker#1555, sgl-project/sglang#31019, ollama/ollama#11691",
    run: async (target) => {
      must(at(await structured(target, onlySide("left")), "side") === "left", "the only value", "another");
      return undefined;
    },
  },
  {
    name: "complaints.fails-closed",
    requires: "a schema that cannot be enforced is a 400 that says why, not an answer without it",
    threads: "ggml-org/llama.cpp#19051",
    run: async (target) => {
      const schema = {
        type: "object",
        properties: { a: { type: "string", not: { minLength: 0 } } },
        required: ["a"],
      };
      // nothing fits: any answer is one without the schema
      const reply = await target.post(path, chat(target, { response_format: jsonSchema(schema) }));
      const message = mustBeError(reply, 400, 422);
      must(/\bnot\b|response_format|schema/i.test(message), "a message about the schema", message);
      return message.length > 120 ? undefined : message;
    },
  },
  {
    name: "complaints.hostile-schemas",
    requires: "long patterns, recursion, deep and huge schemas are answered or refused, soon",
    threads: "ggml-org/llama.cpp#12252, #25746, #27619, #12597, #16790",
    run: async (target) => {
      for (const [what, schema] of Object.entries(hostile)) {
        const asked = chat(target, { response_format: jsonSchema(schema), max_tokens: 8 });
        const reply = await target.post(path, asked);
        must(reply.ms < schemaMs, `${what} within ${schemaMs} ms`, `${Math.round(reply.ms)} ms`);
        must(reply.status < 500, `200 or 4xx for ${what}`, `${reply.status} ${reply.text}`);
        if (reply.status === 200) readChoice(reply);
        else mustBeError(reply, reply.status);
      }
      return undefined;
    },
  },
  {
    name: "complaints.own-schema",
    requires: "requests at the same time each have their own schema",
    threads: "vllm-mlx#784",
    run: async (target) => {
      const sides = ["left", "right", "middle"];
      const values = await Promise.all(sides.map((side) => structured(target, onlySide(side))));
      const got = values.map((value) => at(value, "side"));
      must(got.join() === sides.join(), sides.join(), got.join());
      return undefined;
    },
  },
  {
    name: "complaints.schema-arguments",
    requires: "arguments of a forced call are JSON of the tool's schema",
    run: async (target) => {
      const choice = { type: "function", function: { name: "get_weather" } };
      const more = { messages: weatherQuestion, tools: [weatherTool], tool_choice: choice, max_tokens: 200 };
      const answer = readChoice(await target.post(path, chat(target, more)));
      const call = at(answer, "message", "tool_calls", 0);
      must(textAt(call, "function", "name") === "get_weather", "the call", answer);
      const value = parsed(textAt(call, "function", "arguments"));
      if (at(answer, "finish_reason") === "length") return "the limit came before the arguments' end";
      if (typeof at(value, "city") === "string") return undefined;
      // a server that constrains nothing says so, and its model is on its own
      await structured(target, onlySide("left"));
      must(false, "arguments with a city", call);
      return undefined;
    },
  },
];
