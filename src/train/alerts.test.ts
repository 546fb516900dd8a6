/** Alerts about the machine: what raises them, and what does not. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openDevice } from "../backends/index.ts";
import { type Figures, refreshDashboard, writeDashboard } from "./dashboard.ts";
import type { GitState } from "./git_state.ts";
import { referencePilot } from "./lanes/reference_pilot.ts";
import { writeHardwareQualification } from "./preflight.ts";
import { type Run, retainedPaths } from "./run_root.ts";
import { slownesses, speedOf } from "./speed.ts";
import { ailments, parsedTelemetry, type Telemetry } from "./telemetry.ts";
import type { TracedStep } from "./trainer.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-alerts-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const git: GitState = {
  ...{ selected_git_ref: "refs/heads/main", git_commit_sha: "0".repeat(40) },
  ...{ dirty_tree_admission: "refuse_by_default", workspace_status_sha256: null },
};
const runOf = (name: string, changed: Partial<Run["settings"]> = {}): Run => ({
  ...{ root: join(folder, name), runId: name, lane: referencePilot, git },
  settings: { ...referencePilot.defaults, model: "tiny", steps_per_window: 8, ...changed },
});
const steps = (times: readonly number[], stalls?: number): TracedStep[] =>
  times.map((durationMs, i) => ({
    ...{ step: i + 1, loss: 1, gradientNorm: 1, learningRate: 1, tokens: 100, durationMs },
    ...(stalls !== undefined && { stalls }),
  }));
const slowing = steps([...Array.from({ length: 32 }, () => 10), ...Array.from({ length: 8 }, () => 50)]);
const json = (run: Run, path: string) => JSON.parse(readFileSync(join(run.root, path), "utf8"));
const kinds = (run: Run): string[] =>
  json(run, retainedPaths.active_alert_feed_path).active_alerts.map(
    (a: { alert_kind: string; severity: string }) => `${a.severity} ${a.alert_kind}`,
  );

const figures = (trace: readonly TracedStep[], telemetry?: Telemetry): Figures => ({
  trace,
  tokensPerSecond: 1,
  checkpoint: { label: "none", step: 0 },
  checkpointBytesPerSecond: undefined,
  ...(telemetry && { telemetry }),
});

test("a last window slower than the lane allows, by speed and time; too few steps say nothing", () => {
  const { limits } = referencePilot;
  expect(slownesses(speedOf(slowing, 8), limits)).toEqual([
    "The last window's tokens per second are 20 % of the run's.",
    "The last window's steps took 500 % of the run's time.",
  ]);
  expect(slownesses(speedOf(slowing.slice(-20), 8), limits)).toEqual([]);
  expect(
    slownesses(
      speedOf(
        steps(
          Array.from({ length: 40 }, () => 10),
          1,
        ),
        8,
      ),
      limits,
    ),
  ).toEqual(["The loader stalled 40 times."]);
  const run = runOf("slow");
  writeDashboard(run, "training", figures(slowing));
  expect(kinds(run)).toEqual(["warning throughput_degraded"]);
  expect(json(run, retainedPaths.current_dashboard_path).throughput).toMatchObject({
    ...{
      degradation_state: "degraded",
      baseline_tokens_per_second: 10000,
      min_healthy_tokens_per_second: 2500,
    },
    max_healthy_step_latency_ms: 40,
  });
  writeDashboard(run, "training", figures(slowing.slice(0, 32)));
  expect(kinds(run)).toEqual([]);
  expect(json(run, retainedPaths.current_dashboard_path).throughput.degradation_state).toBe("healthy");
});

test("lines of nvidia-smi; a device that is hot, wrong or slowed down", () => {
  const well = parsedTelemetry("61, 0, 0x0000000000000004, Disabled\n");
  expect(well).toMatchObject({
    ...{ temperatureCelsius: 61, eccUncorrectedErrors: 0, throttling: false, migPartitioned: false },
  });
  expect(ailments(well)).toEqual([]);
  expect(parsedTelemetry("44, [N/A], [N/A], [N/A]")).toMatchObject({
    ...{ temperatureCelsius: 44, eccUncorrectedErrors: null, throttling: null, migPartitioned: null },
  });
  expect(ailments(parsedTelemetry(""))).toEqual([]);
  const ill = parsedTelemetry("91, 2, 0x0000000000000040, Enabled");
  expect(ailments(ill).length).toBe(3);
  const run = runOf("ill");
  writeDashboard(run, "training", figures(slowing, ill));
  expect(kinds(run)).toEqual(["warning hardware_worker_unhealthy", "warning throughput_degraded"]);
  expect(json(run, retainedPaths.current_dashboard_path).hardware).toMatchObject({
    ...{ health_state: "degraded", max_observed_temperature_celsius: 91, any_throttling_observed: true },
  });
  writeDashboard(run, "training", figures([], well));
  expect(json(run, retainedPaths.current_dashboard_path).hardware.health_state).toBe("healthy");
});

test("a machine that was not admitted", () => {
  const run = runOf("small");
  const device = openDevice("cpu", { threads: 1 });
  try {
    const plan = { parameters: 1, stateBytes: 1, stepBytes: 2 ** 60, totalBytes: 2 ** 60 };
    expect(writeHardwareQualification(run, plan, device.backend, null).state).toBe("refused");
  } finally {
    device.close();
  }
  refreshDashboard(run, "launch_staged");
  expect(kinds(run)).toEqual(["critical hardware_health_refused"]);
  expect(json(run, retainedPaths.current_dashboard_path).hardware.health_state).toBe("refused");
  const [alert] = json(run, retainedPaths.active_alert_feed_path).active_alerts;
  expect(alert).toMatchObject({
    ...{ alert_id: "psion_actual_pretraining_dashboard::hardware_health::0", state: "active" },
    detail: expect.stringContaining("bytes of memory wanted"),
  });
});
