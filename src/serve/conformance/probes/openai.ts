import { unexpected } from "../../../core/error.ts";
import { at, isCount, isObject, listAt, parsed, textAt } from "../json.ts";
import { must, type Probe, skip } from "../probe.ts";
import {
  chat,
  mustBeError,
  mustBeUsage,
  mustStream,
  readChatStream,
  readChoice,
  weatherTool,
} from "../shapes.ts";
import { ok } from "../target.ts";

/** What the `openai` package needs: its readers throw on anything else. */
export const openaiProbes: readonly Probe[] = [
  {
    name: "openai.models",
    requires: "the model list, one model by its id, and a 404 with an error for an unknown one",
    run: async (target) => {
      const list = ok(await target.get("/v1/models"));
      must(at(list, "object") === "list", 'object "list"', at(list, "object"));
      const ids = listAt(list, "data").map((entry) => at(entry, "id"));
      must(ids.length > 0 && ids.every((id) => typeof id === "string"), "entries with an id", ids);
      const one = ok(await target.get(`/v1/models/${encodeURIComponent(target.model)}`));
      must(typeof at(one, "id") === "string", "the entry of the model", one);
      mustBeError(await target.get("/v1/models/no-such-model"), 404);
      return undefined;
    },
  },
  {
    name: "openai.chat",
    requires: "a whole answer: id, object, created, model, choices with message and finish_reason, usage",
    run: async (target) => {
      const body = ok(await target.post("/v1/chat/completions", chat(target)));
      must(textAt(body, "id") !== "", "an id", at(body, "id"));
      must(at(body, "object") === "chat.completion", 'object "chat.completion"', at(body, "object"));
      must(isCount(at(body, "created")), "created in whole seconds", at(body, "created"));
      must(typeof at(body, "model") === "string", "model", at(body, "model"));
      const choice = at(body, "choices", 0);
      must(at(choice, "index") === 0, "index 0", choice);
      must(at(choice, "message", "role") === "assistant", "role assistant", choice);
      const content = at(choice, "message", "content");
      must(content === null || typeof content === "string", "content, a text or null", choice);
      must(typeof at(choice, "finish_reason") === "string", "a finish_reason", choice);
      mustBeUsage(at(body, "usage"));
      return undefined;
    },
  },
  {
    name: "openai.stream",
    requires: "chunks with index, role and finish_reason, ended by [DONE]",
    run: async (target) => {
      const reply = await target.stream("/v1/chat/completions", chat(target, { stream: true }));
      const { chunks } = readChatStream(reply);
      const ids = new Set(chunks.map(({ id }) => id));
      must(ids.size === 1, "one id in all chunks", [...ids]);
      return undefined;
    },
  },
  {
    name: "openai.choices",
    requires: "n answers with indexes of their own, whole and streamed",
    run: async (target) => {
      const asked = chat(target, { n: 2, max_tokens: 4 });
      const body = ok(await target.post("/v1/chat/completions", asked));
      const places = listAt(body, "choices").map((choice) => at(choice, "index"));
      must(places.join() === "0,1", "choices 0 and 1", places);
      const reply = await target.stream("/v1/chat/completions", { ...asked, stream: true });
      const { chunks } = readChatStream(reply);
      const ended = chunks
        .flatMap((chunk) => listAt(chunk, "choices"))
        .filter((choice) => typeof at(choice, "finish_reason") === "string")
        .map((choice) => at(choice, "index"));
      must(ended.sort().join() === "0,1", "an end of choices 0 and 1", ended);
      return undefined;
    },
  },
  {
    name: "openai.fields",
    requires: "fields that change nothing, and null for absent ones, are accepted",
    run: async (target) => {
      const neutral = {
        user: "someone",
        metadata: { a: "b" },
        store: false,
        stop: null,
        seed: 1,
        tools: null,
      };
      const { max_tokens: limit, ...rest } = chat(target);
      const asked = { ...rest, max_completion_tokens: limit, ...neutral };
      readChoice(await target.post("/v1/chat/completions", asked));
      return undefined;
    },
  },
  {
    name: "openai.tool-stream",
    requires: "a forced call streams with index, id, type, name and arguments; its name does not change",
    run: async (target) => {
      const choice = { type: "function", function: { name: "get_weather" } };
      const asked = chat(target, { stream: true, tools: [weatherTool], tool_choice: choice });
      const { calls } = readChatStream(await target.stream("/v1/chat/completions", asked));
      must(calls.length > 0 && calls[0]?.name === "get_weather", "a call of get_weather", calls);
      return undefined;
    },
  },
  {
    name: "openai.stream-error",
    requires: "what is wrong with a request is an error status with a JSON body, streamed or not",
    run: async (target) => {
      const asked = chat(target, { stream: true, temperature: -1 });
      mustBeError(await target.stream("/v1/chat/completions", asked), 400, 422);
      mustBeError(await target.post("/v1/chat/completions", "{"), 400, 422);
      const none = { model: "no-such-model", messages: [{ role: "user", content: "x" }] };
      mustBeError(await target.post("/v1/chat/completions", none), 400, 404);
      return undefined;
    },
  },
  {
    name: "openai.late-error",
    requires: "an error in the middle of a stream is an event with an error member, and no [DONE] follows",
    script: {
      answers: ["<|channel|>final<|message|>One two three four.<|return|>"],
      failAt: { token: 5, error: new Error("the script fails here") },
    },
    run: async (target) => {
      const reply = await target.stream("/v1/chat/completions", chat(target, { stream: true }));
      const events = mustStream(reply);
      const last = events.at(-1)!.data;
      if (last === "[DONE]") skip("nothing went wrong here");
      const message = at(parsed(last), "error", "message");
      must(typeof message === "string" && message !== "", "data: {error: {message}} as the last event", last);
      must(!message.includes("the script fails"), "a message without internals", message);
      return undefined;
    },
  },
  {
    name: "openai.retry",
    requires: "an overloaded server answers 503 or 429 with retry-after, which the client obeys",
    script: { answers: [""], refuse: unexpected("queue_full", "engine", "a place", "none") },
    run: async (target) => {
      const reply = await target.post("/v1/chat/completions", chat(target));
      if (reply.status === 200) skip("it was not overloaded");
      mustBeError(reply, 503, 429);
      const wait = Number(reply.headers.get("retry-after"));
      must(wait > 0 && wait <= 60, "retry-after of 1 to 60 seconds", reply.headers.get("retry-after"));
      return undefined;
    },
  },
  {
    name: "openai.completions",
    requires: "text completions with echo and log-probabilities",
    run: async (target) => {
      const asked = { model: target.model, prompt: "The web", max_tokens: 4, echo: true, logprobs: 1 };
      const body = ok(await target.post("/v1/completions", asked));
      const choice = at(body, "choices", 0);
      must(textAt(choice, "text").startsWith("The web"), "the prompt before the text", choice);
      const chances = listAt(choice, "logprobs", "token_logprobs");
      must(chances.length > 0, "logprobs.token_logprobs", at(choice, "logprobs"));
      return undefined;
    },
  },
  {
    name: "openai.embeddings",
    requires:
      "embeddings as base64 of little-endian float32, which the client asks for unless told otherwise",
    run: async (target) => {
      const asked = { model: target.model, input: ["HTTPS", "encrypts"] };
      const plain = await target.post("/v1/embeddings", { ...asked, encoding_format: "float" });
      if (plain.status !== 200) {
        mustBeError(plain, 400, 404, 405, 501);
        skip("no embeddings are served");
      }
      const packed = ok(await target.post("/v1/embeddings", { ...asked, encoding_format: "base64" }));
      for (const place of [0, 1]) {
        const numbers = listAt(plain.json, "data", place, "embedding").map(Number);
        const text = textAt(packed, "data", place, "embedding");
        const bytes = Buffer.from(text, "base64");
        must(numbers.length > 0 && bytes.length === numbers.length * 4, "4 bytes a number", bytes.length);
        const far = numbers.findIndex((n, i) => Math.abs(n - bytes.readFloatLE(i * 4)) > 1e-5);
        must(far < 0, "the same numbers in both forms", `number ${far} differs`);
      }
      return undefined;
    },
  },
  {
    name: "openai.responses",
    requires: "a response stream announces items and parts before their deltas, at the same places",
    run: async (target) => {
      const asked = {
        model: target.model,
        input: "Why does HTTPS matter?",
        max_output_tokens: 24,
        stream: true,
      };
      const events = mustStream(await target.stream("/v1/responses", asked));
      const open = new Set<unknown>();
      for (const { data } of events) {
        if (data === "[DONE]") continue;
        const event = parsed(data);
        must(isObject(event), "a JSON object in every event", data);
        const { type, output_index: item, content_index: part } = event;
        must(typeof type === "string", "a type in every event", data);
        if (type === "response.output_item.added") open.add(item);
        if (type === "response.content_part.added") {
          must(open.has(item), "the item before its part", data);
          open.add(`${item}/${part}`);
        }
        if (type === "response.output_text.delta")
          must(open.has(item) && open.has(`${item}/${part}`), "item and part before a delta", data);
      }
      must(open.size > 0, "an output item", "none");
      return undefined;
    },
  },
];
