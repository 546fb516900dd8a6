/** The prefix cache's files as servers use them: across kill -9, and two servers at one folder. */
import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../../models/testing/variants.ts";

const main = join(import.meta.dir, "..", "..", "main.ts");
const folder = temporaryFolder();
afterAll(() => folder[Symbol.dispose]());

function environment(): Record<string, string> {
  const { PATH = "", PSIONIC_CACHE_DIR } = process.env;
  const home = join(folder.path, "home");
  return { PATH, HOME: home, NO_COLOR: "1", ...(PSIONIC_CACHE_DIR ? { PSIONIC_CACHE_DIR } : {}) };
}

async function started(words: readonly string[], env: Record<string, string> = {}) {
  const child = Bun.spawn(
    [process.execPath, main, "serve", "--port", "0", "-t", "1", "-c", "2048", ...words],
    { env: { ...environment(), ...env }, stdout: "pipe", stderr: "pipe" },
  );
  const errors = new Response(child.stderr).text();
  for await (const bytes of child.stdout) {
    const url = /http:\/\/\S+/.exec(new TextDecoder().decode(bytes))?.[0] ?? "";
    return { child, url, errors };
  }
  throw new Error(`the server did not start: ${await errors}`);
}

type Usage = { text: string; cached: number };

async function complete(url: string, prompt: string): Promise<Usage> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    body: JSON.stringify({ prompt, max_tokens: 12, temperature: 0 }),
  });
  const body = await response.json();
  return { text: body.choices[0].text, cached: body.usage.prompt_tokens_details.cached_tokens };
}

function blocks(store: string): string[] {
  if (!existsSync(store)) return [];
  return readdirSync(store).flatMap((group) =>
    readdirSync(join(store, group)).map((name) => join(store, group, name)),
  );
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const limit = performance.now() + 60_000;
  while (!(await condition())) {
    if (performance.now() > limit) throw new Error("the condition did not come true within a minute");
    await Bun.sleep(20);
  }
}

const prompt = (word: string) => `${word} `.repeat(400);

test("what was written before kill -9 is there for the next server, named by the environment", async () => {
  const store = join(folder.path, "killed");
  const settings = { PSIONIC_SERVE_PREFIX_DISK: "64MiB", PSIONIC_SERVE_PREFIX_DISK_DIR: store };
  const first = await started([], settings);
  const told = await complete(first.url, prompt("forest"));
  expect(told.cached).toBe(0);
  await until(() => blocks(store).length >= 10);
  // in the middle of the next one's writing, or before, or behind it
  void complete(first.url, prompt("river")).catch(() => {});
  await Bun.sleep(150);
  first.child.kill("SIGKILL");
  await first.child.exited;
  for (const file of blocks(store)) expect(statSync(file).mode & 0o077).toBe(0);

  const again = await started([], settings);
  const warm = await complete(again.url, prompt("forest"));
  expect(warm.text).toBe(told.text);
  expect(warm.cached).toBeGreaterThan(200);
  const metrics = await (await fetch(`${again.url}/metrics`)).text();
  expect(metrics).toMatch(/psionic_prefix_disk_hits_total\{[^}]*\} 1\n/);
  again.child.kill("SIGTERM");
  expect(await again.child.exited).toBe(0);
  expect(await again.errors).not.toContain("ignored");
}, 60_000);

test("two servers at one folder", async () => {
  const store = join(folder.path, "shared");
  mkdirSync(store);
  const words = ["--prefix-disk", "400KiB", "--prefix-disk-dir", store];
  const servers = await Promise.all([started(words), started(words)]);
  const texts = ["stone", "water", "light", "paper", "stone", "glass"];
  const answers = await Promise.all(
    servers.map(async ({ url }, s) => {
      const own: Usage[] = [];
      for (const text of s === 0 ? texts : texts.toReversed()) own.push(await complete(url, prompt(text)));
      return own.map(({ text }) => text);
    }),
  );
  expect(answers[1]!.toReversed()).toEqual(answers[0]!);
  for (const { child } of servers) child.kill("SIGTERM");
  for (const { child, errors } of servers) {
    expect(await child.exited).toBe(0);
    expect(await errors).not.toMatch(/ignored|could not be written/);
  }
  const size = blocks(store).reduce((sum, file) => sum + statSync(file).size, 0);
  expect(size).toBeLessThanOrEqual(2 * 400 * 1024);
}, 60_000);

test("a folder without a size is wrong usage, as is a size that is none", async () => {
  const run = async (...words: string[]) => {
    const child = Bun.spawn([process.execPath, main, "serve", ...words], {
      ...{ env: environment(), stdout: "pipe", stderr: "pipe" },
    });
    return [await child.exited, await new Response(child.stderr).text()] as const;
  };
  const [code, text] = await run("--prefix-disk-dir", folder.path);
  expect(code).toBe(2);
  expect(text).toContain("--prefix-disk SIZE");
  const [other, reason] = await run("--prefix-disk", "much");
  expect(other).toBe(2);
  expect(reason).toContain("--prefix-disk takes a size");
}, 120_000);
