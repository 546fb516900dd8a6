import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "citty";
import { checkedArguments } from "../../terminal/arguments.ts";
import { UsageError } from "../../terminal/command.ts";
import { randomBits } from "../random.ts";
import { data } from "./data.ts";

const folder = mkdtempSync(join(tmpdir(), "psionic-data-cli-"));
afterAll(() => rmSync(folder, { recursive: true }));
const main = join(import.meta.dir, "..", "..", "main.ts");

function psionic(...words: string[]) {
  const { exitCode, stdout, stderr } = Bun.spawnSync([process.execPath, main, "data", ...words], {
    cwd: folder,
  });
  return { code: exitCode, out: stdout.toString(), err: stderr.toString() };
}
function json(...words: string[]): Record<string, never> {
  const { code, out, err } = psionic(...words, "--json");
  expect({ code, err }).toEqual({ code: 0, err: "" });
  return JSON.parse(out) as Record<string, never>;
}

const bits = randomBits("text of the command's tests");
const vocabulary = Array.from({ length: 300 }, () =>
  bits()
    .toString(36)
    .slice(0, 2 + (bits() % 5)),
);
const text = (words: number): string =>
  Array.from({ length: words }, () => vocabulary[bits() % 300]).join(" ");
const documents = Array.from({ length: 60 }, (_, i) => ({ source: "set", path: `${i}`, text: text(120) }));
// one document twice, under another name
documents.push({ ...documents[0]!, path: "copy" });
writeFileSync(join(folder, "a.jsonl"), documents.map((d) => `${JSON.stringify(d)}\n`).join(""));

test("from text to a data set: every part, its record, and the same bytes when it is done again", () => {
  const made = json("manifest", "--corpus", "a.jsonl", "--licence", "CC0-1.0", "--out", "c.json");
  expect(made).toMatchObject({ corpora: [{ document_count: 61, licence: "CC0-1.0", split: null }] });
  const split = json("split", "--manifest", "c.json", "--share", "validation=0.3", "--out", "s.json");
  expect(split).toMatchObject({ splits: [{ split_name: "validation" }, { split_name: "train" }] });
  const selection = ["--manifest", "c.json", "--splits", "s.json"];
  const found = json("dedup", ...selection, "--scope", "everywhere", "--out", "d.json");
  expect(found).toMatchObject({ exact_pair_count: 1, near_pair_count: 0 });

  for (const run of ["1", "2"]) {
    const whole = [...selection, "--duplicates", "d.json"];
    const trained = json(
      "train-tokenizer",
      ...whole,
      "--kind",
      "sentence_piece_bpe",
      "--vocabulary",
      "600",
      "--out",
      `t${run}`,
    );
    expect(trained).toMatchObject({ vocab_size: 600, family: "sentence_piece" });
    const packed = json(
      "pack",
      ...whole,
      "--tokenizer",
      `t${run}`,
      "--context",
      "64",
      "--shard-tokens",
      "2000",
      "--out",
      `p${run}`,
    );
    expect(packed).toMatchObject({ metadata: { document_count: 60 }, context_window_tokens: 64 });
    json("pack", ...whole, "--tokenizer", `t${run}`, "--format", "golf", "--out", `g${run}`);
  }
  for (const kind of ["t", "p", "g"])
    for (const name of readdirSync(join(folder, `${kind}1`)))
      expect(readFileSync(join(folder, `${kind}2`, name))).toEqual(
        readFileSync(join(folder, `${kind}1`, name)),
      );

  expect(json("verify", "p1")).toMatchObject({ verified: true, dataset_identity: "dataset@v1" });
  const loaded = json("verify", "p1", "--load", "5", "--rows", "4");
  expect(loaded).toMatchObject({ loading: { layout: "packed", batches: 5, batch_tokens: 256 } });
  expect(psionic("verify", "g1", "--load", "2", "--rows", "1").out).toContain("2 batches of 1024 tokens");
  expect(psionic("verify", "c.json").out).toContain("1 corpora");
  const first = json("show", "p1", "--sequence", "0", "--tokenizer", "t1") as Record<string, unknown>;
  const begun = String(first.text).replace("<s>", "");
  expect(documents.some((d) => d.text.startsWith(begun.trim().slice(0, 40)))).toBe(true);
  expect(psionic("show", "p1").out).toContain("psionic shards of token_ids_le_u16, vocabulary 600");
  expect(psionic("show", "g1/dataset_train_000000.bin").out).toContain("format=golf");
  const [fill] = json("show", "p1", "--row", "128") as unknown as { split_name: string; fill_bps: number }[];
  expect(fill).toMatchObject({ split_name: "train", dropped_sequence_count: 0 });
  expect(fill!.fill_bps).toBeGreaterThan(7000);
  expect(psionic("show", "c.json").out).toContain("CC0-1.0");

  const bytes = json(
    "train-tokenizer",
    "--manifest",
    "c.json",
    "--kind",
    "byte_level_bpe",
    "--vocabulary",
    "500",
    "--out",
    "b",
  );
  expect(bytes).toMatchObject({
    vocab_size: 500,
    files: [{ path: "tokenizer.json" }, { path: "tokenizer_config.json" }],
  });
  expect(psionic("pack", "--manifest", "c.json", "--tokenizer", "b", "--out", "pb").out).toContain(
    "61 documents, 0 dropped",
  );

  // a tokenizer of the other kind in the same folder would be read in the place of the new one
  const mixed = ["train-tokenizer", "--manifest", "c.json", "--vocabulary", "600", "--kind"];
  const overModel = psionic(...mixed, "byte_level_bpe", "--out", "t1");
  expect([overModel.code, overModel.err]).toEqual([
    1,
    expect.stringContaining("another kind, got tokenizer.model"),
  ]);
  expect(psionic(...mixed, "sentence_piece_bpe", "--out", "b").err).toContain("got tokenizer_config.json");

  // again with larger shards: no old one stays, for whoever reads a folder without its manifest; none of another set goes
  const again = ["pack", "--manifest", "c.json", "--tokenizer", "b", "--out", "pb"];
  expect(psionic(...again, "--shard-tokens", "2000").code).toBe(0);
  expect(readdirSync(join(folder, "pb")).length).toBeGreaterThan(4);
  expect(psionic(...again).code).toBe(0);
  const listed = ["dataset_train_000000.bin", "manifest.json"];
  expect(readdirSync(join(folder, "pb")).sort()).toEqual(listed);
  expect(psionic(...again, "--name", "data")).toMatchObject({
    code: 1,
    err: expect.stringContaining("a folder without shards but those of data, got dataset_train_000000.bin"),
  });
  expect(
    psionic("pack", "--manifest", "c.json", "--tokenizer", "b", "--out", "pc", "--name", "a_b").code,
  ).toBe(0);
  const shorter = psionic("pack", "--manifest", "c.json", "--tokenizer", "b", "--out", "pc", "--name", "a");
  expect(shorter.err).toContain("those of a, got a_b");
  expect(psionic("verify", "pb").code).toBe(0);

  // a damaged shard: the code of the documentation, and the file's name
  const shard = join(folder, "p1", "dataset_train_000000.bin");
  const whole = readFileSync(shard);
  writeFileSync(shard, whole.subarray(0, -2));
  const cut = psionic("verify", "p1");
  expect({ code: cut.code, err: cut.err }).toEqual({
    code: 4,
    err: expect.stringContaining("dataset_train_000000.bin"),
  });
  expect(psionic("show", "p1", "--sequence", "0").code).toBe(4);
  expect(psionic("show", "p2", "--sequence", "0", "--tokenizer", "b").err).toContain(
    "the one of this data set",
  );
}, 60_000);

/** As main.ts runs it, without a process of its own. */
const inProcess = async (words: string[]): Promise<unknown> =>
  runCommand(data, { rawArgs: checkedArguments(words, data.args) });

test("wrong usage is named", async () => {
  const cases: [words: string[], message: string][] = [
    [[], "missing ACTION"],
    [["pakc"], "did you mean pack?"],
    [["show", "x", "--manifest", "c.json"], "data show takes no --manifest"],
    [["show", "x", "--split", "a"], "--split wants --sequence"],
    [["manifest", "--out", "x"], "missing --corpus"],
    [["manifest", "--corpus", "a.jsonl", "--out", "x"], "missing --licence"],
    [["manifest", "extra", "--corpus", "a.jsonl"], 'unexpected argument "extra"'],
    [["split", "--share", "half", "--out", "x"], "--share takes NAME=SHARE, got half"],
    [["split", "--share", "a=1.5", "--out", "x"], "--share takes shares above 0 and below 1, got a=1.5"],
    [["split", "--share", "a=0.1", "--share", "a=0.2", "--out", "x"], "names a twice"],
    [
      ["train-tokenizer", "--kind", "byte_level_bpe", "--vocabulary", "500", "--coverage", "1", "--out", "x"],
      "takes no --coverage",
    ],
    [["pack", "--format", "golf", "--context", "9", "--out", "x"], "--format golf takes no --context"],
    [["verify", "p1", "--rows", "5"], "--rows wants --load"],
    [["show", "--path", "a", "--path", "b"], "--path is given twice"],
  ];
  for (const [words, message] of cases) {
    const error: unknown = await inProcess(words).then(
      () => undefined,
      (e: unknown) => e,
    );
    expect({ words, usage: error instanceof UsageError }).toEqual({ words, usage: true });
    expect((error as Error).message).toContain(message);
  }
});

test("bad input: one line, a code, nothing left behind", () => {
  writeFileSync(join(folder, "bad.jsonl"), '{"text":"fine"}\n{"text":"broken\n');
  const bad = psionic("manifest", "--corpus", "bad.jsonl", "--licence", "MIT", "--out", "bad.json");
  expect(bad).toEqual({
    code: 4,
    out: "",
    err: expect.stringMatching(/^psionic: \[bad\.jsonl, line 2\] expected valid JSON.*\n$/),
  });
  expect(existsSync(join(folder, "bad.json"))).toBe(false);

  writeFileSync(join(folder, "small.txt"), "a few words");
  expect(psionic("manifest", "--corpus", "small.txt", "--licence", "MIT", "--out", "small.json").code).toBe(
    0,
  );
  const train = (...words: string[]) =>
    psionic("train-tokenizer", "--manifest", "small.json", ...words, "--out", "none");
  const tiny = train("--kind", "sentence_piece_bpe", "--vocabulary", "262");
  expect({ code: tiny.code, err: tiny.err }).toEqual({
    code: 1,
    err: expect.stringContaining("pieces for this text, got 262"),
  });
  expect(train("--kind", "byte_level_bpe", "--vocabulary", "10").err).toContain("a vocabulary of 258 to");
  expect(train("--kind", "byte_level_bpe", "--vocabulary", "300", "--train-split", "test").err).toContain(
    "expected one of train",
  );
  expect(existsSync(join(folder, "none"))).toBe(false);

  if (existsSync("/dev/full")) {
    const full = psionic("manifest", "--corpus", "small.txt", "--licence", "MIT", "--out", "/dev/full");
    expect({ code: full.code, err: full.err }).toEqual({
      code: 7,
      err: expect.stringContaining("room for what is written"),
    });
  }
  const blocked = psionic(
    "manifest",
    "--corpus",
    "small.txt",
    "--licence",
    "MIT",
    "--out",
    "small.txt/x.json",
  );
  expect({ code: blocked.code, err: blocked.err }).toEqual({
    code: 1,
    err: expect.stringContaining("a file that can be written"),
  });
}, 60_000);
