/** A run is shown from its files as they are, at any moment: nothing yet, refused, trained, damaged. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { browserPath, openBrowser } from "../../serve/page/testing/browser.ts";
import { bound, Scene } from "../testing/scene.ts";
import { linesOf } from "./lines.ts";
import { servePage } from "./page.ts";
import { snapshotOf } from "./snapshot.ts";

const main = join(import.meta.dir, "..", "..", "main.ts");

describe("train watch", () => {
  test("a run from its beginning to a damaged file", () => {
    using scene = new Scene();
    expect(() => snapshotOf(scene.root)).toThrow("a run root");
    expect(() => snapshotOf(scene.write(scene.manifest("start"))[1]!)).toThrow("a run root, got no folder");
    mkdirSync(scene.root);
    expect(linesOf(snapshotOf(scene.root))[1]).toContain("nothing was done here yet");
    scene.run("start", { coordination: bound });
    const found = snapshotOf(scene.root, scene.now + 20_000);
    expect(found).toMatchObject({
      run: { run_id: "run-0001", outcome: "succeeded", phase: "completed", backend: "cpu" },
      membership: { node_pubkey: "npub1-node-a", transition: "join", liveness: "stale" },
      checkpoint: { step: 4, pointer_state: "accepted" },
      unreadable: [],
    });
    expect(found.losses).toHaveLength(4);
    expect(found.windows.map((w) => [w.window_id, w.contributions.length])).toEqual([["window-0001", 1]]);
    writeFileSync(join(scene.root, "status/checkpoint_surface.json"), "{");
    const damaged = snapshotOf(scene.root);
    expect([damaged.checkpoint, damaged.unreadable]).toEqual([null, ["status/checkpoint_surface.json"]]);
    expect(linesOf(damaged).join("\n")).toContain("unreadable  status/checkpoint_surface.json");
  });

  test("as a process: lines, JSON, wrong usage", () => {
    using scene = new Scene();
    scene.run("start", { dry_run: true });
    const run = (...words: string[]) => {
      const done = Bun.spawnSync([process.execPath, main, "train", "watch", ...words]);
      return { code: done.exitCode, out: done.stdout.toString(), err: done.stderr.toString() };
    };
    expect(run("--run-root", scene.root).out).toContain("phase       dry_run_planned");
    expect(JSON.parse(run("--run-root", scene.root, "--json").out)).toMatchObject({
      run: { operation: "start" },
    });
    expect(run().code).toBe(2);
    expect(run("--run-root", scene.root, "--port", "1").code).toBe(2);
    expect(run("--run-root", join(scene.root, "none")).code).toBe(1);
  }, 30_000);

  test("the page's server: the snapshot, and nothing for other hosts", async () => {
    using scene = new Scene();
    scene.run("start", { coordination: bound });
    const server = servePage(scene.root, 0);
    try {
      const at = (path: string, headers = {}) => fetch(`http://127.0.0.1:${server.port}${path}`, { headers });
      const answer = await at("/snapshot.json");
      expect(await answer.json()).toMatchObject({ snapshot: { run: { run_id: "run-0001" } } });
      expect((await at("/", { host: "evil.example" })).status).toBe(403);
      expect((await at("/other")).status).toBe(404);
      expect(await (await at("/")).text()).toContain("psionic train watch");
    } finally {
      await server.stop(true);
    }
    expect(existsSync(scene.root)).toBe(true);
  });
});

const reason =
  browserPath === undefined ? " (skipped: no Chromium on PATH; scripts/test.sh installs it)" : "";

test.skipIf(browserPath === undefined)(
  `the page in Chromium${reason}`,
  async () => {
    using scene = new Scene();
    scene.run("start", { coordination: bound });
    const server = servePage(scene.root, 0);
    const browser = await openBrowser();
    try {
      const page = await browser.newPage();
      await page.goto(`http://127.0.0.1:${server.port}/`);
      await page.getByText("window-0001").waitFor();
      expect(await page.locator("#lines").textContent()).toContain("phase       completed");
      expect(await page.locator("#loss polyline").getAttribute("points")).toContain(" ");
      // a later invocation shows without a reload
      scene.run("start", { coordination: { ...bound, window_id: "window-0002" } });
      await page.getByText("window-0002").waitFor();
    } finally {
      await browser.close();
      await server.stop(true);
    }
  },
  60_000,
);
