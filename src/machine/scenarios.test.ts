/**
 * Scenarios of the contract as processes: what is printed, on which stream, with which exit code, and the files that are
 * left, byte by byte against fixtures/golden/machine. `PSIONIC_BINARY` names an executable to try instead of this source.
 */
import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { lockRun } from "../train/run_root.ts";
import { actualLane, adapterLane, appleLane, demoLane } from "./contract.ts";
import type { Example } from "./examples.ts";
import { compared, Scenario } from "./testing/scenario.ts";
import { bound } from "./testing/scene.ts";

const second = { ...bound, window_id: "window-0002", assignment_id: "assignment-0002" };
const full = { work_class: "full_island_local_update_training", coordination: bound };
const small = { work_class: "small_model_local_training", coordination: bound };
const adapters = { work_class: "adapter_training", coordination: bound };
const record = {
  ...{ checkpoint_label: "window-0001-final", optimizer_step: 8 },
  checkpoint_ref: "checkpoint://example/window-0001/final",
};
const surface = "run/status/checkpoint_surface.json";
const pointer = "run/checkpoints/latest_accepted_checkpoint_pointer.json";

function same(name: string, scenario: Scenario): void {
  const { found, expected } = compared(name, scenario.text());
  expect(found).toBe(expected);
}

/** Validates the first contribution of a window. */
function judge(scenario: Scenario, work: string, coordination: Example = bound) {
  const challenged = { ...coordination, challenge_id: "challenge-0001", node_pubkey: "npub1-validator" };
  return scenario.process(
    "validate_contribution",
    {
      ...{ ...scenario.target(String(coordination.window_id)), run_id: "validator" },
      ...{ coordination: challenged, validator_target_work_class: work },
    },
    "validator",
  );
}

const scenarios: Readonly<Record<string, () => Promise<void>>> = {
  actual_dry_run: async () => {
    using scenario = new Scenario(actualLane.id);
    expect((await scenario.process("start", { ...full, dry_run: true })).exitCode).toBe(0);
    expect(scenario.json(surface)).toMatchObject({
      ...{ pointer_state: "pending_first_checkpoint", checkpoint_label: "pending_first_checkpoint" },
      optimizer_step: null,
    });
    scenario.tell(surface, pointer, "run/manifests/launch_manifest.json");
    same("actual_dry_run", scenario);
  },

  demo_start: async () => {
    using scenario = new Scenario(demoLane.id);
    expect((await scenario.process("start", small)).exitCode).toBe(0);
    expect(scenario.json("run/status/current_run_status.json").phase).toBe("completed");
    expect(scenario.json(pointer)).toMatchObject({ pointer_state: "accepted", optimizer_step: 4 });
    scenario.tell(pointer, surface, "run/status/psionic_train_run_status_packet.json");
    same("demo_start", scenario);
  },

  actual_record: async () => {
    using scenario = new Scenario(actualLane.id);
    expect((await scenario.process("start", full)).exitCode).toBe(0);
    expect((await scenario.process("record_checkpoint", { ...full, ...record })).exitCode).toBe(0);
    expect(scenario.json("run/status/current_run_status.json").phase).toBe("checkpoint_evaluated");
    expect(scenario.json(surface)).toMatchObject({ backup_state: "backed_up", upload_outcome: "succeeded" });
    const backups = "run/checkpoints/backups";
    scenario.tell(surface, pointer, "run/checkpoints/latest_accepted_checkpoint_backup_receipt.json");
    scenario.tell(`${backups}/step-8/checkpoint_manifest.backup.json`);
    same("actual_record", scenario);
  },

  actual_resume_after_loss: async () => {
    using scenario = new Scenario(actualLane.id);
    await scenario.process("start", full);
    await scenario.process("record_checkpoint", { ...full, ...record });
    rmSync(join(scenario.folder, pointer));
    const served = await scenario.process("serve_checkpoint", { ...full, peer_node_pubkey: "npub1-node-b" });
    expect(served.exitCode).toBe(0);
    const handoff = "run/status/peer_checkpoint_handoff_receipt.json";
    expect(scenario.json(handoff)).toMatchObject({
      ...{ source_kind: "durable_backup_copy", restored_from_backup: true },
    });
    const resumed = await scenario.process("resume", { ...full, coordination: second });
    expect(resumed.exitCode).toBe(0);
    expect(scenario.json(surface)).toMatchObject({
      ...{ recovery_resolution_state: "recovered_from_backup", recovery_source_kind: "backup_receipt" },
      restored_primary_pointer: true,
    });
    scenario.tell(handoff, surface, "run/checkpoints/auto_resume_receipt.json");
    same("actual_resume_after_loss", scenario);
  },

  nothing_to_resume: async () => {
    using apple = new Scenario(appleLane.id);
    expect((await apple.process("resume", small)).exitCode).toBe(15);
    same("apple_nothing_to_resume", apple);
    using actual = new Scenario(actualLane.id);
    await actual.process("start", { ...full, dry_run: true });
    expect((await actual.process("resume", full)).exitCode).toBe(15);
    expect(actual.json(surface)).toMatchObject({
      ...{ recovery_resolution_state: "refused", recovery_source_kind: "none" },
      restored_primary_pointer: false,
    });
    actual.tell(surface, "run/checkpoints/auto_resume_receipt.json");
    same("actual_nothing_to_resume", actual);
  },

  apple_window: async () => {
    using scenario = new Scenario(appleLane.id);
    expect((await scenario.process("start", small)).exitCode).toBe(0);
    const files = [...new Bun.Glob("**/*status*.json").scanSync(join(scenario.folder, "run"))];
    expect(files.filter((f) => /current_run_status|retained_summary/.test(f))).toEqual([]);
    expect((await scenario.process("record_checkpoint", { ...small, ...record })).exitCode).toBe(0);
    const served = await scenario.process("serve_checkpoint", { ...small, peer_node_pubkey: "npub1-node-b" });
    expect(served.exitCode).toBe(0);
    scenario.tell("run/evidence/execution_evidence.json", surface, pointer);
    scenario.tell("run/checkpoints/manifests/checkpoint_manifest_step-000008.json");
    same("apple_window", scenario);
  },

  two_assignments: async () => {
    using scenario = new Scenario(appleLane.id);
    const later = { ...small, coordination: { ...bound, assignment_id: "assignment-0000" } };
    await scenario.process("start", small);
    await scenario.process("start", later);
    const bundle = "run/windows/window-0001/sealed_window_bundle.json";
    const { contributions } = scenario.json(bundle) as { contributions: { assignment_id: string }[] };
    const ids = contributions.map(({ assignment_id }) => assignment_id);
    expect(ids).toEqual(["assignment-0000", "assignment-0001"]);
    scenario.tell(bundle);
    same("two_assignments", scenario);
  },

  adapters_validated: async () => {
    using scenario = new Scenario(adapterLane.id);
    await scenario.process("start", adapters);
    await scenario.process("record_checkpoint", { ...adapters, ...record });
    const judged = await scenario.process(
      "validate_contribution",
      { ...scenario.target(), validator_target_work_class: "adapter_training" },
      "validator",
    );
    expect(judged.exitCode).toBe(0);
    expect(String(judged.packet.detail)).toContain("accepted with 10000");
  },

  apple_replay: async () => {
    using scenario = new Scenario(appleLane.id);
    await scenario.process("start", small);
    await scenario.process("record_checkpoint", { ...small, ...record });
    const folder = "validator/windows/window-0001/validators/challenge-3bfca866453bdb1c8df958a614b52913";
    const judged = await judge(scenario, "small_model_local_training");
    expect([judged.exitCode, judged.packet.detail]).toEqual([
      0,
      expect.stringContaining("accepted with 10000"),
    ]);
    expect(scenario.json(`${folder}/validator_score_receipt.json`)).toMatchObject({
      ...{ validation_index: 1, disposition: "accepted", score_bps: 10000 },
      verified_hooks: expect.arrayContaining(["work_execution_plausibility"]),
    });
    scenario.tell(`${folder}/weak_device_validation_replay_proof.json`);
    // a second window that came to nothing
    const identity = { release_id: appleLane.releaseId, environment_ref: appleLane.environmentRef };
    const revoked = { ...identity, build_digest: "0".repeat(64) };
    const refused = await scenario.process("start", {
      ...{ ...small, coordination: second, admission_identity: revoked },
    });
    expect(refused.exitCode).toBe(22);
    const again = await judge(scenario, "small_model_local_training", second);
    expect([again.exitCode, again.packet.detail]).toEqual([0, expect.stringContaining("rejected with 0")]);
    const later = folder.replace("window-0001", "window-0002");
    expect(scenario.json(`${later}/validator_quality_drift_signal.json`)).toMatchObject({
      ...{ validation_index: 2, drift_state: "regressed", score_bps_delta: -10000 },
    });
    expect(scenario.json(`${later}/validator_rollback_signal.json`)).toMatchObject({
      ...{ rollback_posture: "candidate", rollback_baseline_window_id: "window-0001" },
    });
    same("apple_replay", scenario);
  },

  replay_refused: async () => {
    using scenario = new Scenario(appleLane.id);
    await scenario.process("start", small);
    await scenario.process("record_checkpoint", { ...small, ...record });
    const work = "small_model_local_training";
    const other = { ...bound, assignment_id: "assignment-0009", challenge_id: "challenge-0001" };
    const target = { ...scenario.target(), run_id: "validator", validator_target_work_class: work };
    const stale = await scenario.process(
      "validate_contribution",
      { ...target, coordination: other },
      "validator",
    );
    expect(stale.exitCode).toBe(11);
    const receipts = [...new Bun.Glob("run/windows/**/contribution_receipt.json").scanSync(scenario.folder)];
    const receipt = join(scenario.folder, receipts[0]!);
    const text = readFileSync(receipt, "utf8");
    writeFileSync(receipt, text.replace(/"artifact_manifest_digest": "./, '"artifact_manifest_digest": "z'));
    expect((await judge(scenario, work)).exitCode).toBe(18);
    writeFileSync(receipt, text);
    rmSync(join(dirname(receipt), "artifacts", "execution_evidence.json"));
    expect((await judge(scenario, work)).exitCode).toBe(17);
  },

  one_at_a_time: async () => {
    using scenario = new Scenario(actualLane.id);
    mkdirSync(join(scenario.folder, "run"));
    const lock = lockRun(join(scenario.folder, "run"));
    const { exitCode, packet } = await scenario.process("start", full);
    expect([exitCode, packet.refusal_class, packet.retryable]).toEqual([17, "artifact_incomplete", true]);
    lock[Symbol.dispose]();
    expect((await scenario.process("start", full)).exitCode).toBe(0);
  },

  refusals: async () => {
    using scenario = new Scenario(appleLane.id);
    const identity = {
      release_id: appleLane.releaseId,
      build_digest: "0".repeat(64),
      environment_ref: appleLane.environmentRef,
    };
    const codes = [
      await scenario.process("start", { ...small, admission_identity: identity }),
      await scenario.process("start", {
        ...small,
        admission_identity: { ...identity, environment_ref: "elsewhere" },
      }),
      await scenario.process("start", { ...small, lane_id: "a1_minimal_distributed_lm_001" }),
      await scenario.process("start", { ...small, manifest_digest: "0".repeat(64) }),
    ].map(({ exitCode, packet }) => [exitCode, packet.refusal_class]);
    expect(codes).toEqual([
      [22, "build_revoked"],
      [21, "environment_mismatch"],
      [13, "unsupported_topology"],
      [18, "artifact_digest_mismatch"],
    ]);
    writeFileSync(join(scenario.folder, "left"), "");
    same("refusals", scenario);
  },
};

for (const [name, scenario] of Object.entries(scenarios)) test.concurrent(name, scenario, 60_000);
