/** The dashboard's page: from before the first step to the end of a run, and nothing for other hosts. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { browserPath, lowContrast, openBrowser, visit } from "../serve/page/testing/browser.ts";
import { dashboardSnapshot, serveDashboard } from "./dashboard_page.ts";
import type { GitState } from "./git_state.ts";
import { referencePilot } from "./lanes/reference_pilot.ts";
import { backUpRun, type RunOptions, resumeRun, startRun } from "./run.ts";
import { type Run, retainedPaths } from "./run_root.ts";

const git: GitState = {
  ...{ selected_git_ref: "refs/heads/main", git_commit_sha: "0".repeat(40) },
  ...{ dirty_tree_admission: "refuse_by_default", workspace_status_sha256: null },
};
const options: RunOptions = { threads: 1, dryRun: false, watcher: {}, stopping: () => false };
const main = join(import.meta.dir, "..", "main.ts");
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-board-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const runOf = (name: string): Run => ({
  ...{ root: join(folder, name), runId: `board-${name}`, lane: referencePilot, git },
  settings: { ...referencePilot.defaults, model: "tiny", max_steps: 12, steps_per_window: 4, sequences: 2 },
});
const figure = (root: string, name: string): string | undefined =>
  dashboardSnapshot(root).figures.find(([n]) => n === name)?.[1];

test("figures of a run: planned, trained, without its backup, damaged", async () => {
  const run = runOf("figures");
  await startRun(run, { ...options, dryRun: true });
  expect(dashboardSnapshot(run.root)).toMatchObject({ phase: "dry_run_planned", alerts: [], drawing: "" });
  expect(figure(run.root, "step")).toBe("none yet");
  await resumeRun(run, options);
  expect(figure(run.root, "step")).toBe("12");
  expect(figure(run.root, "memory")).toMatch(/^\d+ MiB$/);
  await backUpRun(run, undefined, true);
  expect(dashboardSnapshot(run.root)).toMatchObject({
    phase: "checkpoint_backup_refused",
    alerts: [{ severity: "critical", summary: "The accepted checkpoint has no backup." }],
  });
  const server = serveDashboard(run.root, 0);
  try {
    const at = (path: string, headers = {}) => fetch(`http://127.0.0.1:${server.port}${path}`, { headers });
    const svg = await (await at("/curves.svg")).text();
    expect(svg.match(/class="line"/g)?.length).toBe(4);
    const picture = await at("/curves.png");
    expect(picture.headers.get("content-type")).toBe("image/png");
    expect((await picture.text()).slice(1, 4)).toBe("PNG");
    expect(svg).toContain("Memory, MiB");
    expect((await at("/", { host: "evil.example" })).status).toBe(403);
    expect((await at("/status/current_run_status.json")).status).toBe(404);
    writeFileSync(join(run.root, retainedPaths.current_status_path), "{");
    const damaged = await at("/snapshot.json");
    expect([damaged.status, Object.keys((await damaged.json()) as object)]).toEqual([500, ["error"]]);
  } finally {
    await server.stop(true);
  }
}, 120_000);

test("as a process: its address on stdout, until it is told to end; wrong usage", async () => {
  const run = runOf("process");
  await startRun(run, { ...options, dryRun: true });
  const words = [process.execPath, main, "train", "dashboard", "--run-root", run.root];
  for (const more of [
    ["--port", "1"],
    ["--web", "--json"],
  ])
    expect(Bun.spawnSync([...words, ...more]).exitCode).toBe(2);
  const child = Bun.spawn([...words, "--web"], { stdout: "pipe", stderr: "pipe" });
  const reader = child.stdout.getReader();
  const line = new TextDecoder().decode((await reader.read()).value);
  const url = /http:\/\/127\.0\.0\.1:\d+\//.exec(line)?.[0] ?? "";
  expect(await (await fetch(`${url}snapshot.json`)).json()).toMatchObject({ run_id: "board-process" });
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
}, 120_000);

const reason =
  browserPath === undefined ? " (skipped: no Chromium on PATH; scripts/test.sh installs it)" : "";

test.skipIf(browserPath === undefined)(
  `the page in Chromium${reason}`,
  async () => {
    const run = runOf("page");
    const browser = await openBrowser();
    let done = 0;
    const watcher = { step: ({ step }: { step: number }) => (done = step) };
    await startRun(run, { ...options, watcher, stopping: () => done >= 6 });
    const server = serveDashboard(run.root, 0);
    try {
      await using seen = await visit(browser, `http://127.0.0.1:${server.port}/`);
      const { page } = seen;
      await page.getByText("training_interrupted").waitFor();
      expect(await page.locator("#run").textContent()).toBe("board-page");
      const curves = page.locator("#curves");
      await curves.waitFor();
      expect(await curves.getAttribute("src")).toStartWith("curves.svg?6.");
      expect(await curves.getAttribute("alt")).toContain("loss, learning rate, throughput and memory");
      // the run goes on, and the page with it
      await resumeRun(run, options);
      await page.getByText("training_complete").waitFor();
      await page.waitForFunction(() =>
        document.querySelector<HTMLImageElement>("#curves")?.src.includes("?12."),
      );
      await page.waitForFunction(() => document.querySelector<HTMLImageElement>("#curves")!.naturalWidth > 0);
      await backUpRun(run, undefined, true);
      await page.locator("#alerts li.critical", { hasText: "has no backup" }).waitFor();
      expect(await lowContrast(page)).toEqual([]);
      expect(seen.complaints).toEqual([]);
      const shot = process.env.PSIONIC_SCREENSHOTS;
      if (shot) await page.screenshot({ path: join(shot, "train_dashboard.png"), fullPage: true });
    } finally {
      await server.stop(true);
      await browser.close();
    }
  },
  180_000,
);
