/** `train docs-chat` as a process: what it writes and prints, and what it refuses. */
import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

setDefaultTimeout(60_000);

let folder: string;
let corpus: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-docs-chat-cli-"));
  corpus = join(folder, "corpus.jsonl");
  const text = readFileSync(join(import.meta.dir, "../../data/reference_corpus.txt"), "utf8");
  const line = (n: number) => ({
    source: "peps",
    path: `pep-000${n}.rst`,
    title: `Proposal ${n}`,
    text: `${text}${n}`,
  });
  writeFileSync(corpus, [1, 2, 3].map((n) => `${JSON.stringify(line(n))}\n`).join(""));
});
afterAll(() => rmSync(folder, { recursive: true }));

async function psionic(...words: string[]) {
  const child = Bun.spawn(
    [process.execPath, join(import.meta.dir, "../../main.ts"), "train", "docs-chat", ...words],
    {
      ...({ stdout: "pipe", stderr: "pipe" } as const),
    },
  );
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, out, err };
}

test("start writes a model, a tokenizer and a report; score gives the same scores", async () => {
  const out = join(folder, "run");
  const small = [
    "--model",
    "tiny",
    "--length",
    "32",
    "--sequences",
    "2",
    "--max-steps",
    "2",
    "--rounds",
    "1",
  ];
  const scored = [
    "--corpus",
    corpus,
    "--validation",
    corpus,
    "--context",
    "64",
    "--questions",
    "2",
    "--threads",
    "1",
  ];
  const made = await psionic("--out", out, ...small, ...scored, "--json");
  expect([made.code, made.err]).toEqual([0, expect.stringContaining("parameters")]);
  const report = JSON.parse(made.out);
  expect(report).toEqual(JSON.parse(readFileSync(join(out, "report.json"), "utf8")));
  expect(report).toMatchObject({
    ...{ schema_version: "psionic.docs_chat_report.v1", steps: 2, complete: true, backend: "cpu" },
    settings: { model: "tiny", length: 32, precision: "bf16" },
    scores: { answers: { questions: 2 }, text: { documents: 3, context: 64 } },
  });
  const again = await psionic("score", "--gguf", join(out, "model.gguf"), ...scored, "--json");
  expect([again.code, JSON.parse(again.out)]).toEqual([0, report.scores]);
});

test("wrong usage is exit code 2, what cannot be read 1", async () => {
  const said = async (code: number, text: string, ...words: string[]): Promise<void> => {
    const { code: got, err } = await psionic(...words);
    expect([got, err]).toEqual([code, expect.stringContaining(text)]);
  };
  await said(2, "missing --corpus", "--out", folder);
  await said(2, "expected start or score", "begin");
  await said(2, "--gguf means nothing to start", "--gguf", "x", "--corpus", corpus, "--out", folder);
  await said(2, "--epochs means nothing to score", "score", "--epochs", "2", "--corpus", corpus);
  await said(2, "score takes --corpus", "score");
  await said(2, "--sequences takes a whole number", "--sequences", "x", "--corpus", corpus, "--out", folder);
  await said(1, "sequences: a whole number from 1", "--sequences", "0", "--corpus", corpus, "--out", folder);
  await said(1, "nothing.jsonl", "--corpus", join(folder, "nothing.jsonl"), "--out", join(folder, "none"));
});
