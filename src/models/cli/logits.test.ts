/** The file that `psionic logits` writes: whole or not there, whatever happens meanwhile. */
import { afterAll, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = join(import.meta.dir, "..", "..", "..");
const model = join(root, "fixtures", "docs-oss-13m-mxfp4.gguf");
const vocabulary = 6144;
const folder = mkdtempSync(join(tmpdir(), "psionic-logits-"));
const out = join(folder, "logits.f32");
const ids = join(folder, "ids.json");
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(() => {
  for (const name of readdirSync(folder)) rmSync(join(folder, name));
});

function start(count: number, { prefix = "", to = out } = {}) {
  writeFileSync(ids, JSON.stringify(Array.from({ length: count }, (_, i) => (i * 31) % 6000)));
  const words = ["logits", "-m", model, "--ids", ids, "--out", to, "-t", "1"];
  const script = `${prefix} exec "$0" "$@"`;
  return Bun.spawn(["bash", "-c", script, process.execPath, join(root, "src/main.ts"), ...words], {
    ...({ stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const),
  });
}

test("a whole file, also through a link, and no other", async () => {
  const behind = join(folder, "behind.f32");
  writeFileSync(behind, "before");
  symlinkSync(behind, out);
  const child = start(5);
  expect([await child.exited, await new Response(child.stderr).text()]).toEqual([0, ""]);
  expect(readFileSync(behind)).toHaveLength(5 * vocabulary * 4);
  expect(readdirSync(folder).sort()).toEqual(["behind.f32", "ids.json", "logits.f32"]);
});

test("a file that cannot be written to its end leaves what was there before, and exit code 1", async () => {
  writeFileSync(out, "before");
  // room for a part of the first chunk
  const child = start(300, { prefix: "trap '' XFSZ; ulimit -f 1024;" });
  const error = await new Response(child.stderr).text();
  expect(await child.exited).toBe(1);
  expect(error).toContain("[--out] expected a file that can be written");
  expect(readFileSync(out, "utf8")).toBe("before");
  expect(readdirSync(folder).sort()).toEqual(["ids.json", "logits.f32"]);
});

test.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const)("%s leaves no file, and exit code %d", async (signal, code) => {
  const child = start(4096);
  while (!readdirSync(folder).some((name) => name.endsWith(".part"))) {
    if (child.exitCode !== null) throw new Error(await new Response(child.stderr).text());
    await Bun.sleep(2);
  }
  child.kill(signal);
  expect(await child.exited).toBe(code);
  expect(readdirSync(folder)).toEqual(["ids.json"]);
});

test("a folder that is not there is named before anything is written", async () => {
  const child = start(5, { to: join(folder, "none", "logits.f32") });
  expect(await new Response(child.stderr).text()).toContain("[--out]");
  expect(await child.exited).toBe(1);
  expect(readdirSync(folder)).toEqual(["ids.json"]);
});
