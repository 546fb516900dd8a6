/** Structured output over the default model, which writes nothing of the kind by itself. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import Ajv from "ajv/dist/2020.js";
import OpenAI from "openai";
import { defaultModelPath } from "../../models/default_model.ts";
import { openServedModel } from "../served_model.ts";
import type { ServedModel } from "./options.ts";
import { sseData, type TestServer, testServer } from "./testing/client.ts";

const chat = "/v1/chat/completions";
const ajv = new Ajv({ strict: false });

let model: ServedModel;
let server: TestServer;
let openai: OpenAI;

beforeAll(async () => {
  model = await openServedModel({
    modelPath: defaultModelPath(),
    backend: "cpu",
    slots: 8,
    contextLength: 2048,
  });
  server = await testServer(model);
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
}, 60_000);

afterAll(async () => {
  await server.stop({ force: true });
  await model.engine.close(true);
});

const user = (content: string) => [{ role: "user" as const, content }];

const person = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 12 },
    age: { type: "integer", minimum: 18, maximum: 99 },
    mood: { enum: ["happy", "sad", null] },
    tags: { type: "array", items: { type: "string", maxLength: 6 }, minItems: 1, maxItems: 2 },
  },
  required: ["name", "age", "mood", "tags"],
  additionalProperties: false,
};
const personFormat = {
  type: "json_schema" as const,
  json_schema: { name: "person", strict: true, schema: person },
};

async function post(body: object, path = chat) {
  const response = await server.post(path, body);
  return { status: response.status, headers: response.headers, body: await response.json() };
}

describe("chat", () => {
  test("a schema: valid JSON behind the reasoning, greedy and sampled, for every choice", async () => {
    const check = ajv.compile(person);
    for (const sampling of [
      {},
      { temperature: 1.5, seed: 3, n: 4, top_k: 0, top_p: 1 },
      { temperature: 1, seed: 9, n: 2 },
    ]) {
      const { status, body, headers } = await post({
        ...{ messages: user("Who are you?"), response_format: personFormat, max_tokens: 400 },
        ...sampling,
      });
      expect(status).toBe(200);
      expect(headers.get("x-psionic-structured-output-mode")).toBe("fallback_json_schema");
      for (const { message, finish_reason } of body.choices) {
        expect(finish_reason).toBe("stop");
        expect(check(JSON.parse(message.content))).toBe(true);
      }
    }
  });

  test("the same request gives the same answer, streamed or not", async () => {
    const body = {
      messages: user("Tell me."),
      response_format: personFormat,
      temperature: 1.2,
      seed: 5,
      max_tokens: 400,
    };
    const whole = (await post(body)).body.choices[0].message.content;
    const stream = await openai.chat.completions.create({
      model: "docs-oss-13m-mxfp4",
      ...body,
      stream: true,
    });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    expect(text).toBe(whole);
  });

  test("together and alone, in whatever order grammars come, answers are the same", async () => {
    const forms = [{ response_format: personFormat }, { guided_regex: "[a-z]{4,9}( [a-z]{2,5}){2}" }, {}];
    const ask = async (seed: number): Promise<string> => {
      const fields = { messages: user("Tell me."), temperature: 1, seed, max_tokens: 60 };
      return (await post({ ...fields, ...forms[seed % 3] })).body.choices[0].message.content;
    };
    const seeds = Array.from({ length: 9 }, (_, i) => i + 1);
    const together = await Promise.all(seeds.map(ask));
    const alone: string[] = [];
    for (const seed of seeds.toReversed()) alone.unshift(await ask(seed));
    expect(alone).toEqual(together);
  });

  test("any JSON object, a pattern, choices, a grammar, under the names of several servers", async () => {
    const ask = async (fields: object): Promise<string> => {
      const { status, body } = await post({
        messages: user("Hi"),
        max_tokens: 300,
        temperature: 1,
        seed: 1,
        ...fields,
      });
      expect(status).toBe(200);
      return body.choices[0].message.content;
    };
    const regex = "(foo|ba[rz]){2}-\\d{3}";
    const grammar = 'root ::= "yes, " reason\nreason ::= "because" | "so" [0-9] [0-9]? "!"';
    const whole = (pattern: string) => new RegExp(`^(?:${pattern})$`);
    for (const fields of [
      { guided_regex: regex },
      { structured_outputs: { regex } },
      { psionic_structured_output: { kind: "regex", pattern: regex } },
    ]) {
      expect(await ask(fields)).toMatch(whole(regex));
    }
    for (const fields of [
      { guided_choice: ["left", "right"] },
      { structured_outputs: { choice: ["left", "right"] } },
      { psionic_structured_output: { kind: "choice", values: ["left", "right"] } },
    ]) {
      expect(["left", "right"]).toContain(await ask(fields));
    }
    for (const fields of [
      { grammar },
      { guided_grammar: grammar },
      { structured_outputs: { grammar } },
      { psionic_grammar: { grammar } },
    ]) {
      expect(await ask(fields)).toMatch(/^yes, (because|so\d\d?!)$/);
    }
    for (const fields of [
      { json_schema: person },
      { guided_json: person },
      { guided_json: JSON.stringify(person) },
      { structured_outputs: { json: person } },
      { response_format: { type: "json_object", schema: person } },
    ]) {
      expect(ajv.validate(person, JSON.parse(await ask(fields)))).toBe(true);
    }
    const variants = [
      { tag: "a", schema: { type: "object", properties: { x: { type: "boolean" } }, required: ["x"] } },
      { tag: "b", schema: { type: "object", properties: {}, additionalProperties: false } },
    ];
    const tagged = await ask({
      psionic_structured_output: { kind: "tagged_structure", discriminator: "kind", variants },
    });
    expect(["a", "b"]).toContain(JSON.parse(tagged).kind);
  });

  test("a form that is named without what it consists of is refused, not answered freely", async () => {
    for (const [fields, param] of [
      [{ psionic_structured_output: { kind: "regex" } }, "psionic_structured_output.pattern"],
      [
        { psionic_structured_output: { kind: "grammar", grammar: null } },
        "psionic_structured_output.grammar",
      ],
      [{ psionic_structured_output: { kind: "choice" } }, "psionic_structured_output.values"],
      [{ psionic_grammar: {} }, "psionic_grammar.grammar"],
      [{ structured_outputs: { grammar: "" } }, "structured_outputs.grammar"],
      [{ structured_outputs: { choice: "" } }, "structured_outputs.choice"],
      [{ response_format: { type: "regex" } }, "response_format.pattern"],
      [{ response_format: { type: "grammar" } }, "response_format.grammar"],
      [{ response_format: { type: "json" } }, "response_format.value"],
      [{ response_format: { type: "json_schema" } }, "response_format.json_schema"],
    ] as const) {
      const { status, body } = await post({ messages: user("Hi"), max_tokens: 4, ...fields });
      expect([param, status, body.error?.param]).toEqual([param, 400, param]);
    }
    // fields of their own that are empty ask for nothing, as clients send what is not set
    expect((await post({ messages: user("Hi"), max_tokens: 4, grammar: "", guided_regex: "" })).status).toBe(
      200,
    );
  });

  test("any JSON object, as far as the tokens last", async () => {
    const { body } = await post({
      messages: user("Hi"),
      response_format: { type: "json_object" },
      max_tokens: 600,
      temperature: 1,
      seed: 4,
      logit_bias: { "92": 3 },
    });
    const [{ message, finish_reason }] = body.choices;
    if (finish_reason === "stop") expect(typeof JSON.parse(message.content)).toBe("object");
    else expect(message.content).toStartWith("{");
  });

  test("with log-probabilities, penalties, stop strings, a reasoning budget and none", async () => {
    const check = ajv.compile(person);
    const fields = { messages: user("Who?"), response_format: personFormat, max_tokens: 400 };
    for (const more of [
      { logprobs: true, top_logprobs: 3 },
      { frequency_penalty: 1, repeat_penalty: 1.3 },
      { reasoning_effort: "none" },
      { thinking_budget_tokens: 3 },
      { thinking_budget_tokens: 0 },
      { reasoning_format: "none" },
      { ignore_eos: true },
      { dry_multiplier: 1, xtc_probability: 0.5, temperature: 1, seed: 2 },
    ]) {
      const { status, body } = await post({ ...fields, ...more });
      expect(status).toBe(200);
      const [choice] = body.choices;
      const text: string = choice.message.content.replace(/^<\|channel\|>.*<\|end\|>/s, "");
      expect(check(JSON.parse(text))).toBe(true);
      if ("logprobs" in more) {
        expect(choice.logprobs.content.map(({ token }: { token: string }) => token).join("")).toBe(
          choice.message.content,
        );
      }
    }
    const cut = await post({ ...fields, stop: ['"age"'] });
    expect(cut.body.choices[0]).toMatchObject({ finish_reason: "stop" });
    expect(cut.body.choices[0].message.content).not.toContain('"age"');
    expect(
      (
        await post({
          ...fields,
          max_tokens: 60,
          reasoning_effort: "none",
          response_format: {
            type: "json_schema",
            json_schema: { schema: { type: "string", minLength: 1000 } },
          },
        })
      ).body.choices[0].finish_reason,
    ).toBe("length");
  });
});

describe("tools", () => {
  const tool = (name: string, parameters: object, more: object = {}) => ({
    type: "function" as const,
    function: { name, parameters, ...more },
  });
  const weather = tool("get_weather", {
    type: "object",
    properties: {
      city: { type: "string", maxLength: 10 },
      days: { type: "integer", minimum: 1, maximum: 7 },
    },
    required: ["city", "days"],
  });
  const light = tool("set_light", {
    type: "object",
    properties: { on: { type: "boolean" } },
    required: ["on"],
  });

  test("required and named: one call with arguments that match", async () => {
    for (const fields of [
      { tools: [weather], tool_choice: "required" },
      { tools: [weather, light], tool_choice: "required" },
      { tools: [light, weather], tool_choice: { type: "function", function: { name: "get_weather" } } },
    ]) {
      for (const temperature of [0, 1.3]) {
        const { status, body } = await post({
          messages: user("Weather?"),
          ...fields,
          temperature,
          seed: 1,
          max_tokens: 200,
        });
        expect(status).toBe(200);
        expect(body.choices[0].finish_reason).toBe("tool_calls");
        const [call] = body.choices[0].message.tool_calls;
        const schema = fields.tools.find(({ function: { name } }) => name === call.function.name)?.function
          .parameters;
        expect(ajv.validate(schema!, JSON.parse(call.function.arguments))).toBe(true);
      }
    }
  });

  test("auto: whatever it does, calls are of these tools and their arguments match", async () => {
    let calls = 0;
    for (let seed = 1; seed <= 6; seed++) {
      const { status, body } = await post({
        messages: user("Weather?"),
        tools: [weather, light],
        temperature: 4,
        top_k: 0,
        top_p: 1,
        seed,
        max_tokens: 60,
      });
      expect(status).toBe(200);
      const [{ message, finish_reason }] = body.choices;
      for (const call of message.tool_calls ?? []) {
        calls += 1;
        expect(["get_weather", "set_light"]).toContain(call.function.name);
        if (finish_reason === "tool_calls") JSON.parse(call.function.arguments);
      }
    }
    expect(calls).toBeGreaterThanOrEqual(0);
  });

  test("a strict tool is refused with its keyword, another one is served without it and says so", async () => {
    const parameters = {
      type: "object",
      properties: { a: { type: "array", items: { type: "integer" }, uniqueItems: true } },
      required: ["a"],
    };
    const fields = { messages: user("x"), max_tokens: 60, tool_choice: "required" };
    const refused = await post({ ...fields, tools: [tool("f", parameters, { strict: true })] });
    expect(refused.status).toBe(400);
    expect(refused.body.error).toMatchObject({
      ...{ param: "tools.f.parameters#/properties/a/uniqueItems", code: "unsupported_parameter" },
    });
    expect(refused.body.error.message).toContain("uniqueItems");
    const served = await post({ ...fields, tools: [tool("f", parameters)] });
    expect(served.status).toBe(200);
    expect(served.headers.get("x-psionic-ignored")).toContain("tools.f.parameters.properties.a.uniqueItems");
  });
});

describe("other routes", () => {
  test("text completions, responses and messages", async () => {
    const text = await post(
      { prompt: "A person: ", json_schema: person, max_tokens: 300 },
      "/v1/completions",
    );
    expect(ajv.validate(person, JSON.parse(text.body.choices[0].text))).toBe(true);
    expect(text.body.choices[0].finish_reason).toBe("stop");
    const format = { type: "json_schema", name: "person", schema: person, strict: true };
    const response = await post({ input: "Who?", text: { format }, max_output_tokens: 400 }, "/v1/responses");
    const message = response.body.output.find(({ type }: { type: string }) => type === "message");
    expect(ajv.validate(person, JSON.parse(message.content[0].text))).toBe(true);
    for (const fields of [{ output_config: { format } }, { output_format: format }]) {
      const said = await post({ messages: user("Who?"), max_tokens: 400, ...fields }, "/v1/messages");
      expect(ajv.validate(person, JSON.parse(said.body.content[0].text))).toBe(true);
    }
  });

  test("the client's own parser", async () => {
    const completion = await openai.chat.completions.parse({
      model: "docs-oss-13m-mxfp4",
      messages: user("Who?"),
      response_format: personFormat,
      max_tokens: 400,
    });
    expect(ajv.validate(person, completion.choices[0]?.message.parsed)).toBe(true);
  });
});

describe("refusals name the field and the keyword", () => {
  const schema = (value: unknown) => ({
    response_format: { type: "json_schema", json_schema: { schema: value } },
  });
  const cases: readonly (readonly [string, object, string])[] = [
    ["not", schema({ not: { type: "string" } }), "not"],
    ["if", schema({ type: "object", properties: { a: { if: {} } } }), "#/properties/a/if"],
    ["patternProperties", schema({ type: "object", patternProperties: { a: {} } }), "patternProperties"],
    ["multipleOf", schema({ type: "number", multipleOf: 0.1 }), "multipleOf"],
    ["format", schema({ type: "string", format: "iri" }), "format iri"],
    ["a reference elsewhere", schema({ $ref: "https://example.com/x" }), "$ref"],
    ["a reference to nothing", schema({ $ref: "#/$defs/x" }), "references that lead somewhere"],
    ["a circle", schema({ $ref: "#" }), "begin with themselves"],
    ["look-ahead", { guided_regex: "(?=a)b" }, "look-around"],
    ["a backreference", { guided_regex: "(a)\\1" }, "backreference"],
    ["an open group", { guided_regex: "(a" }, "closes a group"],
    ["an unknown rule", { grammar: "root ::= nope" }, "nope"],
    ["left recursion", { grammar: 'root ::= root "a" | "b"' }, "left-recursive"],
    ["no text at all", { grammar: 'root ::= "a" root' }, "some text matches"],
    ["two forms at once", { grammar: 'root ::= "a"', guided_choice: ["a"] }, "not to stand beside"],
    ["a format of no type", { response_format: { type: "xml" } }, "text, json_object or json_schema"],
    ["choices that are none", { guided_choice: [] }, "an array of strings"],
    ["an impossible schema", schema({ type: "integer", minimum: 5, maximum: 3 }), "[schema at #]"],
  ];
  for (const [name, fields, words] of cases) {
    test(name, async () => {
      const { status, body } = await post({ messages: user("x"), ...fields });
      expect(status).toBe(400);
      expect(body.error.type).toBe("invalid_request_error");
      expect(body.error.param).not.toBeNull();
      expect(body.error.message).toContain(words);
    });
  }

  test("param has the place in the schema", async () => {
    const person = { type: "object", properties: { age: { minimum: 5, maximum: 3 } }, required: ["age"] };
    const field = "response_format.json_schema.schema";
    const { body } = await post({ messages: user("x"), ...schema(person) });
    expect(body.error).toMatchObject({
      param: `${field}#/properties/age`,
      message: expect.stringContaining(`[${field}] [schema at #/properties/age] expected`),
      code: "invalid_value",
    });
    const tool = { type: "function", function: { name: "f", parameters: person, strict: true } };
    const strict = await post({ messages: user("x"), tools: [tool] });
    expect(strict.body.error.param).toBe("tools.f.parameters#/properties/age");
  });

  test("in a stream the error comes instead of an answer", async () => {
    const response = await server.post(chat, { messages: user("x"), stream: true, grammar: "root ::= " });
    const text = await response.text();
    expect(response.status === 200 ? sseData(text).length : response.status).toBeGreaterThan(0);
  });
});
