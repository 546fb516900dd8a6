import { expect, test } from "bun:test";
import { join } from "node:path";
import { randomModel, shapes } from "../../../scripts/random-model.ts";
import { temporaryFolder, writeModel } from "../testing/variants.ts";
import { openFile } from "./bytes.ts";
import { parseGguf } from "./gguf.ts";

/** What a start may cost; the test allows twice as much for other work on the machine. */
const budgetMs = 300;

test("a header with a vocabulary of 201,088 is read in a fraction of a second", () => {
  using folder = temporaryFolder();
  const path = join(folder.path, "vocabulary.gguf");
  const narrow = {
    width: 32,
    feedForward: 32,
    heads: 1,
    kvHeads: 1,
    headDim: 32,
    experts: 1,
    expertsUsed: 1,
  };
  const shape = { ...shapes["gpt-oss-20b"]!, ...narrow, layers: 1 };
  writeModel(path, randomModel({ shape, dtype: "q8_0", seed: 1 }));
  const times = Array.from({ length: 5 }, () => {
    const start = performance.now();
    using source = openFile(path);
    expect(parseGguf(source).metadata.get("tokenizer.ggml.tokens")?.value).toHaveLength(201_088);
    return performance.now() - start;
  });
  console.log(`201,088 tokens and their merges: ${times.map((t) => t.toFixed(0)).join(", ")} ms`);
  expect(Math.min(...times)).toBeLessThan(2 * budgetMs);
});
