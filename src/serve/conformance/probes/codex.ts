import { at, isCount, isObject, type Json, listAt, parsed, textAt } from "../json.ts";
import { must, type Probe, skip } from "../probe.ts";
import { contextOf, modelEntry, mustBeError, mustStream, weatherParameters } from "../shapes.ts";
import { ok, type StreamReply, type Target } from "../target.ts";
import { weatherCall } from "./ai_sdk.ts";

const weather = {
  type: "function",
  name: "get_weather",
  description: "",
  strict: false,
  parameters: weatherParameters,
};

/** A turn as Codex sends it. */
function turn(target: Target, text: string, more: Json = {}): Json {
  return {
    model: target.model,
    instructions: "You are a coding agent. Be brief.",
    input: [{ type: "message", role: "user", content: [{ type: "input_text", text }] }],
    tools: [weather],
    tool_choice: "auto",
    parallel_tool_calls: false,
    reasoning: { effort: "low" },
    store: false,
    stream: true,
    include: ["reasoning.encrypted_content"],
    prompt_cache_key: "conformance",
    ...more,
  };
}

type Event = Json & { readonly type: string };

function readEvents(reply: StreamReply): Event[] {
  return mustStream(reply)
    .filter(({ data }) => data !== "[DONE]")
    .map(({ name, data }) => {
      const event = parsed(data);
      must(isObject(event) && typeof event.type === "string", "an object with a type in every event", data);
      must(name === "" || name === event.type, "the event's name as its type", `${name}, ${event.type}`);
      return { ...event, type: event.type };
    });
}

/** What Codex must find in a stream that went well; returns the finished items. */
function readTurn(reply: StreamReply): readonly unknown[] {
  const events = readEvents(reply);
  must(events[0]?.type === "response.created", "response.created first", events[0]?.type);
  const last = events.at(-1)!;
  const ended = last.type === "response.completed" || last.type === "response.incomplete";
  must(ended, "response.completed at the end", last);
  must(textAt(last, "response", "id") !== "", "response.id at the end", last.response);
  const usage = at(last, "response", "usage");
  for (const name of ["input_tokens", "output_tokens", "total_tokens"])
    must(isCount(at(usage, name)), `usage.${name}, a whole number`, usage);
  for (const event of events) {
    if (event.type === "response.reasoning_text.delta")
      must(isCount(event.content_index), "content_index in a reasoning delta", event);
    if (event.type === "response.reasoning_summary_text.delta")
      must(isCount(event.summary_index), "summary_index in a summary delta", event);
  }
  const added = events.filter(({ type }) => type === "response.output_item.added").length;
  const done = events.filter(({ type }) => type === "response.output_item.done").map(({ item }) => item);
  must(done.length > 0 && done.length === added, "output_item.done for every item added", done.length);
  return done;
}

/** Longest context, tokens, that a probe tries to overfill. */
const mostContext = 300_000;

/** What Codex CLI needs: it speaks /v1/responses only. */
export const codexProbes: readonly Probe[] = [
  {
    name: "codex.models",
    requires: "the list has models beside data, each as Codex's catalogue describes one",
    threads: "ggml-org/llama.cpp#20156",
    run: async (target) => {
      const list = ok(await target.get("/v1/models?client_version=0.100.0"));
      const [first] = listAt(list, "models");
      must(isObject(first), "models, an array of objects", at(list, "models"));
      const texts = ["slug", "display_name", "shell_type", "visibility"];
      for (const name of texts) must(textAt(first, name) !== "", `${name}, a text`, first[name]);
      must(Array.isArray(first.supported_reasoning_levels), "supported_reasoning_levels, an array", first);
      must(typeof first.supported_in_api === "boolean", "supported_in_api", first.supported_in_api);
      must(typeof first.priority === "number", "priority", first.priority);
      must(isObject(first.truncation_policy), "truncation_policy", first.truncation_policy);
      must(isCount(first.context_window), "context_window", first.context_window);
      return undefined;
    },
  },
  {
    name: "codex.stream",
    requires: "a turn as Codex sends it ends with response.completed, an id and usage; items are done",
    run: async (target) => {
      const reply = await target.stream(
        "/v1/responses",
        turn(target, "Say hello.", { max_output_tokens: 48 }),
      );
      readTurn(reply);
      return undefined;
    },
  },
  {
    name: "codex.tool-types",
    requires: "tool types that the server does not run are left out, not rejected",
    threads: "openai/codex#10635, ggml-org/llama.cpp#20156, unslothai/unsloth#5141",
    run: async (target) => {
      const tools = [
        weather,
        { type: "web_search", external_web_access: false },
        { type: "image_generation", output_format: "png" },
        {
          type: "custom",
          name: "apply_patch",
          description: "Edit files",
          format: { type: "grammar", syntax: "lark", definition: "start: /.+/" },
        },
        { type: "namespace", name: "files", description: "", tools: [{ ...weather, name: "read" }] },
      ];
      const asked = turn(target, "Say hello.", { tools, max_output_tokens: 16 });
      readTurn(await target.stream("/v1/responses", asked));
      return undefined;
    },
  },
  {
    name: "codex.function-call",
    requires:
      "a call is an item with call_id, name and arguments, and its output is accepted as the next turn",
    script: {
      answers: [weatherCall],
      later: ["<|channel|>final<|message|>It snows in Oslo.<|return|>"],
    },
    run: async (target) => {
      const first = turn(target, "What is the weather in Oslo? Use the tool.");
      const items = readTurn(await target.stream("/v1/responses", first));
      const call = items.find((item) => at(item, "type") === "function_call");
      if (call === undefined) skip("the model called no tool");
      must(textAt(call, "call_id") !== "", "call_id", call);
      must(textAt(call, "name") === "get_weather", "the tool's name", call);
      must(isObject(parsed(textAt(call, "arguments"))), "arguments that are a JSON object", call);
      const output = { type: "function_call_output", call_id: textAt(call, "call_id"), output: "Snow" };
      const input = [...listAt(first, "input"), ...items, output];
      const second = readTurn(await target.stream("/v1/responses", { ...first, input }));
      must(
        second.some((item) => at(item, "type") === "message"),
        "a message after the output",
        second,
      );
      return undefined;
    },
  },
  {
    name: "codex.context",
    requires: "a conversation that does not fit fails with the code context_length_exceeded",
    run: async (target) => {
      const length = contextOf(await modelEntry(target));
      if (length === undefined) skip("the model list does not say the context length");
      if (length > mostContext) skip(`a context of ${length} tokens is not overfilled`);
      const reply = await target.stream("/v1/responses", turn(target, "a1 ".repeat(length)));
      if (reply.status !== 200) {
        mustBeError(reply, 400);
        const code = at(reply.json, "error", "code");
        must(code === "context_length_exceeded", "the code context_length_exceeded", code);
        return "as a status, not in the stream";
      }
      const failed = readEvents(reply).find(({ type }) => type === "response.failed");
      const code = at(failed, "response", "error", "code");
      must(
        code === "context_length_exceeded",
        "response.failed with context_length_exceeded",
        code ?? reply.text,
      );
      return undefined;
    },
  },
  {
    name: "codex.previous-response",
    requires: "previous_response_id goes on with a kept answer; an unknown one is an error",
    threads: "ggml-org/llama.cpp#20156, ikawrakow/ik_llama.cpp#1964",
    run: async (target) => {
      const more = { store: true, stream: false, max_output_tokens: 16 };
      const first = ok(await target.post("/v1/responses", turn(target, "Say hello.", more)));
      const previous = { ...more, previous_response_id: textAt(first, "id") };
      const second = await target.post("/v1/responses", turn(target, "And goodbye.", previous));
      must(second.status === 200, "200 for a kept answer", `${second.status} ${second.text}`);
      const unknown = turn(target, "x", { ...more, previous_response_id: "resp_unknown" });
      mustBeError(await target.post("/v1/responses", unknown), 400, 404);
      return undefined;
    },
  },
];
