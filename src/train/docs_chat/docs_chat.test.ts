/** The recipe on a few documents: stream, steps with a finish on the file's formats, GGUF, what a server makes of it. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../../backends/index.ts";
import { batchOf } from "../../data/batches.ts";
import type { Document } from "../../data/corpora/document.ts";
import { parseSections } from "../../data/reference_corpus.ts";
import { openModelFiles } from "../../models/files/source.ts";
import { openTokenizer } from "../../models/open_tokenizer.ts";
import type { Device } from "../../runtime/device.ts";
import { gptOss } from "../models/gpt_oss.ts";
import { adamWGroups } from "../optimizer/config.ts";
import { Trainer } from "../trainer.ts";
import { SequenceBatch } from "./batched.ts";
import { valuesOf, writeModel } from "./export.ts";
import { docsChatModels, formatOf } from "./model.ts";
import { type DocsChatRun, trainDocsChat } from "./run.ts";
import { answersTo, drawn, openForScores, scoreAnswers, scoreText } from "./score.ts";
import { scoreModel } from "./score_model.ts";
import { checkedDocsChat, docsChatDefaults } from "./settings.ts";
import { streamOf } from "./stream.ts";
import { learnTokenizer } from "./tokenizer.ts";

setDefaultTimeout(60_000);

const sections = parseSections(
  readFileSync(join(import.meta.dir, "../../data/reference_corpus.txt"), "utf8"),
);
const documents: Document[] = sections.map(({ title, text }, i) => ({
  ...{ id: `peps/pep-${String(i + 1).padStart(4, "0")}.rst`, title, line: i + 1 },
  text: `PEP: ${i + 1}\nTitle: ${title}\nStatus: Final\n\nAbstract\n========\n\n${text}\n`,
}));

let folder: string;
let corpus: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-docs-chat-"));
  corpus = join(folder, "corpus.jsonl");
  const lines = documents.map(({ id, title, text }) => {
    const [source, path] = id.split("/");
    return JSON.stringify({ source, path, title, text });
  });
  writeFileSync(corpus, `${lines.join("\n")}\n`);
});
afterAll(() => rmSync(folder, { recursive: true }));

function opened(): { readonly device: Device } & Disposable {
  const device = openDevice("cpu", { threads: 2 });
  return { device, [Symbol.dispose]: () => device.close() };
}

const run = (name: string, more: Partial<typeof docsChatDefaults> = {}): DocsChatRun => ({
  ...{ corpus, out: join(folder, name), backend: "cpu", threads: 2 },
  settings: checkedDocsChat({
    ...{ ...docsChatDefaults, model: "tiny", sequences: 4, length: 64, max_steps: 6, rounds: 1 },
    ...{ time_budget_seconds: 0, warmup_steps: 2, learning_rate: 4e-3, finish_share: 0.5, precision: "f32" },
    ...{ checkpoint_steps: 0, ...more },
  }),
});

describe("what is read", () => {
  const { tokenizer } = learnTokenizer(documents, 512);
  const options = { seed: 1, length: 64, passes: 2, rounds: 1 };
  const { windows, documentTokens, conversationTokens } = streamOf(documents, tokenizer, options, documents);

  test("text has the first ids, the nine marks the last", () => {
    expect(tokenizer.vocabularySize).toBe(512);
    expect(tokenizer.idOf("<|startoftext|>")).toBe(503);
    expect(tokenizer.idOf("<|call|>")).toBe(511);
    expect(tokenizer.tokenText(0)).toBe("!");
  });

  test("documents are whole, conversations count their answers alone", () => {
    expect(windows.tokens.length).toBe(documentTokens + conversationTokens);
    const text = (counts: boolean, from: number, to: number): string =>
      tokenizer.decode(
        [...windows.tokens.subarray(from, to)].filter(
          (_, i) => windows.counted![from + i] === Number(counts),
        ),
        { special: true, continuation: true },
      );
    const all = text(true, 0, documentTokens);
    for (const d of documents) expect(all).toContain(`${d.text}<|endoftext|>`);
    expect(text(false, 0, documentTokens)).toBe("<|startoftext|>".repeat(documents.length));
    const answers = text(true, documentTokens, windows.tokens.length);
    expect(answers).toContain(`<|channel|>final<|message|>PEP 1 is "${documents[0]!.title}".`);
    expect(answers).not.toContain("<|start|>");
    expect(text(false, documentTokens, windows.tokens.length)).toContain(
      "user<|message|>What is PEP 1?<|end|><|start|>assistant",
    );
  });

  test("a row sees its own document alone, and what does not count has no target", () => {
    const { tokens, targets, first } = batchOf(windows, [0, 1, windows.starts.length - 1]);
    for (let row = 0; row < tokens.length; row++) {
      const at = windows.starts[row < 64 ? 0 : row < 128 ? 1 : windows.starts.length - 1]! + (row % 64);
      expect(first![row]).toBe(Math.max(0, windows.documents![at]! - (at - (row % 64))));
      expect(targets[row]).toBe(windows.counted![at + 1] === 1 ? windows.tokens[at + 1]! : -1);
    }
  });

  test("two documents in a window have the losses that each has alone", () => {
    using device = opened();
    const model = gptOss(docsChatModels.tiny);
    const config = {
      ...{ seed: 1, sequences: 1, accumulation: 1, learningRate: 1e-3, clip: 1, recompute: false },
      ...({ precision: "f32", schedule: { kind: "constant" }, groups: adamWGroups(0) } as const),
    };
    using trainer = new Trainer(device.device, model, windows, config);
    const [a, b] = [windows.tokens.subarray(0, 20), windows.tokens.subarray(20, 41)];
    const batch = (ids: Int32Array, first: number[], uncounted: number[] = []) => ({
      ...{ sequences: 1, length: ids.length - 1, tokens: ids.slice(0, -1), first: Int32Array.from(first) },
      targets: ids.slice(1).map((id, i) => (uncounted.includes(i) ? -1 : id)),
      positions: Int32Array.from({ length: ids.length - 1 }, (_, i) => i),
    });
    const zeros = (n: number): number[] => Array.from({ length: n }, () => 0);
    const both = Int32Array.from([...a, ...b]);
    const joined = batch(both, [...zeros(20), ...zeros(20).map(() => 20)], [19]);
    const apart = trainer.lossOf(batch(a, zeros(19))) + trainer.lossOf(batch(b, zeros(20)));
    expect(trainer.lossOf(joined)).toBeCloseTo(apart, 3);
  });
});

describe("a run", () => {
  test("writes a model that answers, the same one when it was interrupted", async () => {
    const whole = await trainDocsChat(run("whole"));
    expect(whole).toMatchObject({ steps: 6, complete: true });
    let done = 0;
    const stopped = await trainDocsChat(run("parts"), {
      step: () => void done++,
      stopping: () => done === 4,
    });
    expect(stopped).toMatchObject({ steps: 4, complete: false });
    expect(existsSync(stopped.path)).toBe(false);
    const resumed = await trainDocsChat(run("parts"));
    expect(resumed.steps).toBe(6);
    // figures are the run's, not those of the process that ended it
    const { first_loss, last_loss, held_out } = whole;
    expect(resumed).toMatchObject({ first_loss, last_loss });
    expect(resumed.held_out.at(-1)).toEqual(held_out.at(-1)!);
    const lines = readFileSync(join(resumed.path, "../steps.jsonl"), "utf8").trim().split("\n");
    expect(lines.map((line) => JSON.parse(line).step)).toEqual([1, 2, 3, 4, 5, 6]);
    const seconds = lines.reduce((sum, line) => sum + JSON.parse(line).duration_ms / 1000, 0);
    expect(resumed.train_seconds).toBeCloseTo(seconds, 6);
    expect(readFileSync(resumed.path).equals(readFileSync(whole.path))).toBe(true);
    expect(trainDocsChat(run("parts", { seed: 5 }))).rejects.toThrow(/settings|checkpoint/);

    const files = openModelFiles(whole.path);
    const types = [...files.tensors.values()].map(
      ({ dtype, name }) => `${name.replace(/\d+/, "N")} ${dtype}`,
    );
    expect(types).toContain("blk.N.ffn_down_exps.weight mxfp4");
    expect(types).toContain("blk.N.attn_q.weight q8_0");
    expect(types).toContain("token_embd.weight q8_0");
    expect(types).toContain("blk.N.ffn_gate_inp.weight f32");
    const device = openDevice("cpu", { threads: 1 });
    const score = scoreModel(device, whole.path, {
      ...{ corpus: documents, validation: documents.slice(0, 2), context: 64, questions: 3, seed: 1 },
    });
    expect(score.answers).toMatchObject({ questions: 3 });
    expect(score.text!.bits_per_byte).toBeGreaterThan(1);
    expect(score.text!.bits_per_byte).toBeLessThan(8);
    device.close();
  });

  test("what makes no sense is refused by name", () => {
    for (const [name, wrong] of Object.entries({ sequences: 0, fall_share: 2, learning_rate: 0, seed: -1 })) {
      expect(() => checkedDocsChat({ ...docsChatDefaults, [name]: wrong })).toThrow(name);
    }
    expect(() => checkedDocsChat({ ...docsChatDefaults, model: "large" as never })).toThrow("model");
    const short = { ...run("short"), corpus: join(folder, "short.jsonl") };
    writeFileSync(short.corpus, '{"text":"too little"}\n');
    expect(trainDocsChat(short)).rejects.toThrow("512 tokens");
  });
});

/** Serving multiplies what a file holds in other kernels than training does; its activations are f32 on the CPU. */
const servedTolerance = 2e-3;

test("a server sees what the finish of training saw, and learns answers by heart", async () => {
  const { tokenizer, json } = learnTokenizer(documents, 512);
  const few = documents.slice(0, 3);
  const stream = streamOf(few, tokenizer, { seed: 1, length: 128, passes: 1, rounds: 6 }, few);
  // questions of the three alone, so that few steps are enough
  const device = openDevice("cpu", { threads: 2 });
  const model = gptOss(docsChatModels.tiny);
  const steps = 30;
  const trainer = new Trainer(device, model, stream.windows, {
    ...{ seed: 1, sequences: 4, accumulation: 1, learningRate: 4e-3, clip: 1, recompute: false },
    ...({ precision: "f32", groups: adamWGroups(0) } as const),
    schedule: {
      kind: "rise_and_fall",
      ...{ total_steps: steps, budget_ms: 0, warmup_steps: 2, fall_share: 0.5 },
    },
    rounding: { from: 0.5, formatOf },
  });
  const losses = Array.from({ length: steps }, () => trainer.step().loss);
  expect(losses.at(-1)!).toBeLessThan(losses[0]!);
  const path = join(folder, "served.gguf");
  writeModel(path, docsChatModels.tiny, { json, tokenizer }, model.parameters, valuesOf(trainer.parameters));
  const ids = [...stream.windows.tokens.subarray(0, 101)];
  const trained = trainer.lossOf({
    ...{ sequences: 1, length: 100, tokens: Int32Array.from(ids.slice(0, 100)) },
    ...{ targets: Int32Array.from(ids.slice(1)), positions: Int32Array.from({ length: 100 }, (_, i) => i) },
  });
  trainer[Symbol.dispose]();
  const opened = { device, ...openForScores(device, path) };
  expect(openTokenizer(openModelFiles(path)).encode("A computer", { special: false })).toEqual(
    tokenizer.encode("A computer", { special: false }),
  );
  {
    using batch = new SequenceBatch(device, opened.model, 1, 128);
    const served = batch.nats([{ tokens: ids.slice(0, 100), targets: ids.slice(1) }]);
    expect(Math.abs(served - trained) / trained).toBeLessThan(servedTolerance);
  }
  // windows that overlap count every token once
  const a = scoreText(opened, few, 64);
  const b = scoreText(opened, few, 512);
  expect([a.tokens, a.bytes]).toEqual([b.tokens, b.bytes]);
  expect(Math.abs(a.bits_per_byte - b.bits_per_byte)).toBeLessThan(1);
  const asked = drawn(few, "PEP", 2, 1);
  expect(scoreAnswers(opened, asked).answers.map(({ answer }) => answer)).toEqual(
    answersTo(
      opened,
      asked.map(({ number }) => `What is PEP ${number}?`),
    ),
  );
  opened.model.free();
  device.close();
});
