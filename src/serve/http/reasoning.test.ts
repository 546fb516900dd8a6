import { expect, test } from "bun:test";
import { sseData, testServer } from "./testing/client.ts";
import { call, harmonyModel, scriptedModel, speech } from "./testing/scripted.ts";

const chat = "/v1/chat/completions";
const messages = [{ role: "user", content: "hi" }];
const tools = [{ type: "function", function: { name: "f", parameters: { type: "object", properties: {} } } }];

const promptOf = (model: ReturnType<typeof harmonyModel>): string =>
  model.tokenizer.decode(model.engine.requests.at(-1)!.prompt, { special: true });

test("reasoning ends at its budget, and the answer goes on from there", async () => {
  const model = harmonyModel({ answers: [speech("never", "abcdefgh")], later: ["Hello.<|return|>"] });
  await using server = await testServer(model);
  const body = await (await server.post(chat, { messages, thinking_budget_tokens: 3 })).json();
  expect(body.choices[0]).toMatchObject({
    finish_reason: "stop",
    message: { content: "Hello.", reasoning_content: "abc" },
  });
  const before = "<|start|>assistant<|channel|>analysis<|message|>abc";
  expect(promptOf(model)).toEndWith(`${before}<|end|><|start|>assistant<|channel|>final<|message|>`);
  // tokens that the server wrote are nobody's completion; the prompt counts once
  expect(body.usage.completion_tokens_details.reasoning_tokens).toBe(3);
  expect(body.usage.prompt_tokens).toBe(model.engine.requests[0]!.prompt.length);
  // <|channel|> analysis <|message|> abc, and Hello. <|return|>
  expect(body.usage.completion_tokens).toBe(1 + 8 + 1 + 3 + 6 + 1);
  expect(model.engine.running).toBe(0);
});

test("beside tools the model chooses what follows, until it reasons again", async () => {
  const again = "<|channel|>analysis<|message|>more<|end|>";
  const model = harmonyModel({ answers: [speech("never", "abcdefgh")], later: [again, "Done.<|return|>"] });
  await using server = await testServer(model);
  const asked = { messages, tools, thinking: { type: "enabled", budget_tokens: 2 }, stream: true };
  const text = await (await server.post(chat, asked)).text();
  const deltas = sseData(text)
    .slice(0, -1)
    .map((line) => JSON.parse(line).choices[0].delta);
  expect(deltas.map(({ reasoning_content = "" }) => reasoning_content).join("")).toBe("abm");
  expect(deltas.map(({ content = "" }) => content).join("")).toBe("Done.");
  expect(model.engine.requests).toHaveLength(3);
  const calling = harmonyModel({
    answers: [speech("never", "abcdefgh")],
    later: [`${call("f", "{}", "x").split("<|end|><|start|>assistant")[1]}`],
  });
  await using other = await testServer(calling);
  const called = await (await other.post(chat, { messages, tools, thinking_budget_tokens: 2 })).json();
  expect(called.choices[0]).toMatchObject({
    finish_reason: "tool_calls",
    message: { reasoning_content: "ab" },
  });
});

test("a budget that is not reached changes nothing; limits and the end of the context still hold", async () => {
  const model = harmonyModel(speech("Hello.", "abc"));
  await using server = await testServer(model);
  const plain = await (await server.post(chat, { messages, thinking_budget_tokens: 4 })).json();
  expect(plain.choices[0].message).toMatchObject({ content: "Hello.", reasoning_content: "abc" });
  expect(model.engine.requests).toHaveLength(1);
  const cut = await (await server.post(chat, { messages, thinking_budget_tokens: 2, max_tokens: 12 })).json();
  expect(cut.choices[0].finish_reason).toBe("length");
  expect(cut.usage.completion_tokens).toBe(12);
  const several = await server.post(chat, { messages, thinking_budget_tokens: 2, n: 2 });
  expect((await several.json()).error.param).toBe("n");
  const unbounded = await server.post(chat, { messages, thinking_budget_tokens: -1, n: 2 });
  expect(unbounded.status).toBe(200);
});

test("off: the format's own way, an answer begun for the model, or an end at once beside tools", async () => {
  for (const off of [
    { reasoning_effort: "none" },
    { thinking_budget_tokens: 0 },
    { thinking: { type: "disabled" } },
  ]) {
    const model = harmonyModel({ answers: ["Hi.<|return|>"] });
    await using server = await testServer(model);
    const body = await (await server.post(chat, { messages, ...off })).json();
    expect(body.choices[0].message).toEqual({ role: "assistant", content: "Hi.", refusal: null });
    expect(promptOf(model)).toEndWith("<|channel|>final<|message|>");
  }
  const model = harmonyModel({
    answers: [speech("never", "abc")],
    later: ["<|channel|>final<|message|>Hi.<|return|>"],
  });
  await using server = await testServer(model);
  const body = await (await server.post(chat, { messages, tools, reasoning_effort: "none" })).json();
  expect(body.usage.completion_tokens_details.reasoning_tokens).toBe(1);
  expect(body.choices[0].message.content).toBe("Hi.");
  // this format reads enable_thinking
  await using lines = await testServer(scriptedModel("x"));
  expect((await lines.post(chat, { messages, reasoning_effort: "none" })).status).toBe(200);
});

test("efforts between and beyond the three levels become the nearest", async () => {
  const model = harmonyModel(speech("x"));
  await using server = await testServer(model);
  for (const [asked, told] of [
    ["minimal", "low"],
    ["medium", "medium"],
    ["xhigh", "high"],
  ]) {
    await (await server.post(chat, { messages, reasoning_effort: asked })).text();
    expect(promptOf(model)).toContain(`Reasoning: ${told}`);
  }
});

test("a format without an end of reasoning refuses a budget where it would be lost", async () => {
  await using server = await testServer(scriptedModel("x"));
  const refused = await server.post(chat, { messages, thinking_budget_tokens: 5 });
  expect((await refused.json()).error.param).toBe("thinking_budget_tokens");
  const agent = await server.post("/v1/responses", { input: "hi", thinking_budget_tokens: 5 });
  expect(agent.headers.get("x-psionic-ignored")).toBe("thinking_budget_tokens");
});
