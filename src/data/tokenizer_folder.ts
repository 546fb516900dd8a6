/** The tokenizer in a folder or file: SentencePiece's tokenizer.model, or a tokenizer.json with its config. */
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import { parseStrictJson } from "../models/files/strict_json.ts";
import {
  type Tokenizer,
  tokenizerFromHuggingFace,
  tokenizerFromSentencePiece,
} from "../models/tokenizer/index.ts";
import { readBytes } from "./record.ts";
import type { DatasetTokenizer } from "./shards/dataset.ts";

export type OpenedTokenizer = {
  readonly tokenizer: Tokenizer;
  readonly identity: Omit<DatasetTokenizer, "vocab_size">;
};

const deepest = 64;

/** Of a folder with both files the `.model` is taken: the other is made from it. */
export function openTokenizerFolder(place: string): OpenedTokenizer {
  const path =
    ["tokenizer.model", "tokenizer.json"].map((name) => join(place, name)).find(existsSync) ?? place;
  if (!/\.(model|json)$/.test(path)) {
    throw unexpected(
      "file_not_found",
      place,
      "a tokenizer.model or tokenizer.json",
      existsSync(place) ? "neither" : "nothing there",
    );
  }
  const bytes = readBytes(path);
  const tokenizer_digest = sha256(bytes);
  if (path.endsWith(".model")) {
    return {
      tokenizer: tokenizerFromSentencePiece(bytes),
      identity: { family: "sentence_piece", tokenizer_digest },
    };
  }
  const config = join(dirname(path), basename(path).replace(/\.json$/, "_config.json"));
  const tokenizer = tokenizerFromHuggingFace(
    jsonOf(bytes, path),
    existsSync(config) ? jsonOf(readBytes(config), config) : undefined,
  );
  const family = tokenizer.kind === "gpt2" ? "byte_pair_encoding" : "sentence_piece";
  return { tokenizer, identity: { family, tokenizer_digest } };
}

function jsonOf(bytes: Uint8Array, path: string): unknown {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw unexpected("file_malformed", path, "UTF-8 text", "bytes that are not", { cause });
  }
  return parseStrictJson(text, path, deepest);
}
