/** The six cases through our own server: Qwen 3.5's prompts and parser, with the tokens of a model that can do it. */
import { expect, test } from "bun:test";
import { qwen35Format } from "../../../models/chat/qwen35.ts";
import { testServer } from "../../http/testing/client.ts";
import { byteTokenizer } from "../../http/testing/scripted.ts";
import { ScriptedEngine } from "../../scripted_engine.ts";
import { makeTarget } from "../target.ts";
import { checkCompatibility } from "./compatibility.ts";

const controls = [
  ...["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"],
  ...["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
];
const end = "</function>\n</tool_call>";
/** A forced call of the one tool: the server has written up to its arguments. */
const ofCity = (city: string): string => `<parameter=city>\n${city}\n</parameter>\n${end}<|im_end|>`;

const answers = [
  ...[ofCity("Paris"), "Paris is sunny at 18C.<|im_end|>"],
  "Hello there!<|im_end|>",
  ...[ofCity("Paris"), "It is sunny in Paris, 18 degrees.<|im_end|>"],
  `get_paris_weather>\n${end}\n<tool_call>\n<function=get_tokyo_weather>\n${end}<|im_end|>`,
  "Paris is sunny at 18C. Tokyo is rainy at 12C.<|im_end|>",
  ...[ofCity("Atlantis"), "Atlantis is unsupported by the weather tool.<|im_end|>"],
  ...[ofCity("Tokyo"), "Tokyo is rainy at 12C.<|im_end|>"],
];

test("a capable Qwen 3.5 passes all six", async () => {
  const tokenizer = byteTokenizer(controls);
  const script = { answers: [answers[0]!], later: answers.slice(1), contextLength: 16_384 };
  const engine = new ScriptedEngine(script, tokenizer);
  const chat = qwen35Format(tokenizer, { thinks: false });
  await using server = await testServer({ engine, tokenizer, chat });
  const target = makeTarget(server.url, "Test-Model.gguf", undefined);
  const report = await checkCompatibility({ label: "psionic", target, modelPath: null });
  expect(
    report.cases.filter(({ pass }) => !pass).map(({ case_id, summary }) => `${case_id}: ${summary}`),
  ).toEqual([]);
  expect(report.overall_pass).toBe(true);
  const parallel = report.cases[3]!.messages.find(({ tool_calls }) => tool_calls !== undefined);
  expect(parallel!.tool_calls).toMatchObject([
    { type: "function", function: { name: "get_paris_weather", arguments: "{}" } },
    { type: "function", function: { name: "get_tokyo_weather", arguments: "{}" } },
  ]);
});
