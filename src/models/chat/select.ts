import { unexpected } from "../../core/error.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { harmonyFormat } from "./harmony.ts";
import { templateFormat } from "./template.ts";
import { turnFormat } from "./turns.ts";
import type { ChatFormat } from "./types.ts";

/**
 * The chat format of a model: Harmony for GPT-OSS, else the file's own template, else the turn style its vocabulary
 * has markers for. Throws `unsupported` when there is none of them.
 */
export function chatFormatFor(model: {
  readonly architecture: string;
  readonly template: string | undefined;
  readonly tokenizer: Tokenizer;
}): ChatFormat {
  const { architecture, template, tokenizer } = model;
  if (/^gpt[-_]?oss$/.test(architecture)) return harmonyFormat(tokenizer);
  if (template !== undefined) return templateFormat(template, tokenizer);
  const format = turnFormat(tokenizer);
  if (format) return format;
  throw unexpected(
    "unsupported",
    "chat",
    "a chat template in the model file, or turn markers in its vocabulary",
    "neither",
    { fix: "Use /v1/completions with a prompt of your own" },
  );
}
