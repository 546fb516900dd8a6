import { expect, test } from "bun:test";
import { join } from "node:path";
import { UsageError } from "../../terminal/command.ts";
import { checkLengths } from "./bench.ts";
import type { BenchCase } from "./bench_steps.ts";

const prompt = (tokens: number, depth: number): BenchCase => ({ kind: "prompt", tokens, depth, batch: 1 });
const generation = (tokens: number, depth: number): BenchCase => ({
  ...prompt(tokens, depth),
  kind: "generation",
});

test("depths and prompts beyond the context are refused, what only reaches past it is noted", () => {
  expect(checkLengths([prompt(512, 0), generation(128, 3968)], 4096)).toEqual([]);
  expect(() => checkLengths([prompt(1, 0), generation(1, 4097)], 4096)).toThrow(UsageError);
  expect(() => checkLengths([generation(1, 4097)], 4096)).toThrow(/-d 4097 .* 4096 tokens/);
  expect(() => checkLengths([prompt(4097, 0)], 4096)).toThrow(/-p 4097 .* 4096 tokens/);
  expect(checkLengths([generation(128, 4096)], 4096)).toEqual([
    "tg128 @ d4096 ends at token 4224, past the model's context of 4096",
  ]);
});

test("the refusal comes before loading, with exit code 2", async () => {
  const main = join(import.meta.dir, "../../main.ts");
  const child = Bun.spawn([process.execPath, main, "bench", "-d", "0,9999", "-r", "1"], {
    ...({ stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const),
  });
  const [out, error, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect(code).toBe(2);
  expect(error).toContain("-d 9999 is beyond the model's context of 4096 tokens");
  expect(error).not.toContain("weights");
  expect(out).toBe("");
});
