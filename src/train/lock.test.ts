/** A run root is one process's for as long as it trains. */
import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

setDefaultTimeout(60_000);
const folder = mkdtempSync(join(tmpdir(), "psionic-lock-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const train = (...words: string[]) =>
  Bun.spawn([process.execPath, join(import.meta.dir, "..", "main.ts"), "train", ...words], {
    stdout: "pipe",
    stderr: "pipe",
    cwd: folder,
  });

test("a second process is refused with exit code 8 while the first one's steps go on", async () => {
  const root = join(folder, "run");
  const small = ["--model", "tiny", "--max-steps", "1000000", "--steps-per-window", "5", "--threads", "1"];
  const first = train("start", "--output-root", root, "--allow-dirty-tree", ...small);
  while (!existsSync(join(root, "metrics", "steps.jsonl"))) await Bun.sleep(5);
  const second = train("resume", "--run-root", root, "--allow-dirty-tree");
  const [code, text] = await Promise.all([second.exited, new Response(second.stderr).text()]);
  first.kill("SIGKILL");
  await first.exited;
  expect({ code, text }).toEqual({
    code: 8,
    text: expect.stringContaining("a folder that no other process is at"),
  });
});
