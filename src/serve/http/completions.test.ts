import { expect, test } from "bun:test";
import { sseData, testServer } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

type Choice = { index: number; text: string; finish_reason: string; logprobs: Record<string, unknown[]> };

test("prompts as text, ids and lists of them; choice c of prompt p has index p n + c", async () => {
  const model = scriptedModel({ answers: ["one", "two"] });
  await using server = await testServer(model);
  const ask = async (body: object): Promise<Choice[]> =>
    (await (await server.post("/v1/completions", body)).json()).choices;
  expect((await ask({ prompt: "hi" })).map(({ text }) => text)).toEqual(["one"]);
  expect((await ask({ prompt: [104, 105], max_tokens: 2 }))[0]).toMatchObject({
    text: "on",
    finish_reason: "length",
  });
  const many = await ask({ prompt: ["a", "b"], n: 2, echo: true });
  expect(many.map(({ index, text }) => [index, text])).toEqual([
    [0, "aone"],
    [1, "atwo"],
    [2, "bone"],
    [3, "btwo"],
  ]);
  expect(await ask({ prompt: [[104], [105]] })).toHaveLength(2);
  expect(model.engine.requests.slice(-2).map(({ prompt }) => prompt)).toEqual([[104], [105]]);
});

test("the engine hears of a request when its prompt is there, not of one that is refused", async () => {
  const model = scriptedModel("one");
  await using server = await testServer(model);
  const refused = await server.post("/v1/completions", { prompt: [-1] });
  expect([refused.status, model.engine.expected]).toEqual([400, 0]);
  await server.post("/v1/completions", { prompt: "hi" });
  expect([model.engine.expected, model.engine.requests.length]).toEqual([1, 1]);
  await server.post("/v1/chat/completions", { messages: [{ role: "user", content: "hi" }] });
  expect([model.engine.expected, model.engine.requests.length]).toEqual([2, 2]);
});

test("echo with logprobs scores the prompt; the first token has none", async () => {
  await using server = await testServer(scriptedModel("é"));
  const body = await (await server.post("/completions", { prompt: "abc", echo: true, logprobs: 2 })).json();
  expect(body.object).toBe("text_completion");
  const { text, logprobs } = body.choices[0] as Choice;
  expect(text).toBe("abcé");
  expect(logprobs.token_logprobs).toEqual([null, -2, -2, -0.5, -0.5]);
  expect(logprobs.text_offset).toEqual([0, 1, 2, 3, 3]);
  expect(logprobs.tokens).toHaveLength(5);
  expect(Object.keys(logprobs.top_logprobs![3] as object)).toHaveLength(1); // two halves of characters look alike
});

test("text offsets count characters, as clients index them, whatever UTF-16 takes", async () => {
  await using server = await testServer(scriptedModel("a\u{1f600}b\u{1f1e9}\u{1f1ea}c"));
  const asked = { prompt: "\u{1f600}x", echo: true, logprobs: 1 };
  const [choice] = (await (await server.post("/v1/completions", asked)).json()).choices;
  const points = [...choice.text];
  expect(points).toHaveLength(8);
  const { text_offset, tokens } = choice.logprobs;
  // a token is a byte here: the four of a character lie where it begins
  const firsts = text_offset.filter((offset: number, i: number) => offset !== text_offset[i - 1]);
  expect(firsts).toEqual(points.map((_, i) => i));
  const plain = tokens.flatMap((token: string, i: number) =>
    token === "\ufffd" ? [] : [[token, text_offset[i]]],
  );
  expect(plain).toEqual(points.flatMap((point, i) => (/[a-z]/.test(point) ? [[point, i]] : [])));

  const streamed = await server.post("/v1/completions", { ...asked, stream: true, stop: ["c"] });
  const parts = sseData(await streamed.text())
    .filter((line) => line !== "[DONE]")
    .flatMap((line) => JSON.parse(line).choices as Choice[]);
  expect(parts.map(({ text }) => text).join("")).toBe(points.slice(0, -1).join(""));
  const offsets = parts.flatMap(({ logprobs }) => logprobs?.text_offset ?? []);
  expect(offsets).toEqual(text_offset.slice(0, -1));
});

test("an echo is the prompt as it was sent, without the token that models want before it", async () => {
  const plain = scriptedModel("x");
  const model = { ...plain, tokenizer: { ...plain.tokenizer, addBos: true, bos: 257 } };
  await using server = await testServer(model);
  const ask = async (body: object): Promise<Choice> =>
    (await (await server.post("/v1/completions", { echo: true, logprobs: 1, ...body })).json()).choices[0];
  const { text, logprobs } = await ask({ prompt: "abc" });
  expect(text).toBe("abcx");
  expect(logprobs.text_offset).toEqual([0, 0, 1, 2, 3]);
  expect(logprobs.tokens![0]).toBe("<|think|>");
  expect((await ask({ prompt: "" })).text).toBe("x");
  // what was sent as ids or as a control token written out is the caller's own
  expect((await ask({ prompt: [257, 97] })).text).toBe("<|think|>ax");
  expect((await ask({ prompt: "<|think|>a", parse_special: true })).text).toBe("<|think|>ax");
  expect(plain.engine.requests.map(({ prompt }) => prompt)).toEqual([
    [257, 97, 98, 99],
    [257],
    [257, 97],
    [257, 97],
  ]);
});

test("a stream of several prompts", async () => {
  await using server = await testServer(scriptedModel("hello"));
  const response = await server.post("/v1/completions", {
    prompt: ["a", "b", "c", "d", "e", "f"],
    stream: true,
    stream_options: { include_usage: true },
  });
  const data = sseData(await response.text());
  expect(data.at(-1)).toBe("[DONE]");
  const texts = Array(6).fill("");
  const chunks = data.slice(0, -1).map((line) => JSON.parse(line));
  for (const { choices } of chunks) for (const { index, text } of choices) texts[index] += text;
  expect(texts).toEqual(Array(6).fill("hello"));
  expect(chunks.at(-1).usage).toMatchObject({ prompt_tokens: 6, completion_tokens: 36 });
});

test("control tokens in a prompt count as text unless asked for", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  await server.post("/v1/completions", { prompt: "<|end|>" });
  await server.post("/v1/completions", { prompt: "<|end|>", parse_special: true });
  expect(model.engine.requests.map(({ prompt }) => prompt.length)).toEqual([7, 1]);
});

test("refusals", async () => {
  await using server = await testServer(scriptedModel("x"));
  const cases: [object, string][] = [
    [{}, "prompt"],
    [{ prompt: [] }, "prompt"],
    [{ prompt: {} }, "prompt"],
    [{ prompt: "" }, "prompt"],
    [{ prompt: ["a", 5] }, "prompt[1]"],
    [{ prompt: [1, "a"] }, "prompt[1]"],
    [{ prompt: [1, -5] }, "prompt[1]"],
    [{ prompt: [1, 99999] }, "prompt[1]"],
    [{ prompt: [99999, 2.5] }, "prompt[1]"],
    [{ prompt: [1, 2, null] }, "prompt[2]"],
    [{ prompt: [1, 2 ** 40] }, "prompt[1]"],
    [{ prompt: Array(65).fill("a") }, "prompt"],
    [{ prompt: "a", logprobs: true }, "logprobs"],
    [{ prompt: "a", suffix: "b" }, "suffix"],
    [{ prompt: "a", best_of: 3 }, "best_of"],
  ];
  for (const [body, param] of cases) {
    const response = await server.post("/v1/completions", body);
    expect(response.status).toBe(400);
    expect((await response.json()).error.param).toBe(param);
  }
});
