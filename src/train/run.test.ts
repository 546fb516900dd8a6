/** Runs as users start them: files, resuming, signals, and what is refused. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { killTrials } from "../../scripts/kill-trials.ts";
import { progressText, TrainingBar } from "./cli/bar.ts";
import { placeOf } from "./receipts.ts";
import { retainedPaths } from "./run_root.ts";

const main = join(import.meta.dir, "..", "main.ts");
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-run-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const tiny = ["--model", "tiny", "--threads", "1", "--sequences", "4", "--allow-dirty-tree"];

type Ended = { readonly code: number; readonly out: string; readonly err: string };
async function train(words: readonly string[], during?: (child: Bun.Subprocess) => void): Promise<Ended> {
  const child = Bun.spawn([process.execPath, main, "train", ...words], { stdout: "pipe", stderr: "pipe" });
  during?.(child);
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, out, err };
}
const json = (root: string, path: string) => JSON.parse(readFileSync(join(root, path), "utf8"));
const steps = (root: string): { step: number; loss: number }[] =>
  readFileSync(join(root, "metrics/steps.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

test("a run writes its root, ends with a lower loss, and goes on as if it had not ended", async () => {
  const [root, whole] = [join(folder, "run"), join(folder, "whole")];
  const begun = await train([
    "start",
    "--output-root",
    root,
    "--max-steps",
    "5",
    "--steps-per-window",
    "3",
    "--run-id",
    "one",
    ...tiny,
  ]);
  expect(begun.err).toContain("parameters");
  expect(begun.code).toBe(0);
  expect(begun.out).toContain(
    "status=training_complete\nsurface_id=psion_reference_pilot.start\nrun_id=one\n",
  );
  expect(readdirSync(join(root, "checkpoints")).sort()).toEqual([
    "latest_accepted_checkpoint_pointer.json",
    "step-3",
    "step-5",
  ]);
  expect(json(root, "checkpoints/latest_accepted_checkpoint_pointer.json")).toMatchObject({
    schema_version: "psion.actual_pretraining_checkpoint_pointer.v1",
    pointer_state: "accepted",
    optimizer_step: 5,
    checkpoint_manifest_relative_path: "checkpoints/step-5/checkpoint_manifest.json",
  });
  expect(json(root, "preflight/hardware_qualification.json").admission_state).toBe("admitted");
  const status = await train(["status", "--run-root", root]);
  expect(status.out).toStartWith(
    "run_id=one\nphase=training_complete\nlast_completed_step=5\nlatest_checkpoint_label=psion-reference-pilot-step-5\n",
  );
  const board = await train(["dashboard", "--run-root", root]);
  expect(board.out).toMatch(
    /phase=training_complete\n(.*\n)*loss_visibility_state=emitted\nlatest_mean_loss_milli=\d+\n/,
  );
  expect(board.out).toEndWith("active_alert_count=0\nhighest_alert_severity=none\n");
  const resumed = await train([
    "resume",
    "--run-root",
    root,
    "--max-steps",
    "9",
    "--threads",
    "1",
    "--allow-dirty-tree",
    "--json",
  ]);
  const straight = await train([
    "start",
    "--output-root",
    whole,
    "--max-steps",
    "9",
    "--run-id",
    "one",
    ...tiny,
    "--json",
  ]);
  const [a, b] = [resumed, straight].map(({ out }) => JSON.parse(out));
  expect(a.checkpointDigest).toBe(b.checkpointDigest);
  expect(a.finalLoss).toBeLessThan(a.initialLoss);
  expect(steps(root).map((s) => [s.step, s.loss])).toEqual(steps(whole).map((s) => [s.step, s.loss]));
  const receipts = readFileSync(join(root, "metrics/step_receipts.jsonl"), "utf8").trim().split("\n");
  expect(receipts.length).toBe(9);
  const fourth = JSON.parse(receipts[3]!);
  expect(fourth.schedule).toEqual({
    ...{ global_step: 4, window_index: 2, step_in_window: 1, cadence_index: 2, window_in_cadence: 1 },
  });
  expect(fourth.group_telemetry.map((g: { group_id: string }) => g.group_id)).toEqual(["plain", "decayed"]);
  expect(fourth.receipt_digest).toMatch(/^[0-9a-f]{64}$/);
  expect(json(root, "checkpoints/auto_resume_receipt.json")).toMatchObject({
    primary_pointer_state: "accepted",
    chosen_optimizer_step: 5,
  });
  expect(json(root, "dashboard/current_dashboard.json").loss.visibility_state).toBe("emitted");
  const log = readFileSync(join(root, "logs/launcher.log"), "utf8");
  const phases = ["launch_staged", "training_complete", "resume_staged", "training_complete"];
  expect([...log.matchAll(/phase=(\w+)/g)].map(([, phase]) => phase)).toEqual(phases);

  // a run that is complete has its checkpoint still, and no speed where no step was run
  const again = await train(["resume", "--run-root", root, "--allow-dirty-tree", "--json"]);
  const none = { completedSteps: 9, tokensPerSecond: null, mfu: null };
  expect(JSON.parse(again.out)).toMatchObject({ ...none, checkpointDigest: b.checkpointDigest });
  expect(json(root, "reference_pilot_operator_summary.json")).toMatchObject({
    ...{ mean_tokens_per_second: null, checkpoint_object_digest: b.checkpointDigest },
  });
  const { throughput } = json(root, "dashboard/current_dashboard.json");
  expect(throughput.observed_tokens_per_second).toBeGreaterThan(0);
}, 60_000);

test("kill -9 at any moment loses no more than the steps since the last checkpoint", async () => {
  const { kills } = await killTrials(2, 11);
  expect(kills).toBeGreaterThan(0);
}, 120_000);

test("a run root that cannot be made is a typed refusal", async () => {
  const file = join(folder, "file");
  writeFileSync(file, "");
  const refused = await train(["start", "--output-root", join(file, "run"), "--max-steps", "1", ...tiny]);
  expect(refused.code).toBe(1);
  expect(refused.err).toContain("[train] expected files that can be made");
  expect(refused.err).toContain(file);
});

test("SIGTERM ends after a step with a checkpoint, exit code 130, and resume goes on", async () => {
  const root = join(folder, "signal");
  let sent = false;
  const ended = await train(
    ["start", "--output-root", root, "--max-steps", "100000", "--steps-per-window", "100000", ...tiny],
    (child) => {
      const timer = setInterval(() => {
        try {
          if (steps(root).length < 2) return;
        } catch {
          return; // not there yet
        }
        clearInterval(timer);
        sent = true;
        child.kill("SIGTERM");
      }, 20);
    },
  );
  expect(sent).toBe(true);
  expect(ended.code).toBe(130);
  expect(ended.out).toContain("status=training_interrupted");
  const { optimizer_step: step } = json(root, "checkpoints/latest_accepted_checkpoint_pointer.json");
  expect(step).toBeGreaterThanOrEqual(2);
  const resumed = await train([
    "resume",
    "--run-root",
    root,
    "--max-steps",
    String(step + 1),
    "--allow-dirty-tree",
    "--json",
  ]);
  expect(JSON.parse(resumed.out).completedSteps).toBe(step + 1);
}, 60_000);

test("a damaged checkpoint is restored from its backup, whose copy is hashed again", async () => {
  const [root, copy] = [join(folder, "backed"), join(folder, "copy")];
  const begun = await train(["start", "--output-root", root, "--max-steps", "2", ...tiny, "--json"]);
  const { checkpointDigest: digest } = JSON.parse(begun.out);
  const saved = await train(["backup", "--run-root", root, "--to", copy, "--allow-dirty-tree"]);
  expect(saved.out).toContain(`checkpoint_object_digest=${digest}`);
  expect(json(root, retainedPaths.latest_checkpoint_backup_receipt_path)).toMatchObject({
    ...{ backup_state: "backed_up", upload_outcome: "succeeded", optimizer_step: 2 },
  });
  const flip = (path: string): void => {
    const bytes = readFileSync(path);
    bytes[bytes.length - 3]! ^= 4;
    writeFileSync(path, bytes);
  };
  const resume = [
    "resume",
    "--run-root",
    root,
    "--max-steps",
    "3",
    "--threads",
    "1",
    "--allow-dirty-tree",
    "--json",
  ];
  flip(join(root, "checkpoints/step-2/model.safetensors"));
  const resumed = await train(resume);
  expect(resumed.code).toBe(0);
  expect(json(root, retainedPaths.auto_resume_receipt_path)).toMatchObject({
    ...{
      primary_pointer_state: "stale",
      resolution_state: "recovered_from_backup",
      resume_source_kind: "backup_receipt",
    },
  });
  expect(json(root, "checkpoints/failures/stale_pointer_drill.json").outcome).toBe(
    "recovered_without_manual_edit",
  );
  const whole = await train([
    "start",
    "--output-root",
    join(folder, "apart"),
    "--max-steps",
    "3",
    ...tiny,
    "--json",
  ]);
  expect(JSON.parse(resumed.out).checkpointDigest).toBe(JSON.parse(whole.out).checkpointDigest);
  writeFileSync(join(root, retainedPaths.latest_checkpoint_pointer_path), "{");
  flip(join(copy, "step-2/optimizer.safetensors"));
  const refused = await train(resume);
  expect(refused.code).toBe(4);
  expect(refused.err).toMatch(/unreadable checkpoint pointer.*optimizer\.safetensors\] expected SHA-256/);
  expect(json(root, "status/current_run_status.json").phase).toBe("resume_refused_auto_resume");
}, 60_000);

test("a rehearsal kills a run, resumes it bit for bit, and closes it out", async () => {
  const root = join(folder, "rehearsed");
  const words = ["rehearse-base-lane", "--output-root", root, "--run-id", "r", "--threads", "1"];
  const size = ["--model", "tiny", "--sequences", "8", "--allow-dirty-tree"];
  const long = [
    ...size,
    "--max-steps",
    "64",
    "--steps-per-window",
    "32",
    "--learning-rate",
    "1e-3",
    "--json",
  ];
  const done = await train([...words, "--planned-interruption-step", "40", ...long]);
  expect(done.err).toContain("rehearsal: the same run, undisturbed\n");
  expect(done.code).toBe(0);
  expect(JSON.parse(done.out)).toMatchObject({
    ...{ status: "base_lane_rehearsal_complete", interrupted_at_step: 40, resumed_from_step: 32 },
    ...{ last_completed_step: 64, bit_equal_to_uninterrupted_run: true, decision_state: "continue" },
  });
  expect(json(root, "reference_pilot_recovery_drill.json")).toMatchObject({
    ...{ recovery_state: "recovered", interruption_kind: "process_killed", interrupted_optimizer_step: 32 },
    ...{ recovered_optimizer_step: 64, step_traces_equal: true, lineage_preserved: true },
  });
  const bundle = json(root, retainedPaths.closeout_bundle_path);
  expect(bundle.closeout_state).toBe("base_lane_rehearsal_complete");
  expect(bundle.closeout_gates.filter((g: { satisfied: boolean }) => !g.satisfied)).toEqual([]);
  for (const list of ["evidence_artifacts", "failure_drills", "can_now_claim", "still_out_of_scope"])
    expect(bundle[list].length).toBeGreaterThan(0);
  for (const { artifact } of bundle.evidence_artifacts) {
    const bytes = readFileSync(join(root, artifact.path));
    expect(new Bun.CryptoHasher("sha256").update(bytes).digest("hex")).toBe(artifact.sha256);
  }
  const status = await train(["status", "--run-root", root]);
  expect(status.out).toContain("phase=base_lane_rehearsal_complete\n");
  expect(status.out).toEndWith("continue_restart_blocking_row_count=0\n");
}, 60_000);

test("a rehearsal whose checkpoint learnt too little names the gate and keeps the receipts", async () => {
  const root = join(folder, "unconvincing");
  const done = await train(["rehearse-base-lane", "--output-root", root, "--max-steps", "2", ...tiny]);
  expect(done.err).toMatch(/closeout satisfied, got continue_decision_retained \(red rows: checkpoint_eval/);
  expect(done.code).toBe(1);
  expect(json(root, "reference_pilot_recovery_drill.json").recovery_state).toBe("recovered");
  expect(json(root, retainedPaths.closeout_bundle_path).closeout_state).toBe("restart_decision_recorded");
}, 60_000);

test("scripts/TRAIN has the forms of the launcher", async () => {
  const script = join(main, "../../scripts/TRAIN");
  const run = async (...words: string[]): Promise<Ended> => {
    const env = { ...process.env, PSIONIC_FROM_SOURCE: "1" };
    const child = Bun.spawn(["bash", script, ...words], { stdout: "pipe", stderr: "pipe", env });
    const [out, err, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    return { code, out, err };
  };
  const root = join(folder, "script");
  const planned = await run(
    "--lane",
    "reference_pilot",
    "--dry-run",
    "--output-root",
    root,
    "--allow-dirty-tree",
  );
  expect(planned.out).toContain("status=dry_run_planned\n");
  expect(planned.code).toBe(0);
  const status = await run("--lane", "reference_pilot", "status", "--run-root", root);
  expect(status.out).toContain("phase=dry_run_planned\nlast_completed_step=0\n");
  const unknown = await run("--lane", "no_such");
  expect(unknown.code).toBe(1);
  expect(unknown.err).toContain("error: unsupported lane no_such");
  expect((await run("--dry-run")).err).toContain("error: expected a data set, got none");
  expect((await run("--help")).code).toBe(0);
}, 60_000);

describe("what is refused", () => {
  const refused = async (words: readonly string[], code: number, message: RegExp): Promise<void> => {
    const ended = await train(words);
    expect(ended.err).toMatch(message);
    expect(ended.code).toBe(code);
    expect(ended.out).toBe("");
  };

  test("lanes, hosts, models and options that are not there", async () => {
    await refused(["start", "--lane", "no_such"], 1, /unsupported lane no_such. Lanes: reference_pilot/);
    await refused(
      ["start", "--lane", "actual_pretraining"],
      1,
      /expected a data set, got none. Name one that psionic data pack made/,
    );
    await refused(["start", "--remote-host", "h"], 1, /got --remote-host/);
    await refused(["start", "--model", "huge", "--allow-dirty-tree"], 1, /model: one of pilot, tiny/);
    await refused(
      ["start", "--momentum-warmup-steps", "3", "--allow-dirty-tree"],
      1,
      /momentum_warmup_steps: 0, or the optimizer muon/,
    );
    await refused(
      ["rehearse-base-lane", "--time-budget-seconds", "9", ...tiny],
      1,
      /rates do not depend on time/,
    );
    await refused(
      ["begin"],
      2,
      /expected start, resume, status, dashboard, record-checkpoint, backup, .*got begin/,
    );
    await refused(["status", "--seed", "1", "--run-root", folder], 2, /--seed means nothing to status/);
    await refused(["start", "--run-root", folder], 2, /--run-root means nothing to start/);
    await refused(["resume"], 2, /missing --run-root/);
    await refused(["status", "--run-root", join(folder, "none")], 1, /expected a run root/);
    await refused(
      ["start", "--planned-interruption-step", "16", "--allow-dirty-tree"],
      2,
      /--planned-interruption-step takes a whole number from 1 to 15/,
    );
    await refused(["rehearse-base-lane", "--max-steps", "1", ...tiny], 1, /at least 2 steps/);
    await refused(["rehearse-base-lane", "--dry-run"], 2, /--dry-run means nothing to rehearse-base-lane/);
    await refused(["rehearse-base-lane", "--remote-host", "h"], 1, /got --remote-host/);
    await refused(["start", "--max-steps", "0"], 2, /--max-steps takes a whole number of at least 1/);
  }, 60_000);

  test("a root that holds a run, other settings, damaged files, a loss that is no number", async () => {
    const root = join(folder, "damaged");
    await train(["start", "--output-root", root, "--max-steps", "1", ...tiny]);
    await refused(["start", "--output-root", root, ...tiny], 1, /empty folder as run root.*train resume/);
    const resume = ["resume", "--run-root", root, "--allow-dirty-tree"];
    await refused(
      [...resume, "--lane", "actual_pretraining"],
      2,
      /is of lane reference_pilot, not actual_pretraining/,
    );
    await refused([...resume, "--seed", "3"], 2, /goes on with the seed it began with, 1337/);
    const tensors = join(root, "checkpoints/step-1/model.safetensors");
    const bytes = readFileSync(tensors);
    bytes[bytes.length - 3]! ^= 4;
    writeFileSync(tensors, bytes);
    await refused([...resume, "--max-steps", "2"], 4, /model\.safetensors\] expected SHA-256/);
    const pointer = join(root, "checkpoints/latest_accepted_checkpoint_pointer.json");
    writeFileSync(pointer, "{");
    await refused(resume, 4, /unreadable checkpoint pointer/);
    expect(json(root, "checkpoints/auto_resume_receipt.json").primary_pointer_state).toBe("corrupt");
    const wild = join(folder, "wild");
    const words = ["start", "--output-root", wild, "--learning-rate", "1e30", "--max-steps", "9", ...tiny];
    await refused(
      words,
      3,
      /finite numbers at step 2, got \S+ in (gradient|parameter) \S+\. The last checkpoint is intact/,
    );
    expect(json(wild, "status/current_run_status.json").phase).toBe("training_stopped_not_finite");
    const board = await train(["dashboard", "--run-root", wild]);
    expect(board.out).toEndWith("alert[0]=loss_not_finite:critical:status/current_run_status.json\n");
  }, 60_000);
});

test("places in windows and cadences: 12 steps, 3 a window, 2 windows a cadence", () => {
  const places = Array.from({ length: 12 }, (_, i) => placeOf(i + 1, 3, 2));
  expect(places.map((p) => p.window_index)).toEqual([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
  expect(places.map((p) => p.cadence_index)).toEqual([1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
  expect(places[4]).toEqual({
    ...{ global_step: 5, window_index: 2, step_in_window: 2, cadence_index: 1, window_in_cadence: 2 },
  });
});

describe("progress", () => {
  const record = { step: 5, loss: 8.2124, gradientNorm: 1, learningRate: 1e-3, tokens: 512, durationMs: 10 };
  const live = { lastStep: 16, tokensPerSecond: 411.7, mfu: 0.3614, remainingMs: 13_200 };

  test("names step, loss, tokens per second, share of the peak and time left", () => {
    expect(progressText(record, live)).toBe("step 5/16  loss 8.212  412 tokens/s  MFU 36.1 %  ETA 14 s");
    expect(progressText(record, { ...live, mfu: null })).toContain("MFU not measured  ETA");
  });

  test("a bar on a terminal, few lines elsewhere", () => {
    const written: string[] = [];
    const stream = (isTTY: boolean) => ({ isTTY, columns: 100, write: (t: string) => written.push(t) });
    const bar = new TrainingBar(stream(true), () => 0);
    bar.step(record, live);
    expect(written.splice(0)).toEqual([`\r[######..............] ${progressText(record, live)}\u001b[K`]);
    let now = 0;
    const plain = new TrainingBar(stream(false), () => now);
    for (let step = 1; step <= 16; step++, now += 1000) plain.step({ ...record, step }, live);
    expect(written.map((t) => t.slice(0, 8))).toEqual(["step 1/1", "step 6/1", "step 11/", "step 16/"]);
  });
});
