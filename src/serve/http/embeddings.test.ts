import { expect, test } from "bun:test";
import OpenAI from "openai";
import { type TestServer, testServer, until } from "./testing/client.ts";
import { byteTokenizer, scriptedModel } from "./testing/scripted.ts";

const path = "/v1/embeddings";

async function numbers(server: TestServer, body: object): Promise<number[][]> {
  const answer = await (await server.post(path, body)).json();
  return answer.data.map(({ embedding }: { embedding: number[] }) => embedding);
}

test("one vector for each input, in order, whatever form it has", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  const response = await server.post(path, { model: "Test-Model", input: ["abc", "d"] });
  expect(response.headers.get("x-psionic-backend")).toBe("cpu");
  const body = await response.json();
  expect(body).toMatchObject({
    object: "list",
    model: "Test-Model",
    usage: { prompt_tokens: 4, total_tokens: 4 },
  });
  expect(body.data.map((d: { object: string; index: number }) => [d.object, d.index])).toEqual([
    ["embedding", 0],
    ["embedding", 1],
  ]);
  const [abc, d] = body.data.map((entry: { embedding: number[] }) => entry.embedding);
  expect(await numbers(server, { input: "abc" })).toEqual([abc]);
  expect(await numbers(server, { input: [97, 98, 99] })).toEqual([abc]);
  expect(await numbers(server, { input: [[97, 98, 99], [100]] })).toEqual([abc, d]);
  expect(model.engine.requests.every(({ embedding, maxTokens }) => embedding && maxTokens === 0)).toBe(true);
  expect(server.lines[0]).toContain("prompt=4");
  const status = await (await server.get("/psionic/management/status")).json();
  expect(status.last_route_execution).toMatchObject({ route: path, model: "Test-Model.gguf" });
});

test("base64 is little-endian float32, which the openai client reads", async () => {
  await using server = await testServer(scriptedModel("x"));
  const [plain] = await numbers(server, { input: "abc", encoding_format: "float" });
  const packed = await (await server.post(path, { input: "abc", encoding_format: "base64" })).json();
  const bytes = Buffer.from(packed.data[0].embedding, "base64");
  expect(plain!.map((_, i) => bytes.readFloatLE(4 * i))).toEqual(plain!);
  const openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
  const asked = await openai.embeddings.create({ model: "Test-Model", input: "abc" });
  expect(asked.data[0]?.embedding).toEqual(plain!);
});

test("dimensions keep the first numbers at length 1", async () => {
  await using server = await testServer(scriptedModel("x"));
  const [whole] = await numbers(server, { input: "abc" });
  const [short] = await numbers(server, { input: "abc", dimensions: 3 });
  expect(short).toHaveLength(3);
  expect(Math.hypot(...short!)).toBeCloseTo(1, 6);
  expect(short![1]! / short![0]!).toBeCloseTo(whole![1]! / whole![0]!, 4);
  expect(await numbers(server, { input: "abc", dimensions: 8 })).toEqual([whole!]);
});

test("the card says what is made and how", async () => {
  await using server = await testServer(scriptedModel("x"));
  const card = (await (await server.get("/v1/models")).json()).data[0];
  expect(card).toMatchObject({
    psionic_embedding_dimensions: 8,
    psionic_embedding_normalization: "UnitLength",
    psionic_embedding_pooling: "mean",
    psionic_embedding_pooling_source: "default",
  });
  expect(card.psionic_supported_endpoints).toContain(path);
});

test("refusals name the field", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  const cases: [object, string, string][] = [
    [{}, "input", "invalid_value"],
    [{ input: [] }, "input", "invalid_value"],
    [{ input: "" }, "input", "invalid_value"],
    [{ input: {} }, "input", "invalid_value"],
    [{ input: ["a", ""] }, "input[1]", "invalid_value"],
    [{ input: ["a", 5] }, "input[1]", "invalid_value"],
    [{ input: [1, -5] }, "input[1]", "invalid_value"],
    [{ input: [[1], [1.5]] }, "input[1][0]", "invalid_value"],
    [{ input: [99999] }, "input[0]", "invalid_value"],
    [{ input: Array(2049).fill("a") }, "input", "invalid_value"],
    [{ input: "a", dimensions: 9 }, "dimensions", "invalid_value"],
    [{ input: "a", dimensions: 0 }, "dimensions", "invalid_value"],
    [{ input: "a", encoding_format: "int8" }, "encoding_format", "invalid_value"],
    [{ input: "a", model: "other" }, "model", "model_not_found"],
    [{ input: ["a", "b".repeat(600)] }, "input", "context_length_exceeded"],
  ];
  for (const [body, param, code] of cases) {
    const response = await server.post(path, body);
    const { error } = await response.json();
    expect([response.status, error.param, error.code]).toEqual([400, param, code]);
  }
  expect(model.engine.requests).toHaveLength(0);
  expect(server.errors).toEqual([]);
});

test("control tokens in a text count as text unless asked for", async () => {
  const model = scriptedModel("x");
  await using server = await testServer(model);
  await server.post(path, { input: "<|end|>" });
  await server.post(path, { input: "<|end|>", parse_special: true });
  expect(model.engine.requests.map(({ prompt }) => prompt.length)).toEqual([7, 1]);
});

test("a model that is no reranker refuses to rank, one that is refuses to embed", async () => {
  const plain = scriptedModel("x");
  const question = { query: "a", documents: ["b", "c"] };
  {
    await using server = await testServer(plain);
    const response = await server.post("/v1/rerank", question);
    expect(response.status).toBe(400);
    expect((await response.json()).error).toMatchObject({ code: "unsupported_capability", param: "model" });
    for (const body of [{ query: "a" }, { query: "a", documents: [] }, { ...question, documents: [1] }])
      expect((await server.post("/v1/rerank", body)).status).toBe(400);
  }
  const ranker = scriptedModel("x");
  Object.assign(ranker.engine.info, { embedding: { dimensions: 2, pooling: "rank", declared: true } });
  const rerankTemplate = "<|think|>{query}<|answer|>{document}<|end|>";
  await using server = await testServer({ ...ranker, rerankTemplate });
  const response = await server.post("/v1/rerank", { ...question, return_documents: true });
  const body = await response.json();
  expect(body.results.map(({ index }: { index: number }) => index).sort()).toEqual([0, 1]);
  expect(body.results[0].relevance_score).toBeGreaterThanOrEqual(body.results[1].relevance_score);
  expect(body.results[0].document.text).toBe(question.documents[body.results[0].index]!);
  expect(ranker.engine.requests[0]!.prompt).toEqual([257, 97, 258, 98, 256]);
  const best = await (await server.post("/v1/rerank", { ...question, top_n: 1 })).json();
  expect(best.results).toHaveLength(1);
  // what the texts say is never a control token
  await server.post("/v1/rerank", { query: "{document}<|end|>", documents: ["d"] });
  expect(ranker.engine.requests.at(-1)!.prompt).toEqual([
    257,
    ...byteTokenizer().encode("{document}<|end|>", { special: false }),
    ...[258, 100, 256],
  ]);
  expect((await (await server.post(path, { input: "a" })).json()).error.code).toBe("unsupported_capability");
});

test("a client that leaves ends the work on its texts", async () => {
  const model = scriptedModel({ answers: ["x"], prefillMs: 30 });
  await using server = await testServer(model);
  const leaving = new AbortController();
  const asked = server.post(path, { input: Array(200).fill("a") }, { signal: leaving.signal });
  await until(() => model.engine.running === 2);
  leaving.abort();
  await expect(asked).rejects.toThrow();
  await until(() => model.engine.running === 0);
  // two at once of four slots
  expect(model.engine.requests.length).toBeLessThan(20);
});
