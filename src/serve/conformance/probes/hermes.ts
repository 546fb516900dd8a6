import { at, isCount, isObject, listAt } from "../json.ts";
import { must, type Probe } from "../probe.ts";
import { chat, contextOf, modelEntry, readChoice, weatherQuestion, weatherTool } from "../shapes.ts";
import type { Reply, Target } from "../target.ts";

/** How long Hermes waits for each of its questions, milliseconds. */
const probeMs = 2000;
/** Less context than this, tokens, and Hermes refuses to start. */
const leastContext = 65_536;

/** What Hermes takes a server for; its questions in its order. */
const kinds: readonly (readonly [path: string, kind: string, is: (reply: Reply) => boolean])[] = [
  ["/api/v1/models", "LM Studio", ({ status }) => status === 200],
  ["/api/tags", "Ollama", ({ status, json }) => status === 200 && at(json, "models") !== undefined],
  ["/v1/props", "llama.cpp", ({ text }) => text.includes("default_generation_settings")],
  ["/props", "llama.cpp", ({ text }) => text.includes("default_generation_settings")],
  ["/version", "vLLM", ({ json }) => at(json, "version") !== undefined],
];

async function quick(target: Target, path: string): Promise<Reply> {
  const reply = await target.get(path);
  must(reply.ms < probeMs, `an answer of ${path} within ${probeMs} ms`, `${Math.round(reply.ms)} ms`);
  must(reply.status < 500, `an answer of ${path} that is no server error`, reply.status);
  return reply;
}

/** What the Hermes agent asks before and while it works. */
export const hermesProbes: readonly Probe[] = [
  {
    name: "hermes.detection",
    requires: "its questions about the kind of server are answered fast, known or not",
    threads: "NousResearch/hermes-agent#26489, #25629",
    run: async (target) => {
      const replies = [];
      for (const [path, kind, is] of kinds) replies.push(is(await quick(target, path)) ? kind : undefined);
      return `taken for ${replies.find((kind) => kind !== undefined) ?? "an unknown server"}`;
    },
  },
  {
    name: "hermes.unknown-path",
    requires: "an unknown path is a fast 404",
    threads: "NousResearch/hermes-agent#26489",
    run: async (target) => {
      for (const path of ["/api/show", "/no/such/path", "/v1/no-such"]) {
        const reply = await quick(target, path);
        must(reply.status === 404, `404 for ${path}`, reply.status);
      }
      return undefined;
    },
  },
  {
    name: "hermes.context",
    requires: "the context length is in /props, in the model's entry and in the list, and is the same number",
    threads: "NousResearch/hermes-agent#64897, #31272, #14420",
    run: async (target) => {
      const props = await target.get("/props");
      const path = ["default_generation_settings", "n_ctx"] as const;
      const found = new Set<unknown>();
      if (props.status === 200) found.add(at(props.json, ...path));
      const one = await target.get(`/v1/models/${encodeURIComponent(target.model)}`);
      const lengths = [contextOf(one.json), contextOf(await modelEntry(target))];
      for (const length of lengths) if (length !== undefined) found.add(length);
      must(found.size > 0, "a context length somewhere", "none");
      must(found.size === 1 && [...found].every(isCount), "one number", [...found]);
      const [length] = found as Set<number>;
      return length! < leastContext
        ? `${length} tokens; Hermes itself wants ${leastContext} or more`
        : undefined;
    },
  },
  {
    name: "hermes.tool-loop",
    requires: "a required call, then the answer to its result under auto",
    script: {
      answers: ['{"city":"Oslo"}<|call|>'],
      later: ["<|channel|>final<|message|>It snows.<|return|>"],
    },
    run: async (target) => {
      const path = "/v1/chat/completions";
      const asked = { messages: weatherQuestion, tools: [weatherTool], tool_choice: "required" };
      const first = await target.post(path, chat(target, asked));
      const message = at(readChoice(first), "message");
      const calls = listAt(message, "tool_calls");
      must(calls.length > 0, "a call where one is required", message);
      const id = at(calls[0], "id");
      must(isObject(message), "a message", message);
      const results = calls.map((call) => ({ role: "tool", tool_call_id: at(call, "id"), content: "Snow" }));
      must(typeof id === "string", "an id of the call", calls[0]);
      const messages = [...weatherQuestion, message, ...results];
      const second = await target.post(path, chat(target, { ...asked, messages, tool_choice: "auto" }));
      readChoice(second);
      return undefined;
    },
  },
];
