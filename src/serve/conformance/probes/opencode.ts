import { at, isCount } from "../json.ts";
import { must, type Probe, skip } from "../probe.ts";
import { chat, contextOf, modelEntry, mustBeError, readChatStream } from "../shapes.ts";
import { ok, type Target } from "../target.ts";

/** Counts the prompt of a message of `words` words. */
async function promptTokens(target: Target, words: number): Promise<number> {
  const messages = [{ role: "user", content: "safe ".repeat(words) }];
  const body = ok(await target.post("/v1/chat/completions", chat(target, { messages, max_tokens: 1 })));
  const tokens = at(body, "usage", "prompt_tokens");
  must(isCount(tokens), "usage.prompt_tokens", at(body, "usage"));
  return tokens;
}

/** Words of the longest prompt that is only counted; more would take long on a large model. */
const mostWords = 4000;

/** What OpenCode needs beyond the AI SDK it is made with: limits that hold and agents' large requests. */
export const opencodeProbes: readonly Probe[] = [
  {
    name: "opencode.limits",
    requires: "the model's entry says its context, so that a client's own setting can agree with it",
    threads: "anomalyco/opencode#729, #1034, #7083",
    run: async (target) => {
      const length = contextOf(await modelEntry(target));
      must(length !== undefined, "a context length in the model's entry", "none");
      return `${length} tokens`;
    },
  },
  {
    name: "opencode.whole-prompt",
    requires: "a long prompt is counted whole: twice the text, twice the tokens",
    threads: "ollama/ollama#3839, anomalyco/opencode#729",
    run: async (target) => {
      const length = contextOf(await modelEntry(target)) ?? 8192;
      const words = Math.min(mostWords, Math.floor(length / 4));
      const empty = await promptTokens(target, 0);
      const half = (await promptTokens(target, words / 2)) - empty;
      const whole = (await promptTokens(target, words)) - empty;
      must(Math.abs(whole - 2 * half) <= 4 + half / 50, `about ${2 * half} tokens`, whole);
      return undefined;
    },
  },
  {
    name: "opencode.agent-request",
    requires: "a system prompt, ten tools with nested schemas and usage in a stream, all at once",
    run: async (target) => {
      const parameters = {
        $schema: "http://json-schema.org/draft-07/schema#",
        type: "object",
        properties: { path: { type: "string" }, edits: { type: "array", items: { type: "object" } } },
        required: ["path"],
        additionalProperties: false,
      };
      const tools = Array.from({ length: 10 }, (_, i) => ({
        type: "function",
        function: { name: `tool_${i}`, description: "Edits a file", parameters },
      }));
      const messages = [
        { role: "system", content: "You are a coding agent." },
        { role: "user", content: [{ type: "text", text: "Say hello." }] },
      ];
      const more = {
        messages,
        tools,
        tool_choice: "auto",
        stream: true,
        stream_options: { include_usage: true },
      };
      readChatStream(await target.stream("/v1/chat/completions", chat(target, more)));
      return undefined;
    },
  },
  {
    name: "opencode.media",
    requires: "an image for a model without eyes is refused with an error, not ignored",
    run: async (target) => {
      const url = "data:image/png;base64,iVBORw0KGgo=";
      const content = [
        { type: "text", text: "What is this?" },
        { type: "image_url", image_url: { url } },
      ];
      const reply = await target.post(
        "/v1/chat/completions",
        chat(target, { messages: [{ role: "user", content }] }),
      );
      if (reply.status === 200) skip("the model takes images");
      mustBeError(reply, 400, 415, 422, 501);
      return undefined;
    },
  },
];
