import { unexpected } from "../core/error.ts";
import type { ModelFiles } from "./files/source.ts";
import { type Tokenizer, tokenizerFromGguf, tokenizerFromHuggingFace } from "./tokenizer/index.ts";

/** The tokenizer of a model's files. */
export function openTokenizer(files: ModelFiles): Tokenizer {
  if (files.kind === "gguf") return tokenizerFromGguf((key) => files.metadata.get(key)?.value);
  if (files.tokenizer === undefined) {
    throw unexpected("file_not_found", files.path, "a tokenizer.json beside config.json", "none");
  }
  return tokenizerFromHuggingFace(files.tokenizer, files.tokenizerConfig, files.generationConfig);
}
