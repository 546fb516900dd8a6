/** Structured output and forced calls as the real clients ask for them, over the default model and its real engine. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, jsonSchema, Output, tool } from "ai";
import OpenAI from "openai";
import { defaultModelPath } from "../../models/default_model.ts";
import { type OwnServer, ownServer } from "../conformance/own.ts";

let own: OwnServer;
let baseURL: string;
let openai: OpenAI;

beforeAll(async () => {
  own = await ownServer({ modelPath: defaultModelPath(), backend: "cpu" });
  baseURL = `${own.target.root}/v1`;
  openai = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
});
afterAll(() => own.close());

const schema = {
  type: "object",
  properties: { side: { type: "string", enum: ["left", "right"] }, safe: { type: "boolean" } },
  required: ["side", "safe"],
  additionalProperties: false,
} as const;
const messages = [{ role: "user" as const, content: "Why does HTTPS matter?" }];
const value = { side: expect.stringMatching(/^(left|right)$/), safe: expect.any(Boolean) };

test("openai: a schema's value, parsed, streamed, and of the responses path", async () => {
  const { model } = own.target;
  const response_format = {
    type: "json_schema" as const,
    json_schema: { name: "answer", strict: true, schema },
  };
  const parsed = await openai.chat.completions.parse({ model, messages, response_format });
  expect(JSON.parse(parsed.choices[0]!.message.content!)).toEqual(value);
  const stream = openai.chat.completions.stream({ model, messages, response_format });
  expect(JSON.parse((await stream.finalContent())!)).toEqual(value);
  const format = { type: "json_schema" as const, name: "answer", strict: true, schema };
  const response = await openai.responses.create({ model, input: "Why?", text: { format } });
  expect(JSON.parse(response.output_text)).toEqual(value);
});

test("openai: arguments of a forced call keep to their schema", async () => {
  const choice = { type: "function" as const, function: { name: "turn" } };
  const tools = [{ type: "function" as const, function: { name: "turn", strict: true, parameters: schema } }];
  const asked = { model: own.target.model, messages, tools, tool_choice: choice };
  const answer = await openai.chat.completions.create(asked);
  const [call] = answer.choices[0]!.message.tool_calls!;
  if (call?.type !== "function") throw new Error("no call came");
  expect(JSON.parse(call.function.arguments)).toEqual(value);
});

test("ai sdk: an object, and a required tool with its input", async () => {
  const provider = createOpenAICompatible({
    ...{ name: "psionic", baseURL, supportsStructuredOutputs: true },
  });
  const model = provider(own.target.model);
  const input = jsonSchema<{ side: string; safe: boolean }>(
    schema as Parameters<typeof jsonSchema>[0] & object,
  );
  const { output } = await generateText({ model, messages, output: Output.object({ schema: input }) });
  expect(output).toEqual(value);
  const inputs: unknown[] = [];
  const turn = tool({
    inputSchema: input,
    execute: async (args) => {
      inputs.push(args);
      return "done";
    },
  });
  await generateText({ model, messages, tools: { turn }, toolChoice: "required" });
  expect(inputs).toEqual([value]);
});

test("langchain: structured output by schema and by call", async () => {
  for (const method of ["jsonSchema", "functionCalling"] as const) {
    const chat = new ChatOpenAI({
      ...{ model: own.target.model, apiKey: "none", maxRetries: 0 },
      configuration: { baseURL },
    });
    const structured = chat.withStructuredOutput({ title: "answer", ...schema }, { method });
    expect(await structured.invoke("Why does HTTPS matter?")).toEqual(value);
  }
});
