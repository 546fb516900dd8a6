import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../backends/index.ts";
import { gitState } from "./git_state.ts";
import { laneOf } from "./lanes/index.ts";
import { checkMemory, planMemory } from "./plan.ts";
import { checkSchedule, rateAt, type Schedule } from "./schedule.ts";
import { checkedSettings } from "./settings.ts";
import { Trainer } from "./trainer.ts";

describe("the memory plan", () => {
  const lane = laneOf("reference_pilot");
  const parts = (changed: Record<string, boolean | number | string>) =>
    lane.parts(checkedSettings("test", lane, { ...lane.defaults, model: "tiny_gpt_oss", ...changed }));

  test("is what a step takes, from shapes alone; blocks that run again take less", () => {
    const plan = planMemory(parts({}));
    const device = openDevice("cpu", { threads: 1 });
    {
      using trainer = new Trainer(device, parts({}).model, parts({}).train, parts({}).config);
      expect(device.live().bytes).toBe(plan.stateBytes);
      trainer.step();
      expect(device.arena.peakBytes).toBe(plan.stepBytes);
    }
    device.close();
    const again = planMemory(
      lane.parts(checkedSettings("test", lane, { ...lane.defaults, recompute: true })),
    );
    expect(again.stepBytes).toBeLessThan(planMemory(lane.parts(lane.defaults)).stepBytes * 0.7);
  });

  test("what does not fit is refused with both numbers", () => {
    const plan = planMemory(parts({}));
    expect(() => checkMemory(plan, plan.totalBytes - 1)).toThrow(
      `${plan.totalBytes} bytes of memory, got ${plan.totalBytes - 1} available. Use fewer`,
    );
    expect(() => checkMemory(plan, plan.totalBytes)).not.toThrow();
  });
});

describe("the source of a run", () => {
  let folder: string;
  const git = (...words: string[]): void => {
    const author = ["-c", "user.name=test", "-c", "user.email=test@example.org"];
    const { exitCode, stderr } = Bun.spawnSync(["git", "-C", folder, ...author, ...words]);
    if (exitCode !== 0) throw new Error(stderr.toString());
  };
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "psionic-git-"));
    git("init", "-q", "-b", "main");
    writeFileSync(join(folder, "package.json"), '{"name": "psionic"}');
    git("add", ".");
    git("commit", "-q", "-m", "First");
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test("a clean checkout is named; a changed one is refused until it is allowed", () => {
    const clean = gitState(folder, undefined, false);
    expect(clean).toMatchObject({
      selected_git_ref: "refs/heads/main",
      dirty_tree_admission: "refuse_by_default",
    });
    expect(clean.git_commit_sha).toMatch(/^[0-9a-f]{40}$/);
    expect(clean.workspace_status_sha256).toBeNull();
    writeFileSync(join(folder, "new"), "");
    expect(() => gitState(folder, undefined, false)).toThrow(
      /without uncommitted changes.*--allow-dirty-tree/,
    );
    const allowed = gitState(folder, "HEAD", true);
    expect(allowed).toMatchObject({
      selected_git_ref: "HEAD",
      dirty_tree_admission: "allowed_by_operator_override",
    });
    expect(allowed.workspace_status_sha256).toMatch(/^[0-9a-f]{64}$/);
    rmSync(join(folder, "new"));
    expect(() => gitState(folder, "no-such-ref", false)).toThrow(/a ref of this repository, got no-such-ref/);
  });

  test("elsewhere there is none", () => {
    expect(gitState(tmpdir(), undefined, false).selected_git_ref).toBe("packaged-runtime");
    expect(() => gitState(tmpdir(), "main", false)).toThrow(/a checkout of psionic/);
  });
});

test("learning rates of each schedule at its turns", () => {
  const rates = (schedule: Schedule, steps: readonly number[]): number[] =>
    steps.map((step) => Number(rateAt(schedule, 2, step).toFixed(6)));
  expect(rates({ kind: "constant" }, [1, 9])).toEqual([2, 2]);
  expect(rates({ kind: "step_lr", step_size: 3, gamma: 0.5 }, [1, 3, 4, 7])).toEqual([2, 2, 1, 0.5]);
  expect(rates({ kind: "linear_warmup", start_factor: 0.2, warmup_steps: 4 }, [1, 4, 9])).toEqual([
    0.8, 2, 2,
  ]);
  expect(rates({ kind: "inverse_square_root_warmup", warmup_steps: 4 }, [2, 4, 16])).toEqual([1, 2, 1]);
  const annealing = { kind: "cosine_annealing", total_steps: 5, min_learning_rate: 1 } as const;
  expect(rates(annealing, [1, 3, 5, 9])).toEqual([2, 1.5, 1, 1]);
  const warm = { kind: "warmup_cosine", warmup_steps: 2, total_steps: 6, min_learning_rate: 0 } as const;
  expect(rates(warm, [1, 2, 4, 6, 7])).toEqual([1, 2, 1, 0, 0]);
  expect(rates({ kind: "warm_down", total_steps: 8, warm_down_steps: 4 }, [1, 5, 7, 8, 9])).toEqual([
    2, 2, 1, 0.5, 0,
  ]);
});

test("warming down by time: linear over as long as the steps take, by their mean so far", () => {
  const schedule = { kind: "warm_down_by_time", budget_ms: 1000, warm_down_steps: 4 } as const;
  const rate = (step: number, elapsedMs: number): number => rateAt(schedule, 2, step, elapsedMs);
  // 100 ms a step: the last 400 ms
  expect([rate(1, 0), rate(6, 500), rate(7, 600), rate(8, 700), rate(10, 900)]).toEqual([2, 2, 2, 1.5, 0.5]);
  // 200 ms a step: the last 800 ms
  expect([rate(2, 200), rate(3, 400), rate(6, 1000), rate(7, 1200)]).toEqual([2, 1.5, 0, 0]);
  const flat = { ...schedule, warm_down_steps: 0 };
  expect([rateAt(flat, 2, 5, 999), rateAt(flat, 2, 6, 1000)]).toEqual([2, 2]);
  expect(() => checkSchedule({ ...schedule, budget_ms: 0 })).toThrow(/usable budget_ms/);
});
