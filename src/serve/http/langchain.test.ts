/** LangChain's client for OpenAI against the server: its chat path and its responses path. */
import { afterAll, expect, test } from "bun:test";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { type TestServer, testServer, until } from "./testing/client.ts";
import { call, harmonyModel, speech } from "./testing/scripted.ts";

const name = "Test-Model.gguf";
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = {
  type: "function" as const,
  function: { name: "weather", description: "Weather of a city", parameters },
};

const servers: TestServer[] = [];
afterAll(() => Promise.all(servers.map((server) => server.stop({ force: true }))));

async function chatOf(served: ReturnType<typeof harmonyModel>, useResponsesApi = false): Promise<ChatOpenAI> {
  const server = await testServer(served);
  servers.push(server);
  return new ChatOpenAI({
    ...{ model: name, apiKey: "none", maxRetries: 0, useResponsesApi },
    configuration: { baseURL: `${server.url}/v1` },
  });
}

for (const path of ["chat", "responses"] as const) {
  const responses = path === "responses";

  test(`${path}: an answer, whole and streamed, with usage`, async () => {
    const chat = await chatOf(harmonyModel(speech("The right website.")), responses);
    const answer = await chat.invoke("Why?");
    expect(answer.text).toBe("The right website.");
    const usage = answer.usage_metadata!;
    expect(usage.total_tokens).toBe(usage.input_tokens + usage.output_tokens);
    expect(usage.output_token_details?.reasoning).toBe(2);
    let text = "";
    let total: number | undefined;
    for await (const chunk of await chat.stream("Why?")) {
      text += chunk.text;
      total = chunk.usage_metadata?.total_tokens ?? total;
    }
    expect(text).toBe("The right website.");
    expect(total).toBe(usage.total_tokens);
  });

  test(`${path}: a tool is called, its result goes back, the text comes`, async () => {
    for (const streamed of [false, true]) {
      const served = harmonyModel({
        answers: [call("weather", '{"city":"Oslo"}')],
        later: [speech("Snow.")],
      });
      const chat = (await chatOf(served, responses)).bindTools([weather]);
      const asked = new HumanMessage("Oslo?");
      let first = streamed ? undefined : await chat.invoke([asked]);
      if (streamed) {
        for await (const chunk of await chat.stream([asked])) first = first ? first.concat(chunk) : chunk;
      }
      expect(first!.tool_calls).toMatchObject([
        { name: "weather", args: { city: "Oslo" }, type: "tool_call" },
      ]);
      const result = new ToolMessage({ content: "-3C", tool_call_id: first!.tool_calls![0]!.id! });
      const second = await chat.invoke([asked, first!, result]);
      expect(second.text).toBe("Snow.");
      const prompt = served.tokenizer.decode(served.engine.requests.at(-1)!.prompt, { special: true });
      expect(prompt).toContain("-3C");
    }
  });

  test(`${path}: leaving a stream frees the engine`, async () => {
    const served = harmonyModel({ answers: [speech("word ".repeat(1500))], tokenMs: 1 });
    const chat = await chatOf(served, responses);
    const leave = new AbortController();
    const read = async () => {
      for await (const _ of await chat.stream("Why?", { signal: leave.signal })) leave.abort();
    };
    await read().catch(() => {});
    await until(() => served.engine.running === 0 && served.engine.cancelled === 1);
  });
}

test("chat: reasoning is kept beside the text", async () => {
  const chat = await chatOf(harmonyModel(speech("Four.", "Two and two.")));
  const answer = await chat.invoke("Sum?");
  expect(answer.additional_kwargs.reasoning_content).toBe("Two and two.");
});

test("errors have status and code", async () => {
  const chat = await chatOf(harmonyModel({ answers: [speech("x")], contextLength: 64 }));
  const failure: unknown = await chat.invoke("x".repeat(999)).catch((error: unknown) => error);
  expect(failure).toMatchObject({ status: 400, code: "context_length_exceeded" });
});
