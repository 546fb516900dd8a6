import { at, listAt, textAt } from "../json.ts";
import { must, type Probe, skip } from "../probe.ts";
import {
  chat,
  mustBeClean,
  mustBeUsage,
  readChatStream,
  readChoice,
  weatherQuestion,
  weatherTool,
} from "../shapes.ts";
import { ok } from "../target.ts";

/** What LangChain's `ChatOpenAI` sends and reads, on its chat and its responses path. */
export const langchainProbes: readonly Probe[] = [
  {
    name: "langchain.usage",
    requires: "stream_options.include_usage is accepted, and one last chunk has the usage",
    run: async (target) => {
      const asked = chat(target, { stream: true, stream_options: { include_usage: true } });
      const { usage, chunks } = readChatStream(await target.stream("/v1/chat/completions", asked));
      mustBeUsage(usage);
      const reports = chunks.filter((chunk) => chunk.usage !== null && chunk.usage !== undefined);
      must(reports.at(-1) === chunks.at(-1), "the usage in the last chunk", reports.length);
      return undefined;
    },
  },
  {
    name: "langchain.reasoning",
    requires: "reasoning comes as reasoning_content, apart from content, in whole answers and streams",
    script: {
      answers: [
        "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>",
      ],
    },
    run: async (target) => {
      const path = "/v1/chat/completions";
      const body = ok(await target.post(path, chat(target, { max_tokens: 200 })));
      const message = at(body, "choices", 0, "message");
      const thought = textAt(message, "reasoning_content") || textAt(message, "reasoning");
      mustBeClean("content", textAt(message, "content"));
      if (thought === "") skip("the model did not reason");
      const asked = chat(target, { stream: true, max_tokens: 200 });
      const { reasoning, content } = readChatStream(await target.stream(path, asked));
      must(reasoning === thought, "the same reasoning in a stream", reasoning);
      must(content === textAt(message, "content"), "the same content in a stream", content);
      return undefined;
    },
  },
  {
    name: "langchain.tool-result",
    requires: "a history with a call (content null or empty) and its result is accepted",
    run: async (target) => {
      for (const content of [null, ""]) {
        const call = {
          id: "call_1",
          type: "function",
          function: { name: "get_weather", arguments: '{"city":"Oslo"}' },
        };
        const messages = [
          ...weatherQuestion,
          { role: "assistant", content, tool_calls: [call] },
          { role: "tool", tool_call_id: "call_1", content: "Snow, -3C" },
        ];
        readChoice(
          await target.post("/v1/chat/completions", chat(target, { messages, tools: [weatherTool] })),
        );
      }
      return undefined;
    },
  },
  {
    name: "langchain.responses",
    requires: "a response with output items, texts in their content, and usage",
    run: async (target) => {
      const asked = { model: target.model, input: "Why does HTTPS matter?", max_output_tokens: 64 };
      const body = ok(await target.post("/v1/responses", asked));
      must(at(body, "object") === "response", 'object "response"', at(body, "object"));
      must(textAt(body, "id") !== "", "an id", at(body, "id"));
      const items = listAt(body, "output");
      must(
        items.length > 0 && items.every((item) => textAt(item, "type") !== ""),
        "items with a type",
        items,
      );
      const message = items.find((item) => at(item, "type") === "message");
      const part = at(message, "content", 0);
      if (message === undefined) skip("the answer has no message within 64 tokens");
      must(at(part, "type") === "output_text" && typeof at(part, "text") === "string", "output_text", part);
      for (const name of ["input_tokens", "output_tokens", "total_tokens"])
        must(typeof at(body, "usage", name) === "number", `usage.${name}`, at(body, "usage"));
      return undefined;
    },
  },
];
