import { expect, test } from "bun:test";
import { defaultModelPath } from "../../models/default_model.ts";
import { openModelFiles } from "../../models/files/source.ts";
import { openTokenizer } from "../../models/open_tokenizer.ts";
import { fuzzGrammars } from "./fuzz.ts";

test("damaged schemas, patterns and grammars end in typed errors, or are followed", () => {
  const tokenizer = openTokenizer(openModelFiles(defaultModelPath()));
  const counts = fuzzGrammars(tokenizer, 1, { count: 300 });
  expect(counts.cases).toBe(300);
  expect(counts.followed).toBeGreaterThan(30);
  expect(counts.refused).toBeGreaterThan(60);
}, 60_000);
