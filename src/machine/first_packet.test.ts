import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** From source 0.1 s with two cores half busy; generous, since this runs beside other tests. */
const mostMs = 1500;

test("a refused manifest is answered soon: nothing that trains is loaded for it", async () => {
  const folder = mkdtempSync(join(tmpdir(), "psionic-first-"));
  try {
    const manifest = join(folder, "manifest.json");
    writeFileSync(manifest, "{}");
    const main = join(import.meta.dir, "..", "main.ts");
    const took: number[] = [];
    for (let i = 0; i < 5; i++) {
      const begun = performance.now();
      const words = ["train", "manifest", "--manifest", manifest];
      const child = Bun.spawn([process.execPath, main, ...words], { stdout: "ignore", stderr: "pipe" });
      const packet = JSON.parse(await new Response(child.stderr).text());
      took.push(performance.now() - begun);
      expect([await child.exited, packet.refusal_class]).toEqual([10, "bad_config"]);
    }
    expect(Math.min(...took)).toBeLessThan(mostMs);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}, 60_000);
