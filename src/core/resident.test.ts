import { expect, test } from "bun:test";
import { join } from "node:path";
import { residentBytes } from "./resident.ts";

test("resident memory is what the system says", () => {
  const kept = Buffer.alloc(64 * 2 ** 20, 1);
  expect(Math.abs(residentBytes() - process.memoryUsage.rss())).toBeLessThan(32 * 2 ** 20);
  expect(residentBytes()).toBeGreaterThan(kept.length);
});

test.skipIf(process.platform !== "linux")(
  "it can be told when no file can be opened any more",
  () => {
    const script = `
    import { openSync } from "node:fs";
    import { residentBytes } from ${JSON.stringify(join(import.meta.dir, "resident.ts"))};
    try { for (;;) openSync("/dev/null", "r"); } catch {}
    console.log(residentBytes());`;
    const { stdout, stderr } = Bun.spawnSync(
      ["bash", "-c", 'ulimit -n 200; exec "$0" -e "$1"', process.execPath, script],
      { stdout: "pipe", stderr: "pipe" },
    );
    expect([Number(stdout.toString()) > 2 ** 20, stderr.toString()]).toEqual([true, ""]);
  },
  30_000,
);
