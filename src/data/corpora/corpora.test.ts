import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { constants, zstdCompressSync } from "node:zlib";
import { sha256 } from "../../core/digest.ts";
import { randomBits } from "../random.ts";
import { sealed, writeRecord } from "../record.ts";
import { readDocuments } from "./document.ts";
import { duplicateKind } from "./duplicate_report.ts";
import { findDuplicates } from "./duplicates.ts";
import { checkCorpora, makeCorporaManifest, readCorporaManifest } from "./manifest.ts";
import { jaccard, MinHashIndex, shinglesOf, usualMinHash } from "./min_hash.ts";
import { openSelection, selectedDocuments } from "./selection.ts";
import { splitHash, splitKind, splitOf, splitRule } from "./splits.ts";

const folder = mkdtempSync(join(tmpdir(), "psionic-data-"));
afterAll(() => rmSync(folder, { recursive: true }));

const place = (name: string, content: string | Uint8Array): string => {
  writeFileSync(join(folder, name), content);
  return join(folder, name);
};
const lines = (documents: readonly object[]): string =>
  documents.map((d) => `${JSON.stringify(d)}\n`).join("");
/** With a checksum, as the command-line tool writes it. */
const zstd = (text: string): Uint8Array =>
  zstdCompressSync(Buffer.from(text), { params: { [constants.ZSTD_c_checksumFlag]: 1 } });

async function read(path: string) {
  const found: { id: string; text: string; line: number }[] = [];
  for await (const document of readDocuments(path)) found.push(document);
  return found;
}
const failure = async (act: Promise<unknown>): Promise<{ code: string; message: string }> => {
  const error: unknown = await act.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(Error);
  return error as { code: string; message: string };
};

describe("documents", () => {
  test("ids, empty lines, a last line without newline, a compressed file", async () => {
    const text = `${lines([
      { source: "peps", path: "1.rst", text: "one" },
      { id: 7, text: "two" },
    ])}\n{"text":"thrée"}`;
    const expected = [
      { id: "peps/1.rst", text: "one", line: 1 },
      { id: "7", text: "two", line: 2 },
      { id: "a.jsonl:4", text: "thrée", line: 4 },
    ];
    expect(await read(place("a.jsonl", text))).toEqual(expected);
    const packed = await read(place("a.jsonl.zst", zstd(text)));
    expect(packed.map((d) => d.text)).toEqual(expected.map((d) => d.text));
    const frames = Buffer.concat([zstd(text.slice(0, 20)), zstd(text.slice(20))]);
    expect((await read(place("frames.jsonl.zst", frames))).length).toBe(3);
  });

  test("a text file is one document; lines longer than a piece of the file hold together", async () => {
    expect(await read(place("b.txt", "a\nb"))).toEqual([{ id: "b.txt", text: "a\nb", line: 1 }]);
    const long = "ä".repeat(3_000_000);
    const found = await read(place("long.jsonl", lines([{ text: "x" }, { text: long }, { text: "y" }])));
    expect(found.map((d) => d.text.length)).toEqual([1, long.length, 1]);
    expect((await read(place("c.txt.zst", zstd("böse"))))[0]!.text).toBe("böse");
  });

  test("what is wrong is named with its line", async () => {
    const cases: [name: string, content: string | Uint8Array, message: RegExp][] = [
      ["json.jsonl", '{"text":"a"}\n{"text":\n', /json\.jsonl, line 2\] expected valid JSON/],
      ["list.jsonl", "[1]\n", /line 1\] expected a JSON object/],
      ["none.jsonl", '{"body":"a"}\n', /line 1\] expected a member text/],
      ["number.jsonl", '{"text":5}\n', /line 1\] expected a member text that is a string, got 5/],
      [
        "utf8.jsonl",
        Buffer.concat([Buffer.from('{"text":"a"}\n\n'), Buffer.from([0x22, 0xff, 0xfe, 10])]),
        /line 3\] expected UTF-8/,
      ],
      ["utf8.txt", Uint8Array.of(0x61, 0xc3), /expected UTF-8 text/],
      ["junk.jsonl.zst", "no frame of zstd", /expected whole zstd frames/],
    ];
    for (const [name, content, message] of cases) {
      const error = await failure(read(place(name, content)));
      expect(error.code).toBe("file_malformed");
      expect(error.message).toMatch(message);
    }
    expect((await failure(read(join(folder, "absent.jsonl")))).code).toBe("file_not_found");
    expect((await failure(read(place("a.pdf", "x")))).code).toBe("unsupported");
  });

  test("a compressed file that ends early is refused wherever it was cut, and so is a damaged one", async () => {
    const bits = randomBits("cut");
    const whole = zstd(lines(Array.from({ length: 400 }, () => ({ text: String(bits()).repeat(9) }))));
    for (const length of [whole.length - 1, whole.length - 4, whole.length >> 1, 9, 3]) {
      const error = await failure(read(place("cut.jsonl.zst", whole.slice(0, length))));
      expect(error.code).toBe("file_malformed");
    }
    const changed = whole.slice();
    changed[whole.length >> 1]! ^= 16;
    expect((await failure(read(place("changed.jsonl.zst", changed)))).code).toBe("file_malformed");
  });
});

describe("manifest and splits", () => {
  test("counts, digests and the digest of the manifest itself", async () => {
    const text = lines([{ text: "ä" }, { text: "bc" }]);
    const path = place("m.jsonl", text);
    const out = join(folder, "m.json");
    const manifest = await makeCorporaManifest("m", [{ path, licence: "MIT" }], out);
    writeRecord(out, manifest);
    expect(manifest.corpora).toEqual([
      {
        ...{ corpus_id: "m", path: "m.jsonl", format: "jsonl", licence: "MIT", origin: null, split: null },
        ...{ sha256: sha256(text), size_bytes: Buffer.byteLength(text), document_count: 2, text_bytes: 4 },
      },
    ]);
    expect(readCorporaManifest(out).manifest_digest).toBe(manifest.manifest_digest);
    await checkCorpora(out, manifest);
    place("m.jsonl", `${text} `);
    expect((await failure(checkCorpora(out, manifest))).code).toBe("digest_mismatch");
    writeFileSync(out, readFileSync(out, "utf8").replace('"MIT"', '"GPL-3.0"'));
    expect(() => readCorporaManifest(out)).toThrow("The file was edited or damaged");
    writeFileSync(out, "{}");
    expect(() => readCorporaManifest(out)).toThrow("schema_version psionic.data.corpora_manifest.v1");
  });

  test("an empty corpus and one without a licence are refused", async () => {
    for (const [name, content] of [
      ["e.jsonl", ""],
      ["e2.jsonl", '\n{"text":""}\n'],
      ["e.txt", ""],
    ] as const) {
      const input = { path: place(name, content), licence: "MIT" };
      expect((await failure(makeCorporaManifest("e", [input], "e.json"))).message).toContain(
        "a corpus with text",
      );
    }
    const bare = { path: place("f.txt", "x"), licence: " " };
    expect((await failure(makeCorporaManifest("f", [bare], "f.json"))).message).toContain("a licence");
  });

  test("a split is the leading bits of SHA-256 of the id, and shares come out", () => {
    expect(splitHash("", "a/b")).toBe(Number.parseInt(sha256("a/b").slice(0, 8), 16));
    const rule = splitRule({ validation: 13 / 256, test: 0.1 });
    const counts: Record<string, number> = {};
    for (let i = 0; i < 4000; i++) {
      const id = `document ${i}`;
      const split = splitOf(rule, id);
      counts[split] = (counts[split] ?? 0) + 1;
      expect(split === "validation").toBe(Number.parseInt(sha256(id).slice(0, 2), 16) < 13);
    }
    expect(counts.test! / 4000).toBeCloseTo(0.1, 1);
    expect(() => splitRule({ validation: 1 })).toThrow("shares such as");
    expect(() => splitRule({ a: 0.6, b: 0.5 })).toThrow("less than 1 together");
    expect(() => splitRule({ train: 0.5 })).toThrow("train is what the others leave over");
  });
});

const bits = randomBits("words of the duplicate tests");
const sentence = (words: number): string[] => Array.from({ length: words }, () => `w${bits() % 5000}`);

describe("duplicates", () => {
  test("the share of equal minima is the overlap of the sets", () => {
    const common = sentence(600);
    const a = shinglesOf([...common, ...sentence(200)].join(" "), 5);
    const b = shinglesOf([...common, ...sentence(200)].join(" "), 5);
    const exact = jaccard(a, b);
    expect(exact).toBeGreaterThan(0.5);
    expect(exact).toBeLessThan(0.65);
    const index = new MinHashIndex({ ...usualMinHash, bands: 128 });
    const [x, y] = [index.signature(a), index.signature(b)];
    const agree = x.filter((value, i) => value === y[i]).length / x.length;
    expect(Math.abs(agree - exact)).toBeLessThan(0.05);
    expect(jaccard(a, a)).toBe(1);
    expect(shinglesOf("Größe  GRÖSSE!", 1).length).toBe(2);
    expect(shinglesOf("...", 5).length).toBe(0);
  });

  async function selectionOf(
    documents: readonly { readonly id: string; readonly text: string; readonly split: string }[],
  ) {
    const inputs = ["train", "validation"].map((split) => ({
      path: place(`${split}.jsonl`, lines(documents.filter((d) => d.split === split))),
      licence: "MIT",
      split,
    }));
    const out = join(folder, "d.json");
    writeRecord(out, await makeCorporaManifest("d", inputs, out));
    return openSelection(out);
  }

  test("equal and nearly equal documents leave training, in any order, and nothing else does", async () => {
    const words = sentence(400);
    const original = words.join(" ");
    const documents = [
      { id: "t0", split: "train", text: sentence(300).join(" ") },
      { id: "t1", split: "train", text: original.replaceAll(" ", "\n  ") },
      { id: "t2", split: "train", text: words.with(200, "changed").join(" ") },
      { id: "t3", split: "train", text: words.slice(0, 200).join(" ") },
      { id: "v0", split: "validation", text: original },
      { id: "v1", split: "validation", text: sentence(300).join(" ") },
      { id: "v2", split: "validation", text: `${original} and a little more` },
    ];
    const selection = await selectionOf(documents);
    const options = { minHash: usualMinHash, threshold: 0.8, scope: "across_splits" } as const;
    const report = await findDuplicates(selection, options);
    expect(report.pairs.map((p) => [p.kind, p.dropped_id, p.kept_id])).toEqual([
      ["exact", "t1", "v0"],
      ["near", "t2", "v0"],
    ]);
    expect(report.pairs[1]!.similarity_bps).toBeGreaterThan(9700);
    expect(report.dropped_by_split).toEqual({ train: 2 });
    expect(await findDuplicates(selection, options)).toEqual(report);

    const everywhere = await findDuplicates(selection, { ...options, scope: "everywhere" });
    expect(everywhere.pairs.map((p) => p.dropped_id)).toEqual(["v2", "t1", "t2"]);

    const path = join(folder, "duplicates.json");
    writeRecord(path, sealed(duplicateKind, { ...report, report_digest: "" }));
    const cleaned = await openSelection(selection.manifestPath, undefined, path);
    const left: string[] = [];
    for await (const { id } of selectedDocuments(cleaned, ["train"])) left.push(id);
    expect(left).toEqual(["t0", "t3"]);
  });

  test("every planted near duplicate is found among many documents", async () => {
    const documents = Array.from({ length: 150 }, (_, i) => ({ words: sentence(200), i }));
    const planted = documents.filter(({ i }) => i % 3 === 0);
    const selection = await selectionOf([
      ...documents.map(({ words, i }) => ({ id: `v${i}`, split: "validation", text: words.join(" ") })),
      ...planted.map(({ words, i }) => ({
        id: `t${i}`,
        split: "train",
        text: words.with(77, "x").join(" "),
      })),
      ...documents.map(({ i }) => ({ id: `u${i}`, split: "train", text: sentence(200).join(" ") })),
    ]);
    const report = await findDuplicates(selection, {
      minHash: usualMinHash,
      threshold: 0.8,
      scope: "across_splits",
    });
    expect(report.pairs.map((p) => p.dropped_id)).toEqual(planted.map(({ i }) => `t${i}`));
    expect(report.near_pair_count).toBe(50);
  });

  test("records of other corpora are refused", async () => {
    const selection = await selectionOf([
      { id: "a", split: "train", text: "x y" },
      { id: "b", split: "validation", text: "z" },
    ]);
    const other = join(folder, "other.json");
    writeRecord(
      other,
      sealed(splitKind, { corpora_digest: "0", ...splitRule({ a: 0.5 }), report_digest: "" }),
    );
    expect((await failure(openSelection(selection.manifestPath, other))).code).toBe("digest_mismatch");
    const path = join(folder, "others_duplicates.json");
    writeRecord(
      path,
      sealed(duplicateKind, { corpora_digest: "0", split_digest: null, pairs: [], report_digest: "" }),
    );
    expect((await failure(openSelection(selection.manifestPath, undefined, path))).code).toBe(
      "digest_mismatch",
    );
  });
});
