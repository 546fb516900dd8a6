import { at, isCount, listAt, parsed, textAt } from "../json.ts";
import { must, type Probe, skip } from "../probe.ts";
import {
  chat,
  mustBeError,
  mustBeUsage,
  readChatStream,
  readChoice,
  weatherParameters,
  weatherQuestion,
  weatherTool,
} from "../shapes.ts";
import { ok, type Target } from "../target.ts";

/** A call as GPT-OSS writes one. */
export const weatherCall =
  "<|channel|>analysis<|message|>The tool knows.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather " +
  '<|constrain|>json<|message|>{"city":"Oslo"}<|call|>';

/** What Vercel's AI SDK needs of an OpenAI-compatible provider. */
export const aiSdkProbes: readonly Probe[] = [
  {
    name: "ai-sdk.chunks",
    requires: "every chunk has choices, also the one with usage, whose choices are empty",
    run: async (target) => {
      const asked = chat(target, { stream: true, stream_options: { include_usage: true } });
      const { chunks } = readChatStream(await target.stream("/v1/chat/completions", asked));
      const last = chunks.at(-1);
      must(listAt(last, "choices").length === 0, "an empty choices in the last chunk", last);
      mustBeUsage(at(last, "usage"));
      return undefined;
    },
  },
  {
    name: "ai-sdk.tools",
    requires:
      "a call that the model makes itself: a whole call, finish_reason tool_calls, arguments that are JSON",
    script: { answers: [weatherCall] },
    run: async (target) => {
      const asked = { messages: weatherQuestion, tools: [weatherTool], max_tokens: 400 };
      const path = "/v1/chat/completions";
      const { calls, finish } = readChatStream(
        await target.stream(path, chat(target, { ...asked, stream: true })),
      );
      if (calls.length === 0) skip("the model called no tool");
      must(finish === "tool_calls", "finish_reason tool_calls", finish);
      const city = at(parsed(calls[0]!.arguments), "city");
      must(typeof city === "string", "arguments with a city", calls[0]!.arguments);
      const choice = at(ok(await target.post(path, chat(target, asked))), "choices", 0);
      must(at(choice, "finish_reason") === "tool_calls", "the same in a whole answer", choice);
      const call = at(choice, "message", "tool_calls", 0);
      must(textAt(call, "id") !== "" && at(call, "type") === "function", "a call with id and type", call);
      return undefined;
    },
  },
  {
    name: "ai-sdk.usage",
    requires: "usage with cached and reasoning tokens in its details",
    run: async (target) => {
      const usage = at(ok(await target.post("/v1/chat/completions", chat(target))), "usage");
      mustBeUsage(usage);
      const cached = at(usage, "prompt_tokens_details", "cached_tokens");
      must(isCount(cached), "prompt_tokens_details.cached_tokens", usage);
      const reasoning = at(usage, "completion_tokens_details", "reasoning_tokens");
      must(isCount(reasoning), "completion_tokens_details.reasoning_tokens", usage);
      return undefined;
    },
  },
  {
    name: "ai-sdk.errors",
    requires: "error.message is a text, error.code a text or a number",
    run: async (target) => {
      mustBeError(await target.post("/v1/chat/completions", { model: target.model, messages: [] }), 400, 422);
      mustBeError(await target.post("/v1/chat/completions", chat(target, { max_tokens: "many" })), 400, 422);
      return undefined;
    },
  },
  {
    name: "ai-sdk.settings",
    requires:
      "penalties, top_p, seed and stop are accepted; reasoning_effort and verbosity too, or refused by name",
    run: async (target) => {
      const path = "/v1/chat/completions";
      const penalties = { presence_penalty: 0.1, frequency_penalty: 0.1 };
      readChoice(await target.post(path, chat(target, { top_p: 0.9, seed: 7, stop: ["###"], ...penalties })));
      const refused: string[] = [];
      for (const name of ["reasoning_effort", "verbosity"]) {
        const reply = await target.post(path, chat(target, { [name]: "low" }));
        if (reply.status === 200) continue;
        const message = mustBeError(reply, 400, 422);
        must(message.includes(name), `200, or a refusal that names ${name}`, message);
        refused.push(name);
      }
      return refused.length > 0 ? `refused: ${refused.join(", ")}` : undefined;
    },
  },
  {
    name: "ai-sdk.json",
    requires: "json_schema and json_object give JSON, or a 400 that names response_format; never other text",
    run: async (target) => {
      const schema = {
        type: "object",
        properties: { safe: { type: "boolean" } },
        required: ["safe"],
        additionalProperties: false,
      };
      const strict = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
      const value = await structured(target, strict);
      must(typeof at(value, "safe") === "boolean", "a value of the schema", value);
      return undefined;
    },
  },
  {
    name: "ai-sdk.named-tool",
    requires: "a named tool must be called, whatever the model would like",
    run: async (target) => {
      const tools = [
        weatherTool,
        { type: "function", function: { name: "get_time", parameters: weatherParameters } },
      ];
      const choice = { type: "function", function: { name: "get_time" } };
      const asked = chat(target, { tools, tool_choice: choice });
      const call = at(
        ok(await target.post("/v1/chat/completions", asked)),
        "choices",
        0,
        "message",
        "tool_calls",
        0,
      );
      must(textAt(call, "function", "name") === "get_time", "a call of get_time", call);
      must(typeof at(call, "function", "arguments") === "string", "arguments as a text", call);
      return undefined;
    },
  },
];

/** Asks for an answer of a form and reads it as JSON; skips where the server says that it does not serve the form. */
export async function structured(target: Target, format: unknown, tokens = 400): Promise<unknown> {
  const asked = chat(target, { response_format: format, max_tokens: tokens });
  const reply = await target.post("/v1/chat/completions", asked);
  if (reply.status !== 200) {
    const message = mustBeError(reply, 400, 422);
    must(/response_format|schema/i.test(message), "a refusal that names response_format", message);
    skip(`structured output is refused: ${message}`);
  }
  const choice = at(reply.json, "choices", 0);
  if (at(choice, "finish_reason") === "length")
    skip("the model reached the limit before the value was whole");
  const text = textAt(choice, "message", "content");
  const value = parsed(text);
  must(value !== undefined, "content that is JSON", text);
  return value;
}
