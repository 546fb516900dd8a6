import { afterAll, describe, expect, test } from "bun:test";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../../backends/index.ts";
import { sha256 } from "../../core/digest.ts";
import { randomBits } from "../random.ts";
import { sealed, writeRecord } from "../record.ts";
import {
  type Dataset,
  datasetKind,
  manifestName,
  type OpenDataset,
  openDataset,
  verifyDataset,
} from "../shards/dataset.ts";
import type { ShardFormat } from "../shards/shard_file.ts";
import { ShardFile } from "../shards/shard_file.ts";
import { ShardWriter } from "../shards/shard_writer.ts";
import { cursorOf, type LoaderContract, shardOrder, streamCursor, usualContract } from "./contract.ts";
import { BatchLoader } from "./loader.ts";
import { allTokens, BatchReader, datasetWindows, emptyBatch, type LoadedBatch } from "./reader.ts";

const root = mkdtempSync(join(tmpdir(), "psionic-loader-"));
afterAll(() => rmSync(root, { recursive: true }));

let made = 0;
/** Sequences of lengths 3 to 20, each token of the vocabulary. */
function makeDataset(format: ShardFormat, vocabularySize = 1000, sequences = 300, shardTokens = 700) {
  const folder = join(root, `d${made++}`);
  const bits = randomBits(`data set ${format} ${vocabularySize}`);
  const lists = Array.from({ length: sequences }, () =>
    Array.from({ length: 3 + (bits() % 18) }, (_, i) => (i === 0 ? 1 : 2 + (bits() % (vocabularySize - 2)))),
  );
  const writer = new ShardWriter({
    folder,
    name: "set",
    split: "train",
    format,
    vocabularySize,
    shardTokens,
  });
  for (const list of lists) writer.add(list);
  const shards = writer.finish();
  const total = lists.reduce((sum, list) => sum + list.length, 0);
  writeRecord(
    join(folder, manifestName),
    sealed(datasetKind, {
      abi_version: "psionic.dataset.v1",
      key: { dataset_ref: "set", version: "v1" },
      display_name: "set",
      record_encoding: vocabularySize <= 65536 ? "token_ids_le_u16" : "token_ids_le_u32",
      shard_format: format,
      tokenizer: { family: "byte_pair_encoding", tokenizer_digest: "0", vocab_size: vocabularySize },
      context_window_tokens: null,
      ...{ bos: 1, eos: null },
      splits: [
        {
          ...{ split_name: "train", kind: "train", token_count: total, shards },
          sequence_count: shards.reduce((sum, s) => sum + s.sequence_count, 0),
        },
      ],
      manifest_digest: "",
    } satisfies Dataset),
  );
  return { dataset: openDataset(folder), lists, tokens: lists.flat(), folder, shards };
}

const contract = (changes: Partial<LoaderContract>): LoaderContract => ({
  ...usualContract,
  ...{ rows: 4, length: 32 },
  ...changes,
});

function batches(
  dataset: OpenDataset,
  c: LoaderContract,
  count: number,
  from?: Parameters<typeof streamCursor>[2],
) {
  using reader = new BatchReader(dataset, c, from === undefined ? undefined : streamCursor(dataset, c, from));
  const out: string[] = [];
  for (let i = 0; i < count; i++) {
    const batch = emptyBatch(c.rows, c.length);
    if (!reader.next(batch)) break;
    out.push(digest(batch));
  }
  return out;
}

const digest = ({ tokens, targets, positions, first }: LoadedBatch): string =>
  sha256(JSON.stringify([tokens, targets, positions, first].map((a) => [...a])));

describe("shards", () => {
  for (const [format, size, width] of [
    ["psionic", 1000, 2],
    ["psionic", 200_000, 4],
    ["golf", 1024, 2],
  ] as const) {
    test(`${format} shards of ${width} bytes give back what was written`, async () => {
      const { dataset, tokens, folder, shards, lists } = makeDataset(format, size);
      expect(shards.length).toBeGreaterThan(3);
      expect([...allTokens(dataset, "train")]).toEqual(tokens);
      await verifyDataset(dataset);
      using file = new ShardFile(join(folder, shards[0]!.path));
      expect(file.header).toMatchObject({ format, width, tokenCount: shards[0]!.token_count });
      if (format === "psionic") expect(file.starts()[1]).toBe(lists[0]!.length);
    });
  }

  test("a golf shard is 256 i32 of header and u16 tokens; all but the last are full", () => {
    const { folder, shards, tokens } = makeDataset("golf", 1024);
    const bytes = readFileSync(join(folder, shards[0]!.path));
    const header = new Int32Array(bytes.buffer, bytes.byteOffset, 256);
    expect([...header.slice(0, 4)]).toEqual([20240520, 1, 700, 0]);
    expect(header.slice(3).every((n) => n === 0)).toBe(true);
    expect([...new Uint16Array(bytes.buffer, bytes.byteOffset + 1024, 700)]).toEqual(tokens.slice(0, 700));
    expect(shards.slice(0, -1).every((s) => s.token_count === 700)).toBe(true);
    expect(
      () =>
        new ShardWriter({
          folder,
          name: "x",
          split: "train",
          format: "golf",
          vocabularySize: 70000,
          shardTokens: 9,
        }),
    ).toThrow("u16");
  });

  test("every kind of damage is a typed error that names the file", async () => {
    const damage: [what: string, change: (path: string, bytes: Buffer) => void, message: RegExp][] = [
      ["cut", (path, b) => truncateSync(path, b.length - 1), /bytes, as its header says/],
      ["longer", (path, b) => writeFileSync(path, Buffer.concat([b, b])), /bytes, as its header says/],
      ["empty", (path) => writeFileSync(path, ""), /a token shard/],
      ["magic", (path, b) => writeFileSync(path, b.fill(0, 0, 4)), /magic PSIONTOK or 20240520/],
      ["version", (path, b) => writeFileSync(path, b.fill(9, 8, 9)), /shard version 1, got 9/],
      ["width", (path, b) => writeFileSync(path, b.fill(3, 12, 13)), /tokens of 2 or 4 bytes, got 3/],
      ["count", (path, b) => writeFileSync(path, b.fill(255, 24, 31)), /at most/],
      ["length", (path, b) => writeFileSync(path, b.fill(7, 48, 49)), /lengths that add up/],
      ["no length", (path, b) => writeFileSync(path, b.fill(0, 48, 52)), /at least one token/],
      ["token", (path, b) => writeFileSync(path, b.fill(255, b.length - 1)), /tokens below 1000/],
      [
        "bit",
        (path, b) => writeFileSync(path, Buffer.concat([b.subarray(0, -2), Buffer.from([3, 0])])),
        /SHA-256/,
      ],
      ["gone", (path) => rmSync(path), /nothing that can be read/],
    ];
    for (const [what, change, message] of damage) {
      const { dataset, folder, shards } = makeDataset("psionic");
      const path = join(folder, shards[1]!.path);
      change(path, readFileSync(path));
      const error: unknown = await verifyDataset(dataset).then(
        () => new Error(`${what} was not seen`),
        (e: unknown) => e,
      );
      expect((error as Error).message).toMatch(message);
      expect((error as Error).message).toContain(shards[1]!.path);
      expect((error as { code: string }).code).toMatch(/file_malformed|digest_mismatch|file_not_found/);
    }
  });

  test("a manifest that leads out of its folder, was edited, or disagrees with its shards is refused", async () => {
    const { folder, dataset } = makeDataset("psionic");
    const path = join(folder, manifestName);
    const { folder: _, ...record } = dataset;
    const rewrite = (change: (text: string) => string): void => {
      const fields = JSON.parse(change(JSON.stringify(record))) as Dataset;
      writeRecord(path, sealed(datasetKind, fields));
    };
    rewrite((text) => text.replaceAll('"path":"set_train', '"path":"../set_train'));
    expect(() => openDataset(folder)).toThrow("splits with their shards");
    rewrite((text) => text.replace(/"token_count":(\d+)/, (_m, n) => `"token_count":${Number(n) + 1}`));
    await expect(verifyDataset(openDataset(folder))).rejects.toThrow("tokens in split train");
    writeFileSync(path, JSON.stringify(record).replace('"vocab_size":1000', '"vocab_size":2000'));
    expect(() => openDataset(folder)).toThrow("edited or damaged");
  });
});

describe("stream", () => {
  const golf = makeDataset("golf", 1024);

  test("in manifest order batches are the token stream, rows * length + 1 at a time, over shard ends and epochs", () => {
    const c = contract({ shard_ordering: "manifest_order" });
    using reader = new BatchReader(golf.dataset, c);
    const batch = emptyBatch(c.rows, c.length);
    const span = c.rows * c.length + 1;
    for (let n = 0; n < 80; n++) {
      expect(reader.next(batch)).toBe(true);
      const want = Array.from({ length: span }, (_, i) => golf.tokens[(n * span + i) % golf.tokens.length]);
      expect([...batch.tokens]).toEqual(want.slice(0, -1) as number[]);
      expect([...batch.targets]).toEqual(want.slice(1) as number[]);
      expect([...batch.positions.slice(0, 33)]).toEqual([...Array(32).keys(), 0]);
    }
    expect(reader.cursor.epoch).toBeGreaterThan(1);
  });

  test("ranks take neighbouring parts of the same stream", () => {
    const whole = contract({ shard_ordering: "manifest_order", rows: 1, length: 64 });
    const one = batches(golf.dataset, whole, 6);
    const two = [0, 1].map((rank) => batches(golf.dataset, { ...whole, rank, world: 2 }, 3));
    expect([0, 1, 2].flatMap((i) => [two[0]![i]!, two[1]![i]!])).toEqual(one);
  });

  test("a single pass ends; shuffled epochs hold every shard once, in an order of their own", () => {
    const pass = contract({ mode: "single_pass" });
    expect(batches(golf.dataset, pass, 1000).length).toBe(Math.floor(golf.tokens.length / 129));
    const keys = golf.shards.map((s) => s.shard_key);
    const orders = [0, 1, 2].map((epoch) => shardOrder(keys, pass, epoch));
    for (const order of orders) expect([...order].sort((a, b) => a - b)).toEqual(keys.map((_, i) => i));
    expect(new Set(orders.map((o) => o.join())).size).toBe(3);
    const [first] = [...keys].sort((a, b) => {
      const place = (key: string): string => sha256(`psionic_dataset_shard_order|1337|0|${key}`);
      return place(a) < place(b) ? -1 : 1;
    });
    expect(keys[orders[0]![0]!]).toBe(first!);
  });

  test("the place after any number of batches can be computed", () => {
    for (const shard_ordering of ["manifest_order", "deterministic_shuffle"] as const) {
      const c = contract({ shard_ordering });
      const all = batches(golf.dataset, c, 90);
      for (const n of [0, 1, 5, 25, 26, 52, 77])
        expect(batches(golf.dataset, c, 90 - n, n)).toEqual(all.slice(n));
    }
    using reader = new BatchReader(golf.dataset, contract({}));
    for (let n = 0; n < 90; n++) {
      const { next_shard_index, ...rest } = streamCursor(golf.dataset, contract({}), n);
      if (next_shard_index < golf.shards.length)
        expect(reader.cursor).toMatchObject({ next_shard_index, ...rest });
      reader.next(emptyBatch(4, 32));
    }
  });

  test("golf shards without a manifest are a data set in the order of their names", async () => {
    const { folder, tokens, shards } = makeDataset("golf", 1024);
    const bare = join(root, "bare");
    mkdirSync(bare);
    for (const [i, { path }] of shards.entries())
      copyFileSync(
        join(folder, path),
        join(bare, `web_${i === 0 ? "val" : "train"}_${String(i).padStart(6, "0")}.bin`),
      );
    const dataset = openDataset(bare);
    expect([...allTokens(dataset, "validation")]).toEqual(tokens.slice(0, 700));
    expect([...allTokens(dataset, "train")]).toEqual(tokens.slice(700));
    await verifyDataset(dataset);
    const c = contract({});
    using loader = new BatchLoader(dataset, c);
    expect(digest(loader.next()!)).toBe(batches(dataset, c, 1)[0]!);
    copyFileSync(join(folder, shards[0]!.path), join(bare, "web_train_000099.bin"));
    expect(openDataset(bare).manifest_digest).not.toBe(dataset.manifest_digest);
    expect(() => openDataset(root)).toThrow("nothing there");
  });

  test("windows of a whole split", () => {
    const windows = datasetWindows(golf.dataset, "train", 64);
    expect(windows.starts.length).toBe(Math.floor((golf.tokens.length - 1) / 64));
    expect([...windows.tokens]).toEqual(golf.tokens);
  });
});

describe("packed rows", () => {
  const packed = makeDataset("psionic");
  const c = contract({ layout: "packed", mode: "single_pass", shard_ordering: "manifest_order" });

  test("every sequence is there once, whole, with positions and targets of its own", () => {
    using reader = new BatchReader(packed.dataset, c);
    const found: number[][] = [];
    const batch = emptyBatch(c.rows, c.length);
    while (reader.next(batch)) {
      for (let at = 0; at < c.rows * c.length; ) {
        let end = at + 1;
        while (end % c.length !== 0 && batch.positions[end] === batch.positions[end - 1]! + 1) end++;
        const targets = [...batch.targets.slice(at, end)];
        if (targets.some((t) => t >= 0)) {
          found.push([...batch.tokens.slice(at, end)]);
          expect(targets).toEqual([...batch.tokens.slice(at + 1, end), -1]);
          expect([...batch.first.slice(at, end)]).toEqual(targets.map(() => at % c.length));
        }
        at = end;
      }
    }
    expect(found).toEqual(packed.lists);
    expect(reader.cursor.emitted_sequences).toBe(packed.lists.length);
  });

  test("ranks divide the rows of a batch", () => {
    const one = contract({ ...c, rows: 4 });
    using reader = new BatchReader(packed.dataset, one);
    using left = new BatchReader(packed.dataset, { ...one, rows: 2, world: 2 });
    using right = new BatchReader(packed.dataset, { ...one, rows: 2, rank: 1, world: 2 });
    for (let i = 0; i < 5; i++) {
      const [whole, a, b] = [emptyBatch(4, 32), emptyBatch(2, 32), emptyBatch(2, 32)];
      reader.next(whole);
      left.next(a);
      right.next(b);
      expect([...a.tokens, ...b.tokens]).toEqual([...whole.tokens]);
      expect(left.cursor).toEqual(reader.cursor);
    }
  });

  test("shuffled sequences differ by epoch and seed, and repeat with them", () => {
    const shuffled = { ...c, sequence_ordering: "deterministic_shuffle" } as const;
    const first = batches(packed.dataset, shuffled, 100);
    expect(batches(packed.dataset, shuffled, 100)).toEqual(first);
    expect(batches(packed.dataset, { ...shuffled, shuffle_seed: 1 }, 100)).not.toEqual(first);
    expect(first).not.toEqual(batches(packed.dataset, c, 100));
  });

  test("sequences longer than a row are refused or dropped as asked", () => {
    const short = { ...c, length: 10 };
    expect(() => batches(packed.dataset, short, 5)).toThrow("sequences of at most 10 tokens");
    using reader = new BatchReader(packed.dataset, { ...short, overlong_sequence_posture: "drop" });
    while (reader.next(emptyBatch(4, 10)));
    expect(reader.cursor.emitted_sequences).toBe(packed.lists.filter((l) => l.length <= 10).length);
    const nothing = { ...short, length: 2, mode: "repeat", overlong_sequence_posture: "drop" } as const;
    expect(() => batches(packed.dataset, nothing, 1)).toThrow("a sequence of at most 2 tokens");
  });
});

describe("loader", () => {
  const sets = { stream: makeDataset("golf", 1024), packed: makeDataset("psionic") };

  for (const layout of ["stream", "packed"] as const) {
    test(`gives what the reader gives, and goes on the same after any stop (${layout})`, () => {
      const { dataset } = sets[layout];
      const c = contract({ layout });
      const expected = batches(dataset, c, 60);
      for (const stop of [0, 1, 7, 31]) {
        let state: unknown;
        const got: string[] = [];
        {
          using loader = new BatchLoader(dataset, c, undefined, { ahead: 3 });
          for (let i = 0; i < stop; i++) got.push(digest(loader.next()!));
          state = JSON.parse(JSON.stringify(loader.state));
        }
        using loader = new BatchLoader(dataset, c, state);
        while (got.length < 60) got.push(digest(loader.next()!));
        expect(got).toEqual(expected);
      }
    });
  }

  test("a single pass ends with undefined, again and again", () => {
    const c = contract({ mode: "single_pass" });
    using loader = new BatchLoader(sets.stream.dataset, c);
    let count = 0;
    while (loader.next()) count++;
    expect(count).toBe(batches(sets.stream.dataset, c, 1000).length);
    expect(loader.next()).toBeUndefined();
  });

  test("a state of other data, of another contract, or none at all is refused", () => {
    const { dataset } = sets.stream;
    const c = contract({});
    using loader = new BatchLoader(dataset, c);
    const { state } = loader;
    expect(() => cursorOf(sets.packed.dataset, c, state)).toThrow("dataset_digest");
    expect(() => cursorOf(dataset, { ...c, rows: 5 }, state)).toThrow("contract_digest");
    expect(() => cursorOf(dataset, c, { ...state, cursor: { ...state.cursor, epoch: -1 } })).toThrow("epoch");
    expect(() => cursorOf(dataset, c, {})).toThrow("psionic.data.loader_state.v1");
    expect(() => new BatchLoader(dataset, { ...c, split_name: "test" })).toThrow("a split of train");
    expect(() => new BatchLoader(dataset, { ...c, rank: 1 })).toThrow("a rank below 1");
    expect(() => new BatchLoader(dataset, { ...c, layout: "packed" })).toThrow("which are one stream");
    expect(() => new BatchLoader(dataset, contract({ mode: "single_pass", rows: 4096 }))).toThrow("at least");
  });

  test("a shard that is damaged while training reaches the caller as its typed error", () => {
    const { dataset, folder, shards } = makeDataset("psionic");
    const path = join(folder, shards[2]!.path);
    const bytes = readFileSync(path);
    writeFileSync(path, bytes.fill(255, bytes.length - 20));
    using loader = new BatchLoader(dataset, contract({ shard_ordering: "manifest_order" }));
    let error: unknown;
    try {
      for (let i = 0; i < 1000; i++) loader.next();
    } catch (e) {
      error = e;
    }
    expect(error).toMatchObject({ code: "file_malformed" });
    expect((error as Error).message).toContain(`${shards[2]!.path}] expected tokens below 1000`);
  });

  test("batches go from shared memory to a device as they are", () => {
    const device = openDevice("cpu", { threads: 1 });
    try {
      using loader = new BatchLoader(sets.stream.dataset, contract({}));
      for (let i = 0; i < 6; i++) {
        const batch = loader.next()!;
        using _scope = device.scope();
        const tensor = device.fromHost("i32", [batch.tokens.length], batch.tokens);
        expect([...device.downloadI32(tensor)]).toEqual([...batch.tokens]);
      }
    } finally {
      device.close();
    }
  });

  test("a worker that does not answer is an error, not a wait for ever", () => {
    const { dataset } = sets.stream;
    using loader = new BatchLoader(dataset, contract({}), undefined, { limitMs: 0 });
    expect(() => loader.next()).toThrow("a batch within 0 ms");
  });
});
