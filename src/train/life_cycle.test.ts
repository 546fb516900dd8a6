/** What follows a checkpoint: its evaluation, its backup, the decision, the closeout and the curves. */
import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PsionicError } from "../core/error.ts";
import { svgOf } from "./chart/svg.ts";
import { closeoutGates } from "./closeout.ts";
import { curvesOf, thinned } from "./curves.ts";
import { refreshDashboard } from "./dashboard.ts";
import { comparisonRows, decideContinueRestart, type Observed, readinessOf } from "./decision.ts";
import { judge, shareBps } from "./evaluation.ts";
import { measuredIn, median } from "./evidence.ts";
import { referencePilot } from "./lanes/reference_pilot.ts";
import { recordCheckpoint } from "./record_checkpoint.ts";
import { backUpRun, type RunOptions, resumeRun, startRun } from "./run.ts";
import { ownPaths, type Run, retainedPaths, withDigest } from "./run_root.ts";
import { storedBackend } from "./settings.ts";
import type { TracedStep } from "./trainer.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-life-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const git = {
  selected_git_ref: "refs/heads/main",
  git_commit_sha: "0".repeat(40),
  dirty_tree_admission: "refuse_by_default",
  workspace_status_sha256: null,
} as const;
const options: RunOptions = { threads: 1, dryRun: false, watcher: {}, stopping: () => false };
const asked = { threads: 1, injectUnavailable: false };

const runOf = (name: string, changed: Partial<Run["settings"]>): Run => ({
  root: join(folder, name),
  runId: name,
  lane: referencePilot,
  git,
  settings: { ...referencePilot.defaults, model: "tiny", sequences: 4, ...changed },
});
const json = (run: Run, path: string) => JSON.parse(readFileSync(join(run.root, path), "utf8"));
const codeOf = (body: () => unknown): string | undefined => {
  try {
    body();
    return undefined;
  } catch (error) {
    return error instanceof PsionicError ? error.code : String(error);
  }
};

test("receipts of a run say what was measured, and null or not_measured for the rest", async () => {
  const run = runOf("measured", { max_steps: 2, steps_per_window: 2, accumulation: 5 });
  const boards: { throughput: object; hardware: { checkpoint_restore_ready: unknown } }[] = [];
  const read = () => boards.push(json(run, retainedPaths.current_dashboard_path));
  await startRun(run, { ...options, watcher: { step: read } });
  read();
  expect(boards.map((b) => b.hardware.checkpoint_restore_ready)).toEqual([false, false, true]);
  for (const { throughput, hardware } of boards) {
    expect(throughput).toMatchObject({ observed_stall_count: null, degradation_state: "not_measured" });
    expect(hardware).toMatchObject({ health_state: "not_measured", required_backend: "cpu" });
  }
  const preflight = json(run, retainedPaths.hardware_qualification_path);
  expect(preflight).toMatchObject({
    checkpoint_restore_ready: null,
    observed_workers: [{ mig_partitioned: null }],
  });
  const free = preflight.observed_workers[0].free_memory_bytes;
  expect(boards[2]!.hardware).toMatchObject({
    min_observed_free_memory_bytes: free,
    observed_worker_count: 1,
  });
  const shape = json(run, retainedPaths.run_shape_qualification_path);
  // eight microbatches of four sequences are read of the ten that the run has
  expect(shape.dataloader_probe).toMatchObject({
    ...{ planned_optimizer_steps: 2, observed_horizon_steps: 1, observed_stall_count: 0 },
    observed_horizon_tokens: 8 * 4 * run.settings.length,
    deterministic_replay_observed: true,
  });
  expect(shape.max_dataloader_stall_count).toBe(run.lane.limits.mostLoaderStalls);
  await resumeRun(run, { ...options, dryRun: true });
  expect(json(run, retainedPaths.hardware_qualification_path).checkpoint_restore_ready).toBe(true);
  rmSync(join(run.root, "checkpoints/step-2/model.safetensors"));
  refreshDashboard(run, "training_complete");
  expect(json(run, retainedPaths.current_dashboard_path).hardware.checkpoint_restore_ready).toBe(false);
  const elsewhere: Run = { ...run, backend: "cuda" };
  refreshDashboard(elsewhere, "training_complete");
  expect(json(run, retainedPaths.current_dashboard_path)).toMatchObject({
    gradient: { runtime_backend: "cuda" },
    hardware: { required_backend: "cuda" },
  });
});

describe("a checkpoint that learnt something", () => {
  let run: Run;
  beforeAll(async () => {
    run = runOf("good", { max_steps: 64, steps_per_window: 16, learning_rate: 1e-3, sequences: 8 });
    await startRun(run, options);
  }, 30_000);

  test("is run on each source, with the losses that it has, and judged", () => {
    const recorded = recordCheckpoint(run, asked);
    expect(recorded.phase).toBe("checkpoint_evaluated");
    expect(recorded.judged!.gates.map((g) => g.id)).toEqual(["arch_textbook", "machine_spec", "spec_quiz"]);
    expect(recorded.judged!.state).toBe("continue");
    const decision = json(run, retainedPaths.latest_checkpoint_eval_decision_path);
    expect(decision).toEqual(json(run, "evals/checkpoint_eval_step-64.json"));
    expect(withDigest("checkpoint_eval_decision", "decision_digest", decision)).toEqual(decision);
    for (const [i, g] of recorded.judged!.gates.entries()) {
      expect(g.loss).toBeGreaterThan(2);
      expect(g.observedBps).toBe(shareBps(g.loss, 256));
      expect(decision.metric_gates[i]).toMatchObject({
        ...{ gate_id: `held_out_${g.id}`, observed_bps: g.observedBps, status: "passed" },
        observed_loss_milli: Math.round(1000 * g.loss),
      });
    }
    // the run measured the same text at its end, in windows of one length
    const atEnd = measuredIn(run.root).heldOut;
    expect(atEnd.map((h) => h.step)).toEqual([0, 64]);
    expect(json(run, retainedPaths.current_status_path).phase).toBe("checkpoint_evaluated");
    expect(json(run, retainedPaths.continuation_handoff_path).accepted_checkpoint.optimizer_step).toBe(64);
  });

  test("waits while it has no backup, and goes on once it has one", async () => {
    expect(decideContinueRestart(run)).toMatchObject({
      ...{ state: "hold_and_investigate", action: "pause_and_review" },
      blocking: ["checkpoint_backup_state"],
    });
    await backUpRun(run, undefined, true);
    expect(json(run, "checkpoints/failures/failed_upload_drill.json")).toMatchObject({
      ...{ drill_kind: "failed_upload", trigger_surface: "backup", outcome: "retained_refusal" },
    });
    const refused = json(run, retainedPaths.active_alert_feed_path).active_alerts;
    expect(refused.map((a: { alert_kind: string }) => a.alert_kind)).toEqual(["checkpoint_backup_refused"]);
    expect(decideContinueRestart(run).blocking).toEqual(["checkpoint_backup_state"]);
    // a folder that cannot be made: below a file
    const nowhere = join(run.root, ownPaths.settings, "copy");
    await expect(backUpRun(run, nowhere)).rejects.toMatchObject({ code: "io_failed" });
    const receipt = json(run, retainedPaths.latest_checkpoint_backup_receipt_path);
    expect(receipt.backup_state).toBe("refused");
    expect(receipt.upload_failure_reason).toContain("ENOTDIR");
    await backUpRun(run, undefined);
    await expect(backUpRun(run, nowhere)).rejects.toMatchObject({ code: "io_failed" });
    expect(json(run, retainedPaths.latest_checkpoint_backup_receipt_path).backup_state).toBe("backed_up");
    const decided = decideContinueRestart(run);
    expect(decided).toMatchObject({ state: "continue", action: "continue_long_run", blocking: [] });
    expect(decided.rows.length).toBe(11);
    const decision = json(run, "decisions/continue_restart_decision_step-64.json");
    expect(withDigest("continue_restart_decision", "decision_digest", decision)).toEqual(decision);
    expect(decision.checkpoint_comparison.path).toBe(retainedPaths.latest_checkpoint_comparison_path);
    const unmet = closeoutGates(run).filter((g) => !g.satisfied);
    expect(unmet.map((g) => g.gate_id)).toEqual(["resume_manifest_retained"]);
    expect(json(run, retainedPaths.closeout_bundle_path).closeout_state).toBe("continue_decision_recorded");
    expect(json(run, retainedPaths.current_dashboard_path).checkpoint).toMatchObject({
      ...{ checkpoint_backup_state: "backed_up", checkpoint_eval_state: "continue", optimizer_step: 64 },
    });
  });

  test("asks for a retry where nothing can evaluate, and the decision waits for that", () => {
    const recorded = recordCheckpoint(run, { ...asked, injectUnavailable: true });
    expect(recorded).toMatchObject({ phase: "checkpoint_eval_retry_required", judged: undefined });
    expect(json(run, retainedPaths.latest_checkpoint_eval_failure_path)).toMatchObject({
      ...{ failure_kind: "eval_worker_unavailable", retry_after_seconds: 300 },
    });
    expect(json(run, retainedPaths.latest_redacted_alert_path).alert_kind).toBe(
      "checkpoint_eval_retry_required",
    );
    expect(decideContinueRestart(run).blocking.slice(0, 2)).toEqual([
      "checkpoint_eval_receipt",
      "checkpoint_eval_decision_state",
    ]);
    recordCheckpoint(run, asked);
    expect(existsSync(join(run.root, retainedPaths.latest_checkpoint_eval_failure_path))).toBe(false);
  });

  test("is refused under another digest, size or step, and damaged", () => {
    expect(codeOf(() => recordCheckpoint(run, { ...asked, digest: "0".repeat(64) }))).toBe("digest_mismatch");
    expect(codeOf(() => recordCheckpoint(run, { ...asked, bytes: 7 }))).toBe("digest_mismatch");
    expect(() => recordCheckpoint(run, { ...asked, step: 5 })).toThrow(
      /kept checkpoint of step 5, got those of steps (48, 64|64, 48)/,
    );
  });

  test.skipIf(process.platform === "darwin")("is run where its run computes", () => {
    const elsewhere: Run = { ...run, backend: "metal" };
    expect(() => recordCheckpoint(elsewhere, asked)).toThrow(/metal/i);
    expect(recordCheckpoint(elsewhere, { ...asked, backend: "cpu" }).phase).toBe("checkpoint_evaluated");
  });

  test("keeps the label it is given, and an older one that is kept can be taken up again", async () => {
    const ref = "checkpoint://elsewhere/48";
    expect(recordCheckpoint(run, { ...asked, label: "mine", ref, step: 48 }).step).toBe(48);
    expect(json(run, retainedPaths.current_status_path)).toMatchObject({
      ...{ latest_checkpoint_label: "mine", last_completed_step: 48 },
    });
    await backUpRun(run, undefined);
    expect(json(run, retainedPaths.latest_checkpoint_backup_receipt_path).checkpoint_ref).toBe(ref);
    await resumeRun({ ...run, settings: { ...run.settings, max_steps: 50 } }, options);
    expect(json(run, retainedPaths.auto_resume_receipt_path)).toMatchObject({
      ...{ chosen_checkpoint_label: "mine", chosen_checkpoint_ref: ref, chosen_optimizer_step: 48 },
    });
    expect(json(run, retainedPaths.latest_checkpoint_pointer_path).optimizer_step).toBe(50);
    const tensors = join(run.root, "checkpoints/step-50/model.safetensors");
    const bytes = readFileSync(tensors);
    bytes[bytes.length - 2]! ^= 1;
    writeFileSync(tensors, bytes);
    expect(codeOf(() => recordCheckpoint(run, asked))).toBe("digest_mismatch");
    expect(codeOf(() => decideContinueRestart(run))).toBe("digest_mismatch");
  });
});

test("a checkpoint that learnt nothing is begun again; a run without one decides nothing", async () => {
  const run = runOf("poor", { max_steps: 1 });
  await startRun(run, options);
  expect(recordCheckpoint(run, asked).judged!.state).toBe("restart_from_last_accepted_checkpoint");
  expect(decideContinueRestart(run)).toMatchObject({
    state: "restart_from_last_accepted_checkpoint",
    action: "restart_from_latest_accepted_checkpoint",
    phase: "restart_decision_recorded",
  });
  const planned = runOf("planned", {});
  await startRun(planned, { ...options, dryRun: true });
  expect(codeOf(() => decideContinueRestart(planned))).toBe("invalid_request");
  expect(codeOf(() => recordCheckpoint(planned, asked))).toBe("invalid_request");
});

describe("warming down", () => {
  const steps = (run: Run) => measuredIn(run.root).steps;

  test("by time: the rate falls, the run ends when the time is spent, and takes it up where it was", async () => {
    const run = runOf("timed", { max_steps: 100_000, steps_per_window: 20, time_budget_seconds: 1 });
    const settings = { ...run.settings, warm_down_steps: 10 };
    let stop = false;
    const watcher = {
      step: ({ step }: { step: number }) => {
        stop = step === 3;
      },
    };
    const timed = { ...run, settings };
    // a clock that each look moves on: a step takes the same however busy the machine is
    let time = 0;
    using _clock = spyOn(performance, "now").mockImplementation(() => (time += 20));
    await startRun(timed, { ...options, watcher, stopping: () => stop });
    const { elapsed_ms: before } = json(timed, "checkpoints/step-3/trainer_state.json");
    expect(before).toBeCloseTo(
      steps(timed).reduce((sum, s) => sum + s.durationMs, 0),
      6,
    );
    const outcome = await resumeRun(timed, options);
    expect(outcome.phase).toBe("training_complete");
    const trace = steps(timed);
    const total = trace.reduce((sum, s) => sum + s.durationMs, 0);
    expect(total).toBeGreaterThanOrEqual(1000);
    expect(total - trace.at(-1)!.durationMs).toBeLessThan(1000);
    expect(trace[0]!.learningRate).toBe(5e-4);
    expect(trace.at(-1)!.learningRate).toBeLessThan(2.5e-4);
    expect(json(timed, retainedPaths.current_status_path).detail).toBe(
      "The time that steps may take is spent.",
    );
  }, 20_000);

  test("by steps, with Muon's momentum rising", async () => {
    const changed = {
      max_steps: 4,
      warm_down_steps: 2,
      optimizer: "muon",
      momentum_warmup_steps: 3,
    } as const;
    const run = runOf("stepped", changed);
    await startRun(run, options);
    expect(steps(run).map((s) => s.learningRate)).toEqual([5e-4, 5e-4, 5e-4, 2.5e-4]);
  });
});

describe("rules", () => {
  test("the backend of a settings file: one of those that there are, the CPU where there is none", () => {
    expect([storedBackend("f", undefined), storedBackend("f", "cuda")]).toEqual(["cpu", "cuda"]);
    expect(codeOf(() => storedBackend("f", "tpu"))).toBe("file_malformed");
  });

  const limits = { ...referencePilot.limits, heldOutShareBps: 5000, reviewScoreBps: 4000 };
  const loss = (share: number): number => Math.log(256) * (1 - share);

  test("shares: 0 for a guess, for what is worse, and for no number", () => {
    expect([loss(0), 9, Number.NaN, Number.POSITIVE_INFINITY].map((l) => shareBps(l, 256))).toEqual([
      0, 0, 0, 0,
    ]);
    expect(shareBps(0, 256)).toBe(10000);
    expect(Math.abs(shareBps(loss(0.25), 256) - 2500)).toBeLessThan(2);
  });

  test.each([
    [[0.6, 0.9], "continue", 10000],
    [[0.4, 0.9], "hold_and_review", 5000],
    [[0.1, 0.6], "restart_from_last_accepted_checkpoint", 5000],
  ] as const)("shares of %p: %s", (shares, state, rate) => {
    const measured = shares.map((s, i) => ({ id: String(i), loss: loss(s), tokens: 10 }));
    expect(judge(measured, 256, limits)).toMatchObject({ state, passRateBps: rate });
  });

  const good: Observed = {
    ...{ evalState: "continue", evalPassRateBps: 10000, evalScoreBps: 4000, backupState: "backed_up" },
    ...{ hardware: "admitted", runShape: "admitted", throughputRatioBps: limits.leastThroughputRatioBps },
    stepLatencyRatioBps: limits.mostStepLatencyRatioBps,
    checkpointWriteRatioBps: limits.leastCheckpointWriteRatioBps,
    loaderStalls: 1,
  };
  test("every row is green at its limit and red beyond it or unmeasured", () => {
    const red = (seen: Observed) =>
      comparisonRows(seen, limits)
        .filter((r) => r.status === "red")
        .map((r) => r.row_id);
    expect(red(good)).toEqual([]);
    const beyond: Partial<Observed>[] = [
      { evalPassRateBps: 9999 },
      { evalScoreBps: 3999 },
      { backupState: "refused" },
      { hardware: "refused" },
      { runShape: undefined },
      { throughputRatioBps: limits.leastThroughputRatioBps - 1 },
      { stepLatencyRatioBps: limits.mostStepLatencyRatioBps + 1 },
      { checkpointWriteRatioBps: undefined },
      { loaderStalls: 2 },
    ];
    for (const change of beyond) expect(red({ ...good, ...change }).length).toBe(1);
    expect(red({ ...good, evalState: undefined }).length).toBe(2);
  });

  test("readiness: continue, restart where the eval says so, else hold", () => {
    const rows = (change: Partial<Observed>) => comparisonRows({ ...good, ...change }, limits);
    expect(readinessOf(rows({}), "continue")).toBe("ready_to_continue");
    expect(readinessOf(rows({ backupState: undefined }), "continue")).toBe("hold");
    const state = "restart_from_last_accepted_checkpoint";
    expect(readinessOf(rows({ evalState: state }), state)).toBe("ready_to_restart");
  });

  test("the median", () => {
    expect([median([]), median([3]), median([9, 1, 2]), median([4, 1])]).toEqual([undefined, 3, 2, 2.5]);
  });
});

describe("curves", () => {
  const steps: TracedStep[] = Array.from({ length: 5 }, (_, i) => ({
    ...{ step: i + 1, loss: 5 - i, gradientNorm: 1, learningRate: 1e-3, tokens: 100, durationMs: 50 },
  }));

  test("long runs are drawn as means of neighbours", () => {
    const points = Array.from({ length: 1000 }, (_, i) => [i, 2 * i] as const);
    const few = thinned(points, 300);
    expect(few.length).toBe(250);
    expect(few[1]).toEqual([5.5, 11]);
    expect(thinned(points.slice(0, 3), 300)).toEqual(points.slice(0, 3));
  });

  test("three panels whose lines run from the first value to the last", () => {
    const svg = svgOf(curvesOf("a<b", steps, [{ step: 5, loss: 2 }])!);
    const lines = [...svg.matchAll(/<polyline points="([^"]+)" class="line"/g)].map(([, p]) => p!.split(" "));
    expect(lines.map((l) => l.length)).toEqual([5, 5, 5]);
    // the highest loss lies at the panel's top, the lowest at its foot
    expect(lines[0]![0]).toBe("200.8,30.0");
    expect(lines[0]![4]).toBe("700.0,164.0");
    expect(svg).toContain(">2000</text>");
    expect(svg.match(/<circle/g)?.length).toBe(1);
    expect(svg).toContain("a&lt;b");
    expect(curvesOf("none", [], [])).toBeUndefined();
  });

  test("a run writes them", async () => {
    const run = runOf("drawn", { max_steps: 2 });
    await startRun(run, options);
    expect(readFileSync(join(run.root, ownPaths.curves), "utf8")).toStartWith("<svg ");
    expect(readFileSync(join(run.root, ownPaths.picture)).subarray(1, 4).toString()).toBe("PNG");
  });
});
