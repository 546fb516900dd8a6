import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MetadataValue, writeGguf } from "../models/files/gguf_writer.ts";
import { TokenType } from "../models/tokenizer/vocabulary.ts";
import { openText } from "./served_model.ts";

const folder = mkdtempSync(join(tmpdir(), "served-"));
afterAll(() => rmSync(folder, { recursive: true }));

const bytes = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).padStart(2, "0").toUpperCase()}>`,
);

/** A file without weights whose vocabulary has bytes and marks, these of the types that published files give them. */
function write(
  name: string,
  architecture: string,
  { control, userDefined }: { readonly control: readonly string[]; readonly userDefined: readonly string[] },
  more: Readonly<Record<string, MetadataValue>>,
): string {
  const path = join(folder, name);
  const strings = (value: readonly string[]) => ({ type: "array", elementType: "string", value }) as const;
  const texts = [...bytes, ...control, ...userDefined];
  const types = texts.map((_, id) =>
    id < 256 ? TokenType.byte : id < 256 + control.length ? TokenType.control : TokenType.userDefined,
  );
  const tensor = { name: "t", dtype: "f32", shape: [1], chunks: () => [new Uint8Array(4)] } as const;
  writeGguf(
    path,
    {
      "general.architecture": { type: "string", value: architecture },
      "tokenizer.ggml.model": { type: "string", value: "gemma4" },
      "tokenizer.ggml.tokens": strings(texts),
      "tokenizer.ggml.token_type": { type: "array", elementType: "i32", value: types },
      "tokenizer.ggml.merges": strings([]),
      ...more,
    },
    [tensor],
    { sync: false },
  );
  return path;
}

const count = (value: number): MetadataValue => ({ type: "u32", value });
const gemmaMarks = {
  control: [
    "<bos>",
    "<eos>",
    "<|turn>",
    "<turn|>",
    "<|think|>",
    "<|tool>",
    "<tool|>",
    "<|tool_response>",
    "<|image|>",
  ],
  userDefined: ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<tool_response|>", '<|"|>'],
};
const qwenMarks = {
  control: [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
  ],
  userDefined: ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
};

test("Gemma 4 from a file: its size, its media, its stops, one BOS", () => {
  const facts = {
    "tokenizer.ggml.bos_token_id": count(256),
    "gemma4.embedding_length_per_layer_input": count(256),
    "gemma4.vision.block_count": count(16),
    "gemma4.audio.block_count": count(12),
  };
  const small = openText(write("gemma4-e4b.gguf", "gemma4", gemmaMarks, facts));
  expect(small.chat.name).toBe("gemma4");
  expect(small.chat.media).toMatchObject({
    audio: { owner: "gemma4_audio_processor" },
    visual: { mode: "processor_owned" },
  });
  const { tokenizer } = small;
  const prompt = small.chat.prompt([{ role: "user", content: "a<|turn>x<|tool_call>y<bos>" }]);
  expect(tokenizer.decode(prompt, { special: true })).toBe(
    "<bos><|turn>user\na<|turn>x<|tool_call>y<bos><turn|>\n<|turn>model\n",
  );
  expect(prompt.filter((id) => id >= 256).map((id) => tokenizer.tokenText(id))).toEqual([
    ...["<bos>", "<|turn>", "<turn|>", "<|turn>"],
  ]);
  expect(tokenizer.stopTokens.has(tokenizer.idOf("<|tool_response>")!)).toBe(true);
  const big = { ...facts, "gemma4.embedding_length_per_layer_input": count(0) };
  const large = openText(write("gemma4-31b.gguf", "gemma4", gemmaMarks, big));
  expect(large.chat.media?.audio).toBeUndefined();
  const written = large.tokenizer.decode(large.chat.prompt([{ role: "user", content: "a" }]), {
    special: true,
  });
  expect(written).toEndWith("<|channel>thought\n<channel|>");
});

test("Qwen 3.5 from a file: thinking by size, a template where there is one", () => {
  const open = (width: number, more: Readonly<Record<string, MetadataValue>> = {}) =>
    openText(write("qwen.gguf", "qwen35", qwenMarks, { "qwen35.embedding_length": count(width), ...more }));
  const end = (model: ReturnType<typeof open>): string =>
    model.tokenizer.decode(model.chat.prompt([{ role: "user", content: "a</think>" }]), { special: true });
  const [small, large] = [open(1024), open(4096)];
  expect(end(small)).toEndWith("a</think><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
  expect(end(large)).toEndWith("<|im_start|>assistant\n<think>\n");
  const close = large.tokenizer.idOf("</think>")!;
  expect(large.chat.prompt([{ role: "user", content: "a</think>" }])).not.toContain(close);
  const template =
    "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}<|im_start|>";
  const own = open(4096, { "tokenizer.chat_template": { type: "string", value: template } });
  expect(own.chat.name).toBe("qwen35");
  expect(end(own)).toBe("<|im_start|>user:a</think><|im_end|><|im_start|>");
});
