/** Several real models on the CPU: found in folders, loaded by name, refused and swapped by the memory they take. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeManifest } from "../../models/store/manifest.ts";
import { testServer } from "../http/testing/client.ts";
import { distinctSources, fileSource, folderSources, type SharedOptions } from "./open.ts";
import { ModelSet } from "./set.ts";

const fixture = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");
const options: SharedOptions = { backend: "cpu", slots: 2, contextLength: 256, cacheType: "f32", threads: 1 };
const MiB = 2 ** 20;
/** What the plan leaves to others on the CPU. */
const reserve = 256 * MiB;
const question = { messages: [{ role: "user", content: "Why does HTTPS matter?" }], max_tokens: 4 };

let folder: string;
const path = (name: string) => join(folder, name);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "models-"));
  symlinkSync(fixture, path("b.gguf"));
  symlinkSync(fixture, path("a.gguf"));
  mkdirSync(path("publisher/repository"), { recursive: true });
  copyFileSync(fixture, path("publisher/repository/c.gguf"));
  mkdirSync(path(".hidden"));
  symlinkSync(fixture, path(".hidden/d.gguf"));
  writeFileSync(path("noise.gguf"), "no model");
  writeFileSync(path("big-00002-of-00002.gguf"), "a later part");
  writeFileSync(path("notes.txt"), "nothing");
});

afterAll(() => rmSync(folder, { recursive: true }));

describe("looking for models", () => {
  test("files in a folder and the folders in it, sorted; what is none is told", () => {
    const { sources, skipped } = folderSources(folder, options);
    expect(sources.map(({ name }) => name)).toEqual(["a.gguf", "b.gguf", "c.gguf"]);
    expect(sources[0]?.header).toMatchObject({
      ...{ architecture: "gpt-oss", title: "docs-oss-13m", trainedContext: 4096, quantization: "MXFP4" },
      backend: { backend: "cpu", fallbackPolicy: "refuse" },
    });
    expect(skipped.map((one) => one.path)).toEqual([path("noise.gguf")]);
    expect(() => folderSources(path("none"), options)).toThrow("a folder that can be read");
  });

  test("pulled models of the store have the names they were pulled under", () => {
    const place = path("store/hub/org/repo/Q8_0");
    mkdirSync(place, { recursive: true });
    symlinkSync(fixture, join(place, "m-Q8_0.gguf"));
    mkdirSync(path("store/url/half.pull"), { recursive: true });
    symlinkSync(fixture, path("store/url/half.pull/half.gguf"));
    writeManifest(place, {
      ...{ version: 1, name: "org/repo:Q8_0", source: "https://hub/org/repo", revision: null },
      ...{ main: "m-Q8_0.gguf", files: [], pulledAtMs: 0 },
    });
    const { sources, skipped } = folderSources(path("store"), options);
    expect(sources.map(({ name, aliases }) => [name, aliases])).toEqual([["m-Q8_0.gguf", ["org/repo:Q8_0"]]]);
    expect(skipped).toEqual([]);
    rmSync(path("store"), { recursive: true });
  });

  test("names must tell models apart; the same file twice is one", () => {
    const source = fileSource(path("a.gguf"), options);
    expect(distinctSources([source, fileSource(path("a.gguf"), options)])).toEqual([source]);
    mkdirSync(path("other"));
    symlinkSync(fixture, path("other/a.gguf"));
    expect(() => distinctSources([source, fileSource(path("other/a.gguf"), options)])).toThrow("rename one");
    rmSync(path("other"), { recursive: true });
    expect(() => fileSource(path("noise.gguf"), options)).toThrow("noise.gguf");
  });
});

test("two models where one fits: refused while the first is in use, swapped when it is not", async () => {
  const sources = [fileSource(path("a.gguf"), options), fileSource(path("b.gguf"), options)];
  const probe = new ModelSet([sources[0]!]);
  const alone = await probe.take(undefined);
  const { totalBytes } = alone!.served.engine.info.memory;
  alone?.release();
  await probe.close();

  const set = new ModelSet(sources, { memoryBytes: reserve + Math.floor(1.5 * totalBytes) });
  await using server = await testServer(set);
  const held = await set.take("a");
  const refused = await server.post("/v1/chat/completions", { ...question, model: "b" });
  expect(refused.status).toBe(503);
  const { error } = await refused.json();
  expect(error.code).toBe("admission_refused");
  expect(error.message).toMatch(/expected \d+ MiB for the cache .*, got \d+ MiB beside weights of \d+ MiB/);
  expect(error.message).toContain("a.gguf with");
  held?.release();
  const answers = await Promise.all(
    ["a", "b", "a"].map(async (model) => {
      const response = await server.post("/v1/chat/completions", { ...question, model });
      return [response.status, response.status === 200 ? (await response.json()).model : "refused"];
    }),
  );
  expect(server.errors).toEqual([]);
  // those of a run at once; b has to wait for them or is refused
  expect(answers[0]).toEqual([200, "a"]);
  expect(answers[2]).toEqual([200, "a"]);
  const late = await server.post("/v1/chat/completions", { ...question, model: "b" });
  expect((await late.json()).choices[0].message.content).not.toBe("");
  expect(set.rows.map(({ state }) => state)).toEqual(["unloaded", "loaded"]);
  await server.stop();
  await set.close();
  expect(set.rows.map(({ state }) => state)).toEqual(["unloaded", "unloaded"]);
}, 60_000);

test("a model that does not fit even alone is refused from its headers, and the loaded one stays", async () => {
  const large = { ...options, contextLength: 2 ** 28 };
  const sources = [fileSource(path("a.gguf"), options), fileSource(path("b.gguf"), large)];
  const set = new ModelSet(sources, { memoryBytes: 2 * 2 ** 30 });
  (await set.take("a"))?.release();
  const refused = await set.take("b").catch((error: unknown) => error);
  expect(refused).toMatchObject({ code: "admission_refused" });
  expect(String(refused)).toContain("with every other model unloaded there are");
  expect(set.rows.map(({ state }) => state)).toEqual(["loaded", "failed"]);
  await set.close();
});

test("engines side by side do not touch each other: the same tokens as alone, also when one is closed", async () => {
  const set = new ModelSet(
    ["a.gguf", "b.gguf"].map((name) => fileSource(path(name), { ...options, threads: 2 })),
  );
  const [a, b] = [await set.take("a"), await set.take("b")];
  const tokens = async (taken: typeof a, first: number) => {
    const out: number[] = [];
    const request = { prompt: [first, 20, 30, 40], sampling: {}, stopTokens: [], choices: 1, maxTokens: 24 };
    for await (const event of taken!.served.engine.generate(request)) {
      if (event.type === "token") out.push(event.token);
    }
    return out;
  };
  const alone = [await tokens(a, 10), await tokens(a, 11)];
  expect(await tokens(b, 10)).toEqual(alone[0]!);
  const runs = await Promise.all([tokens(a, 10), tokens(b, 11), tokens(a, 11), tokens(b, 10)]);
  expect(runs).toEqual([alone[0]!, alone[1]!, alone[1]!, alone[0]!]);
  const [last] = await Promise.all([tokens(b, 10), a?.served.engine.close()]);
  expect(last).toEqual(alone[0]!);
  expect(await tokens(b, 11)).toEqual(alone[1]!);
  await set.close();
}, 60_000);

test("loading and unloading does not grow the process", async () => {
  const set = new ModelSet([fileSource(path("a.gguf"), options)], { idleUnloadMs: 1 });
  const cycle = async () => {
    const taken = await set.take("a");
    for await (const _ of taken!.served.engine.generate({
      ...{ prompt: [1, 2, 3], sampling: {}, stopTokens: [], choices: 1, maxTokens: 2 },
    }));
    taken?.release();
    for (let i = 0; i < 12_000 && set.rows[0]?.state !== "unloaded"; i++) await Bun.sleep(5);
  };
  await cycle();
  Bun.gc(true);
  const early = process.memoryUsage.rss();
  for (let i = 0; i < 4; i++) await cycle();
  Bun.gc(true);
  const grown = process.memoryUsage.rss() - early;
  // four models of 10 MiB of weights with caches and workspace, had they stayed
  expect(grown).toBeLessThan(4 * 10 * MiB);
  await set.close();
}, 60_000);
