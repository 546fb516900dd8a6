import { expect, test } from "bun:test";
import { sseData, type TestServer, testServer } from "./testing/client.ts";
import { familyModel, harmonyModel, speech } from "./testing/scripted.ts";

const chat = "/v1/chat/completions";
const messages = [{ role: "user", content: "hi" }];
const Q = '<|"|>';
const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      parameters: { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } } },
    },
  },
  { type: "web_search" },
  { type: "function", function: { name: "now" } },
];

type Family = "gemma4" | "qwen35";

/** How each family writes what the tests ask of both. */
const written = {
  qwen35: {
    call: (city: string, days: number) =>
      `<tool_call>\n<function=get_weather>\n<parameter=city>\n${city}\n</parameter>\n<parameter=days>\n${days}\n</parameter>\n</function>\n</tool_call>`,
    thought: (text: string) => `${text}\n</think>\n\n`,
    end: "<|im_end|>",
    on: { chat_template_kwargs: { enable_thinking: true } },
    forced: "<think>\n\n</think>\n\n<tool_call>\n<function=now>\n",
    chosen: "<think>\n\n</think>\n\n<tool_call>\n<function=",
    rest: ">\n</function>\n</tool_call><|im_end|>",
    parser: "qwen35_think_block",
    toolParser: "qwen35_tool_call_tags",
    result:
      "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response><|im_end|>\n",
  },
  gemma4: {
    call: (city: string, days: number) =>
      `<|tool_call>call:get_weather{city:${Q}${city}${Q},days:${days}}<tool_call|>`,
    thought: (text: string) => `<|channel>thought\n${text}\n<channel|>`,
    end: "<|tool_response>",
    on: { chat_template_kwargs: { enable_thinking: true } },
    forced: "<|turn>model\n<|channel>thought\n<channel|><|tool_call>call:now{",
    chosen: "<|turn>model\n<|channel>thought\n<channel|><|tool_call>call:",
    rest: "{}<tool_call|><|tool_response>",
    parser: "gemma4_thought_channel",
    toolParser: "gemma4_tool_call_dict",
    result: `<|tool_response>response:get_weather{value:${Q}sunny${Q}}<tool_response|><|tool_response>response:get_weather{value:${Q}rain${Q}}<tool_response|>`,
  },
} as const;

const families: readonly Family[] = ["qwen35", "gemma4"];

const promptOf = (model: ReturnType<typeof familyModel>): string =>
  model.tokenizer.decode(model.engine.requests.at(-1)!.prompt, { special: true });

async function ask(server: TestServer, fields: object) {
  const response = await server.post(chat, { messages, ...fields });
  return { response, body: await response.json() };
}

for (const family of families) {
  const form = written[family];
  const answer = `${form.thought("hm")}Let me see.\n\n${form.call("Łódź", 2)}\n${form.call("Paris", 3)}${form.end}`;

  test(`${family}: reasoning, text and parallel calls with ids and indexes, at once and streamed`, async () => {
    const model = familyModel(family, answer);
    await using server = await testServer(model);
    const { response, body } = await ask(server, { tools, ...form.on });
    expect(response.headers.get("x-psionic-ignored")).toBe("tools.web_search");
    const [choice] = body.choices;
    expect(choice.finish_reason).toBe("tool_calls");
    expect(choice.message.reasoning_content).toBe("hm");
    expect(choice.message.content).toBe("Let me see.");
    const calls = choice.message.tool_calls;
    expect(calls.map((one: { function: object }) => one.function)).toEqual([
      { name: "get_weather", arguments: '{"city":"Łódź","days":2}' },
      { name: "get_weather", arguments: '{"city":"Paris","days":3}' },
    ]);
    expect(calls.map(({ id }: { id: string }) => id)).toEqual([`${body.id}-tool-0`, `${body.id}-tool-1`]);
    expect(body.usage.completion_tokens_details.reasoning_tokens).toBe(2);

    const streamed = await (await server.post(chat, { messages, tools, stream: true, ...form.on })).text();
    const deltas = sseData(streamed)
      .slice(0, -1)
      .map((line) => JSON.parse(line).choices[0].delta);
    const pieces = deltas.flatMap(({ tool_calls = [] }) => tool_calls);
    for (const index of [0, 1]) {
      const own = pieces.filter((piece) => piece.index === index);
      expect(own.filter((piece) => piece.id !== undefined)).toHaveLength(1);
      expect(own[0].function.name).toBe("get_weather");
      expect(own.map((piece) => piece.function.arguments).join("")).toBe(calls[index].function.arguments);
      expect(own.length).toBeGreaterThan(5);
    }
    expect(deltas.map(({ content = "" }) => content).join("")).toBe("Let me see.");
    expect(deltas.map(({ reasoning_content = "" }) => reasoning_content).join("")).toBe("hm");
  });

  test(`${family}: one call only where parallel calls are off`, async () => {
    const model = familyModel(family, answer);
    await using server = await testServer(model);
    const { body } = await ask(server, { tools, parallel_tool_calls: false, ...form.on });
    expect(body.choices[0].finish_reason).toBe("tool_calls");
    expect(body.choices[0].message.tool_calls).toHaveLength(1);
    const anthropic = await server.post("/v1/messages", {
      messages,
      max_tokens: 500,
      tools: [{ name: "get_weather", input_schema: { type: "object" } }],
      tool_choice: { type: "auto", disable_parallel_tool_use: true },
      thinking: { type: "enabled", budget_tokens: 1000 },
    });
    const { content } = await anthropic.json();
    expect(content.filter(({ type }: { type: string }) => type === "tool_use")).toHaveLength(1);
  });

  test(`${family}: none, required and named`, async () => {
    const text = `${form.call("x", 1)}`;
    const none = familyModel(family, `${text}${form.end}`);
    await using server = await testServer(none);
    const { body } = await ask(server, { tools, tool_choice: "none", reasoning_effort: "none" });
    expect(body.choices[0].message.tool_calls).toBeUndefined();
    expect(body.choices[0].message.content).toBe(text);
    expect(promptOf(none)).not.toContain("get_weather");

    const named = familyModel(family, form.rest.replace(/^[>{]\n?/, ""), { setting: () => undefined });
    await using second = await testServer(named);
    const choice = { type: "function", function: { name: "now" } };
    const forced = (await ask(second, { tools, tool_choice: choice })).body.choices[0];
    expect(promptOf(named)).toEndWith(form.forced);
    expect(forced).toMatchObject({ finish_reason: "tool_calls", message: { content: null } });
    expect(forced.message.tool_calls[0].function).toEqual({ name: "now", arguments: "{}" });

    const required = familyModel(family, `now${form.rest}`);
    await using third = await testServer(required);
    const chosen = (await ask(third, { tools, tool_choice: "required" })).body.choices[0];
    expect(promptOf(required)).toEndWith(form.chosen);
    expect(chosen.message.tool_calls[0].function).toEqual({ name: "now", arguments: "{}" });
  });

  test(`${family}: results of tools reach the model as it reads them`, async () => {
    const model = familyModel(family, `Sunny.${form.end}`);
    await using server = await testServer(model);
    const call = (id: string) => ({
      id,
      type: "function",
      function: { name: "get_weather", arguments: "{}" },
    });
    const turn = [
      ...messages,
      { role: "assistant", content: null, tool_calls: [call("a"), call("b")] },
      { role: "tool", tool_call_id: "a", content: "sunny" },
      { role: "tool", tool_call_id: "b", content: "rain" },
    ];
    const { body } = await ask(server, { messages: turn, tools, reasoning_effort: "none" });
    expect(body.choices[0].message.content).toBe("Sunny.");
    expect(promptOf(model)).toContain(form.result);
  });

  test(`${family}: reasoning on, off, bounded, and the object with its parser's name`, async () => {
    const thinking = { answers: [`${form.thought("abcdef")}done${form.end}`], later: [`go on${form.end}`] };
    const model = familyModel(family, thinking);
    await using server = await testServer(model);
    const { body } = await ask(server, {
      thinking_budget_tokens: 3,
      psionic_reasoning: { mode: "separate" },
    });
    expect(body.choices[0].message).toMatchObject({ reasoning_content: "abc", content: "go on" });
    expect(body.psionic_reasoning.parser).toBe(form.parser);
    expect(body.usage.completion_tokens_details.reasoning_tokens).toBe(3);

    const off = familyModel(family, `fine${form.end}`);
    await using other = await testServer(off);
    const quiet = await ask(other, { reasoning_effort: "none" });
    expect(quiet.body.choices[0].message).toEqual({ role: "assistant", content: "fine", refusal: null });
    expect(promptOf(off)).not.toContain("<|think|>");
    const wishes = [{ reasoning_effort: "low" }, { thinking: { type: "enabled" }, n: 2 }];
    for (const wish of wishes) {
      await ask(other, wish);
      expect(promptOf(off)).toContain(family === "qwen35" ? "assistant\n<think>\n" : "<|think|>\n");
      expect(promptOf(off)).not.toContain("</think>");
    }
    const card = (await (await other.get("/v1/models")).json()).data[0];
    expect(card.psionic_tool_calling).toMatchObject({
      parser: form.toolParser,
      supported_modes: ["none", "auto", "required", "named"],
    });
  });

  test(`${family}: the Responses API gets items for reasoning and calls`, async () => {
    const model = familyModel(family, answer);
    await using server = await testServer(model);
    const flat = [{ type: "function", name: "get_weather", parameters: tools[0]!.function!.parameters }];
    const body = await (
      await server.post("/v1/responses", { input: "hi", tools: flat, reasoning: { effort: "medium" } })
    ).json();
    expect(body.output.map(({ type }: { type: string }) => type)).toEqual([
      "reasoning",
      "message",
      "function_call",
      "function_call",
    ]);
    expect(body.output[2]).toMatchObject({ name: "get_weather", arguments: '{"city":"Łódź","days":2}' });
  });

  test(`${family}: arguments that could not be an object are refused where their schema stands`, async () => {
    const model = familyModel(family, answer);
    await using server = await testServer(model);
    for (const parameters of [[], { type: "string" }, { type: ["array", "null"] }]) {
      const offered = [{ type: "function", function: { name: "now", parameters } }];
      const { response, body } = await ask(server, { tools: offered, tool_choice: "required" });
      expect([response.status, body.error.param]).toEqual([400, "tools[0].function.parameters"]);
    }
    const anyObject = [
      { type: "function", function: { name: "now", parameters: { type: ["object", "null"] } } },
    ];
    expect((await ask(server, { tools: anyObject })).response.status).toBe(200);
    expect(model.engine.requests).toHaveLength(1);
  });

  test(`${family}: a broken call is text, never an error`, async () => {
    const broken = family === "qwen35" ? "<tool_call>oops</tool_call>" : `<|tool_call>oops${Q}<tool_call|>`;
    await using server = await testServer(familyModel(family, `${broken} ok${form.end}`));
    const { response, body } = await ask(server, { tools, reasoning_effort: "none" });
    expect(response.status).toBe(200);
    expect(body.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: `${broken} ok` } });
  });
}

const image = { type: "image_url", image_url: { url: "data:image/png;base64,AA==" } };
const video = { type: "video_url", video_url: { url: "x" } };
const audio = { type: "input_audio", input_audio: { url: "x" } };
const facts = (keys: Readonly<Record<string, unknown>>) => ({ setting: (key: string) => keys[key] });
const seen = facts({ "gemma4.vision.block_count": 16, "gemma4.audio.block_count": 12 });

test("Gemma 4: media belong to processors that are not here", async () => {
  const small = familyModel("gemma4", "x", { ...seen, names: ["gemma4-e4b.gguf"] });
  await using server = await testServer(small);
  const refusal = async (of: TestServer, part: object, path = chat) => {
    const said = [{ role: "user", content: [{ type: "text", text: "a" }, part] }];
    const response = await of.post(path, path === chat ? { messages: said } : { input: said });
    expect(response.status).toBe(400);
    return (await response.json()).error;
  };
  for (const path of [chat, "/v1/responses"]) {
    for (const part of [image, video]) {
      const error = await refusal(server, part, path);
      expect(error).toMatchObject({ type: "invalid_request_error", code: "processor_owned_lane_required" });
      for (const word of [
        "gemma4",
        "image and video",
        "gemma4_processor",
        "processor-owned multimodal lane",
        "not projected through text",
      ]) {
        expect(error.message).toContain(word);
      }
    }
    const error = await refusal(server, audio, path);
    expect(error).toMatchObject({ type: "invalid_request_error", code: "processor_owned_lane_required" });
    for (const word of ["gemma4_audio_processor", "processor-owned audio lane", "input_audio"]) {
      expect(error.message).toContain(word);
    }
  }
  const media = {
    multimodal_projection_mode: "processor_owned",
    multimodal_supported_media: ["image", "video"],
    audio_input_mode: "processor_owned",
    audio_input_parts: ["input_audio"],
  };
  expect(await (await server.get("/health")).json()).toMatchObject(media);
  const card = (await (await server.get("/v1/models")).json()).data[0];
  for (const [name, value] of Object.entries(media)) expect(card[`psionic_${name}`]).toEqual(value);

  await using dense = await testServer(familyModel("gemma4", "x", { ...seen, names: ["gemma4-31b.gguf"] }));
  const silent = await refusal(dense, audio);
  expect(silent).toMatchObject({ code: "unavailable_on_this_lane" });
  expect(silent.message).toContain("only e2b and e4b publish it");
  expect((await (await dense.get("/health")).json()).audio_input_mode).toBeUndefined();

  await using blind = await testServer(familyModel("gemma4", "x"));
  expect(await refusal(blind, image)).toMatchObject({ code: "unsupported_media" });
  expect((await (await blind.get("/health")).json()).multimodal_projection_mode).toBeUndefined();
});

test("Qwen 3.5: images are their marks where the file has a vision tower, and nothing else is", async () => {
  const model = familyModel(
    "qwen35",
    "x",
    facts({ "qwen35.vision.block_count": 24, "qwen35.vision.embedding_length": 1152 }),
  );
  await using server = await testServer(model);
  const content = [{ type: "text", text: "see " }, image, video];
  const { response } = await ask(server, { messages: [{ role: "user", content }] });
  expect(response.status).toBe(200);
  expect(response.headers.get("x-psionic-ignored")).toContain("messages.content.image_url");
  const marks = "<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|video_pad|><|vision_end|>";
  expect(promptOf(model)).toContain(`user\nsee ${marks}<|im_end|>`);
  const card = (await (await server.get("/v1/models")).json()).data[0];
  expect(card.psionic_multimodal_projection_mode).toBe("prompt_projection_only");
  expect(card.psionic_multimodal_projection_config).toEqual({
    vision_block_count: 24,
    vision_embedding_length: 1152,
    vision_start_token_id: model.tokenizer.idOf("<|vision_start|>"),
    vision_end_token_id: model.tokenizer.idOf("<|vision_end|>"),
    image_token_id: model.tokenizer.idOf("<|image_pad|>"),
  });
  const bad = [
    { role: "user", content: [audio] },
    { role: "system", content: [image] },
  ];
  for (const message of bad) {
    const refused = await ask(server, { messages: [message, ...messages] });
    expect(refused.response.status).toBe(400);
    expect(refused.body.error.code).toBe("unsupported_media");
  }
  const anthropic = {
    messages: [
      {
        role: "user",
        content: [
          { type: "image", source: {} },
          { type: "text", text: "?" },
        ],
      },
    ],
    max_tokens: 5,
  };
  expect((await server.post("/v1/messages", anthropic)).status).toBe(200);
  expect(promptOf(model)).toContain("user\n<|vision_start|><|image_pad|><|vision_end|>?<|im_end|>");
  await using blind = await testServer(familyModel("qwen35", "x"));
  expect((await ask(blind, { messages: [{ role: "user", content }] })).body.error.code).toBe(
    "unsupported_media",
  );
});

test("reasoning in parts of an assistant's message is what reasoning_content is", async () => {
  const served = harmonyModel(speech("Cold."));
  await using server = await testServer(served);
  const prompt = async (assistant: object): Promise<readonly number[]> => {
    const called = { id: "c", type: "function", function: { name: "f", arguments: "{}" } };
    const response = await server.post("/v1/chat/completions", {
      messages: [
        { role: "user", content: "hi" },
        { role: "assistant", tool_calls: [called], ...assistant },
        { role: "tool", tool_call_id: "c", content: "1" },
      ],
    });
    expect([response.status, response.headers.get("x-psionic-ignored")]).toEqual([200, null]);
    return [...served.engine.requests.at(-1)!.prompt];
  };
  const expected = await prompt({ reasoning_content: "so", content: "I look." });
  expect(await prompt({ content: "I look." })).not.toEqual(expected);
  const text = { type: "text", text: "I look." };
  expect(await prompt({ content: [{ type: "thinking", thinking: "so" }, text] })).toEqual(expected);
  expect(await prompt({ content: [{ type: "reasoning", text: "so" }, text] })).toEqual(expected);
  const asked = { messages: [{ role: "user", content: [{ type: "thinking", thinking: "so" }] }] };
  expect((await server.post("/v1/chat/completions", asked)).status).toBe(400);
});
