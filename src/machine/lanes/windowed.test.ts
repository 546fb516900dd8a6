/** Windowed lanes in this process, on the CPU: real steps, real bytes, the same bits again. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { memorySource } from "../../models/files/bytes.ts";
import { parseSafetensors } from "../../models/files/safetensors.ts";
import { actualLane, adapterLane, appleLane } from "../contract.ts";
import { verified } from "../documents.ts";
import { executionEvidence, type LaneProfile } from "../evidence.ts";
import { laneProfilePath } from "../layout.ts";
import { LaneScene } from "../testing/lane_scene.ts";
import { bound } from "../testing/scene.ts";
import { type EvalDecision, evalDecision } from "./actual_documents.ts";
import { builtInProfile } from "./profile.ts";
import { settingsOf } from "./profile_settings.ts";
import { planWindow } from "./window_plan.ts";
import { WindowSession } from "./window_session.ts";

setDefaultTimeout(30_000);

const next = { ...bound, window_id: "window-0002", assignment_id: "assignment-0002" };

for (const lane of [appleLane, actualLane, adapterLane]) {
  describe(lane.id, () => {
    test("two windows, the second from the recorded bytes of the first, are one of both, bit for bit", () => {
      using parts = new LaneScene(lane);
      expect(parts.do("start")).toMatchObject({ outcome: "succeeded", run_id: "run" });
      const first = parts.evidence();
      expect(first.steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
      // batches differ, so it is held against the same steps that change nothing
      using still = new LaneScene(lane);
      still.profile({ optimizer_settings: { learning_rate: "0.000000001" } });
      expect(still.do("start").outcome).toBe("succeeded");
      expect(Number(first.steps[7]!.loss)).toBeLessThan(Number(still.evidence().steps[7]!.loss));
      expect(parts.do("record_checkpoint").outcome).toBe("succeeded");
      // what the second window begins with is vouched for by the first one's verdict
      expect(parts.validate().detail).toContain("accepted with 10000");
      const object = readFileSync(join(parts.root, "checkpoints/step-8/state.safetensors"));
      expect(parts.read("status/checkpoint_surface.json")).toMatchObject({
        ...{ pointer_state: "accepted", optimizer_step: 8, checkpoint_total_bytes: object.length },
        checkpoint_object_digest: sha256(object),
      });
      expect(first.end_state_digest).toBe(sha256(object));
      expect(parts.do("resume", { coordination: next }).outcome).toBe("succeeded");
      const second = parts.evidence();
      expect(second.start_state_digest).toBe(first.end_state_digest);
      using whole = new LaneScene(lane);
      whole.profile({ steps: 16 });
      expect(whole.do("start").outcome).toBe("succeeded");
      const both = whole.evidence();
      expect(both.steps).toEqual([...first.steps, ...second.steps]);
      expect(both.data.token_ranges).toEqual([...first.data.token_ranges, ...second.data.token_ranges]);
      expect(both.end_state_digest).toBe(second.end_state_digest);
      expect(both.optimizer_state_digest).toBe(second.optimizer_state_digest);
      const recorded = { coordination: next, optimizer_step: 16, checkpoint_label: "second" };
      expect(parts.do("record_checkpoint", recorded).outcome).toBe("succeeded");
      expect(parts.validate(next).detail).toContain("accepted with 10000 after doing 8 of 8 steps again");
      expect(both.lane_profile_digest).not.toBe(first.lane_profile_digest);
    });
  });
}

for (const lane of [appleLane, actualLane]) {
  describe(lane.id, () => {
    test("a contribution has its evidence, retained states and profile, each by its digest", () => {
      using scene = new LaneScene(lane);
      scene.do("start");
      const { contributions } = scene.read("windows/window-0001/sealed_window_bundle.json") as {
        contributions: { contribution_id: string }[];
      };
      const folder = `windows/window-0001/contributions/${contributions[0]!.contribution_id}`;
      const { artifacts } = scene.read(`${folder}/artifact_manifest.json`) as {
        artifacts: { artifact_kind: string; binding: Binding }[];
      };
      type Binding = { artifact_ref: { artifact_digest: string }; materialized_path: string };
      const byKind = new Map(artifacts.map(({ artifact_kind, binding }) => [artifact_kind, binding]));
      const retained = [0, 2, 4, 6, 8].map((step) => `retained_state_step_00000${step}`);
      expect([...byKind.keys()]).toEqual(
        expect.arrayContaining(["execution_evidence", "lane_profile", ...retained]),
      );
      for (const [kind, { artifact_ref, materialized_path }] of byKind) {
        const bytes = readFileSync(join(scene.root, materialized_path));
        expect([kind, sha256(bytes)]).toEqual([kind, artifact_ref.artifact_digest]);
      }
      const { retained_states, start_state_digest, backend, kernel_library_digest } = scene.evidence();
      const digests = [start_state_digest, ...retained_states.map(({ object_digest }) => object_digest)];
      expect(retained.map((kind) => byKind.get(kind)!.artifact_ref.artifact_digest)).toEqual(digests);
      expect([backend, kernel_library_digest]).toEqual(["cpu", expect.stringMatching(/^[0-9a-f]{64}$/)]);
    });

    test("recorded bytes that are not those that were trained are refused", () => {
      using scene = new LaneScene(lane);
      scene.do("start");
      expect(scene.do("record_checkpoint", { optimizer_step: 9 }).refusal_class).toBe("checkpoint_missing");
      expect(scene.do("record_checkpoint", { optimizer_step: 0 }).refusal_class).toBe("bad_config");
      for (const claim of [{ checkpoint_object_digest: "00" }, { checkpoint_total_bytes: 7 }])
        expect(scene.do("record_checkpoint", claim).refusal_class).toBe("checkpoint_digest_mismatch");
      const digest = scene.evidence().end_state_digest;
      const evidencePath = join(scene.root, "evidence/execution_evidence.json");
      const evidence = readFileSync(evidencePath, "utf8");
      writeFileSync(evidencePath, evidence.replace('"seed": "', '"seed": "1'));
      expect(scene.do("record_checkpoint").refusal_class).toBe("artifact_digest_mismatch");
      writeFileSync(evidencePath, evidence);
      const tagged = { checkpoint_object_digest: `sha256:${digest.toUpperCase()}` };
      expect(scene.do("record_checkpoint", tagged).outcome).toBe("succeeded");
      const kept = "checkpoints/step-8/state.safetensors";
      const path = join(scene.root, "evidence/retained/step-000008.safetensors");
      const bytes = readFileSync(path);
      bytes[bytes.length - 1]! ^= 1;
      writeFileSync(path, bytes);
      expect(scene.do("record_checkpoint").refusal_class).toBe("checkpoint_digest_mismatch");
      expect(sha256(readFileSync(join(scene.root, kept)))).toBe(digest);
      writeFileSync(join(scene.root, kept), bytes);
      const again = scene.do("resume", { coordination: next });
      // the actual lane goes back to its backup
      if (lane === actualLane) expect(again.detail).toContain("Resumed from backup_receipt");
      else expect(again.refusal_class).toBe("checkpoint_digest_mismatch");
    });
  });
}

describe("lane profiles", () => {
  test("say what is trained; evidence carries their digest", () => {
    using scene = new LaneScene(appleLane);
    const profile = scene.profile({ steps: 3, optimizer_settings: { learning_rate: "0.002" } });
    expect(scene.do("start").outcome).toBe("succeeded");
    const { steps, lane_profile_digest } = scene.evidence();
    expect(steps.map(({ learning_rate }) => learning_rate)).toEqual(["0.002", "0.002", "0.002"]);
    expect(lane_profile_digest).toBe(profile.profile_digest);
    // written by hand: without a digest of its own
    const { profile_digest, ...rest } = profile;
    writeFileSync(join(scene.root, laneProfilePath), JSON.stringify(rest));
    expect(scene.do("start").outcome).toBe("succeeded");
    expect(scene.evidence().lane_profile_digest).toBe(profile_digest);
    writeFileSync(join(scene.root, laneProfilePath), JSON.stringify({ ...rest, profile_digest, steps: 4 }));
    expect(scene.do("start").refusal_class).toBe("bad_config");
  });

  const size = { width: 16, layers: 1, heads: 2, vocabulary: 256, context: 16 };
  const experts = { experts: 4, experts_used: 2, expert_feed_forward: 16 };
  const common = { sequences: 2, length: 8, learning_rate: 0.001, retain_every: 2 };
  const kinds: Readonly<Record<string, Pick<LaneProfile, "model" | "optimizer">>> = {
    "gpt2, rates that fall": {
      model: { name: "gpt2", settings: settingsOf(size) },
      optimizer: {
        name: "adam_w",
        settings: settingsOf({ ...common, schedule: "warmup_cosine", total_steps: 8, warmup_steps: 1 }),
      },
    },
    "gpt_oss by muon, microbatches": {
      model: {
        name: "gpt_oss",
        settings: settingsOf({ ...size, kv_heads: 1, head_dim: 8, window: 4, ...experts }),
      },
      optimizer: { name: "muon", settings: settingsOf({ ...common, accumulation: 2 }) },
    },
    "compact decoder in bf16, blocks run again": {
      model: { name: "compact_decoder", settings: settingsOf({ ...size, head_dim: 8, feed_forward: 16 }) },
      optimizer: { name: "adam_w", settings: settingsOf({ ...common, precision: "bf16", recompute: true }) },
    },
  };
  test.each(Object.keys(kinds))("%s: trained, and done again", (kind) => {
    using scene = new LaneScene(appleLane);
    scene.profile({ ...kinds[kind]!, steps: 4 });
    expect(scene.do("start")).toMatchObject({ outcome: "succeeded" });
    expect(scene.do("record_checkpoint", { optimizer_step: 4 }).outcome).toBe("succeeded");
    expect(scene.validate().detail).toContain("accepted with 10000 after doing 4 of 4 steps again");
  });

  test("tokens of a file below the run root", () => {
    using scene = new LaneScene(appleLane);
    mkdirSync(scene.root, { recursive: true });
    const tokens = Int32Array.from({ length: 500 }, (_, i) => (i * i) % 250);
    writeFileSync(join(scene.root, "tokens.bin"), tokens);
    const data = [{ identity: "tokens:tokens.bin", digest: sha256(new Uint8Array(tokens.buffer)) }];
    scene.profile({ data, token_start: 100, token_end: 400 });
    expect(scene.do("start").outcome).toBe("succeeded");
    for (const { start, end } of scene.evidence().data.token_ranges) {
      expect(start).toBeGreaterThanOrEqual(100);
      expect(end).toBeLessThanOrEqual(400);
    }
    writeFileSync(
      join(scene.root, "tokens.bin"),
      tokens.map((t) => (t + 1) % 250),
    );
    expect(scene.do("start").refusal_class).toBe("artifact_digest_mismatch");
  });

  test("that make no sense are bad_config, whatever is wrong with them", () => {
    using scene = new LaneScene(appleLane);
    const own = builtInProfile(appleLane)!;
    const optimizer = (changes: Record<string, string>) => ({
      optimizer: { ...own.optimizer, settings: [...own.optimizer.settings, ...settingsOf(changes)] },
    });
    const wrong: readonly (readonly [Partial<LaneProfile>, string])[] = [
      [{ lane_id: actualLane.id }, "is of lane"],
      [{ steps: 0 }, "steps"],
      [{ seed: "a seed" }, "seed"],
      [{ seed: "-1" }, "seed"],
      [{ model: { name: "gpt5", settings: [] } }, "gpt5"],
      [{ model: { name: "compact_decoder", settings: [] } }, "model.width"],
      [{ data: [] }, "source"],
      [{ data: [{ identity: "tokens:../x", digest: "0".repeat(64) }] }, "below the run root"],
      [{ data: [{ identity: "the web", digest: "0".repeat(64) }] }, "the web"],
      [{ token_end: 10_000_000 }, "tokens from 0"],
      [{ base_digest: "0".repeat(64) }, "base_digest"],
      [optimizer({ momentum: "1" }), 'no setting "momentum"'],
      [optimizer({ clip: "2" }), "twice"],
      [optimizer({ schedule: "sometimes" }), "schedule"],
    ];
    for (const [changes, said] of wrong) {
      scene.profile(changes);
      const packet = scene.do("start");
      expect([said, packet.refusal_class]).toEqual([said, "bad_config"]);
      expect(packet.detail).toContain(said);
    }
    const sized = (changes: Record<string, string>) =>
      own.model.settings.map(({ name, value }) => ({ name, value: changes[name] ?? value }));
    scene.profile({ optimizer_settings: { length: "65" } });
    expect(scene.do("start").refusal_class).toBe("bad_config");
    const huge = sized({ width: "65536", layers: "1024", feed_forward: "1048576" });
    scene.profile({ model: { name: "compact_decoder", settings: huge } });
    expect(scene.do("start").refusal_class).toBe("unsupported_topology");
    writeFileSync(join(scene.root, laneProfilePath), "{}");
    expect(scene.do("start").refusal_class).toBe("bad_config");
  });
});

test("a lane is refused where its backend is not, and what stands in for it is named", () => {
  using scene = new LaneScene(appleLane);
  const stranger = () => scene.do("start");
  scene.backend = "abacus";
  expect(stranger().refusal_class).toBe("unsupported_topology");
  if (process.platform !== "darwin") {
    scene.backend = "";
    expect(stranger()).toMatchObject({ refusal_class: "unsupported_topology" });
    expect(stranger().capability_projection?.backend_family).toBe("metal");
  }
  scene.backend = "cpu";
  expect(stranger().capability_projection?.backend_family).toBe("cpu");
});

test("adapters leave the base as it is and are exported by the names of its matrices", () => {
  using scene = new LaneScene(adapterLane);
  expect(scene.do("start").outcome).toBe("succeeded");
  const config = scene.read("evidence/adapter/adapter_config.json");
  expect(config).toMatchObject({ peft_type: "LORA", r: 4, lora_alpha: 8 });
  const bytes = readFileSync(join(scene.root, "evidence/adapter/adapter_model.safetensors"));
  const tensors = parseSafetensors(memorySource("adapter", bytes));
  const name = "base_model.model.model.layers.0.self_attn.v_proj";
  expect(tensors.get(`${name}.lora_A.weight`)?.shape).toEqual([4, 256]);
  expect(tensors.get(`${name}.lora_B.weight`)?.shape).toEqual([64, 4]);
  expect(tensors.size).toBe(24);
  expect(Number(scene.evidence().steps[0]!.loss)).toBeLessThan(Math.log(6144) - 1);
  // one step from B = 0 moves B alone by about the learning rate
  scene.profile({ steps: 1 });
  scene.do("start");
  const states = ["000000", "000001"].map((step) =>
    readFileSync(join(scene.root, `evidence/retained/step-${step}.safetensors`)),
  );
  expect(sha256(states[0]!)).not.toBe(sha256(states[1]!));
});

test("adapters on a state that another lane recorded", () => {
  using pretrained = new LaneScene(appleLane);
  pretrained.do("start");
  const state = readFileSync(join(pretrained.root, "evidence/retained/step-000008.safetensors"));
  using scene = new LaneScene(adapterLane);
  const { model, optimizer, data, token_end } = builtInProfile(appleLane)!;
  const adapted = settingsOf({ adapter_rank: 2, adapter_targets: "q_proj,down_proj" });
  const base = { ...model, settings: [...model.settings, ...adapted] };
  const profile = { model: base, optimizer, data, token_end, steps: 2, base_digest: sha256(state) };
  scene.profile(profile);
  expect(scene.do("start").refusal_class).toBe("artifact_incomplete");
  writeFileSync(join(scene.root, "manifests/base.safetensors"), state);
  expect(scene.do("start").outcome).toBe("succeeded");
  // adapters begin as their base, which had learned
  expect(Number(scene.evidence().steps[0]!.loss)).toBeLessThan(
    Number(pretrained.evidence().steps[0]!.loss) - 0.1,
  );
  expect(scene.do("record_checkpoint", { optimizer_step: 2 }).outcome).toBe("succeeded");
  expect(scene.validate().detail).toContain("accepted with 10000");
  scene.profile({ ...profile, base_digest: "0".repeat(64) });
  expect(scene.do("start").refusal_class).toBe("artifact_digest_mismatch");
});

test("the actual lane: phases, backup, decision, and the way back when the pointer is gone", () => {
  using scene = new LaneScene(actualLane);
  const phase = () => scene.read("status/current_run_status.json").phase;
  expect(scene.do("start", { dry_run: true }).outcome).toBe("succeeded");
  expect(phase()).toBe("dry_run_planned");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({
    ...{ pointer_state: "pending_first_checkpoint", checkpoint_label: "pending_first_checkpoint" },
    optimizer_step: null,
  });
  expect(scene.do("resume").refusal_class).toBe("checkpoint_missing");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({
    ...{ recovery_resolution_state: "refused", recovery_source_kind: "none" },
    restored_primary_pointer: false,
  });
  scene.do("start");
  expect(scene.do("record_checkpoint").outcome).toBe("succeeded");
  expect(phase()).toBe("checkpoint_evaluated");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({
    ...{ backup_state: "backed_up", upload_outcome: "succeeded" },
  });
  expect(scene.do("decide_continue_restart").detail).toContain("continue");
  expect(phase()).toBe("continue_decision_recorded");
  scene.do("backup", { inject_failed_upload: true });
  expect(phase()).toBe("checkpoint_backup_refused");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({ upload_outcome: "failed" });
  expect(scene.do("backup").outcome).toBe("succeeded");
  expect(scene.do("resume", { dry_run: true }).detail).toContain("Planned steps 9 to 16");
  expect(phase()).toBe("resume_dry_run_planned");
  for (const damage of ["", "{"]) {
    const pointer = join(scene.root, "checkpoints/latest_accepted_checkpoint_pointer.json");
    if (damage === "") rmSync(pointer);
    else writeFileSync(pointer, damage);
    expect(scene.do("resume", { coordination: next }).outcome).toBe("succeeded");
    expect(scene.read("status/checkpoint_surface.json")).toMatchObject({
      ...{ recovery_resolution_state: "recovered_from_backup", recovery_source_kind: "backup_receipt" },
      ...{ restored_primary_pointer: true, pointer_state: "accepted", optimizer_step: 8 },
    });
  }
  expect(scene.evidence()).toEqual(
    expect.objectContaining({ schema_version: executionEvidence.id, window_id: "window-0002" }),
  );
  expect(scene.do("rehearse_base_lane").outcome).toBe("succeeded");
  expect(phase()).toBe("base_lane_rehearsal_complete");
});

test("the actual lane: a backup that cannot be written is told, and the checkpoint is accepted all the same", () => {
  using scene = new LaneScene(actualLane);
  scene.do("start");
  writeFileSync(join(scene.root, "checkpoints/backups"), "in the way");
  const packet = scene.do("record_checkpoint");
  expect(packet.outcome).toBe("succeeded");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({
    ...{ pointer_state: "accepted", backup_state: "refused", upload_outcome: "failed" },
  });
  expect(scene.do("backup").detail).toContain("Copied nothing");
  rmSync(join(scene.root, "checkpoints/backups"));
  expect(scene.do("backup").outcome).toBe("succeeded");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({ backup_state: "backed_up" });
});

test("the actual lane: a copy that fails after an earlier one held is told, and the earlier one is still gone back to", () => {
  using scene = new LaneScene(actualLane);
  scene.do("start");
  expect(scene.do("record_checkpoint").outcome).toBe("succeeded");
  const kept = scene.read("checkpoints/latest_accepted_checkpoint_backup_receipt.json");
  expect(scene.do("resume", { coordination: next }).outcome).toBe("succeeded");
  const inTheWay = join(scene.root, "checkpoints/backups/step-16");
  writeFileSync(inTheWay, "in the way");
  const second = { coordination: next, optimizer_step: 16, checkpoint_label: "second" };
  const recorded = { ...second, checkpoint_ref: "checkpoint://second" };
  expect(scene.do("record_checkpoint", recorded).detail).toContain("not backed up: ");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({
    ...{ pointer_state: "accepted", optimizer_step: 16, backup_state: "refused", upload_outcome: "failed" },
    upload_failure_reason: expect.stringContaining("step-16"),
  });
  expect(scene.validate(next).detail).toContain("replay_required");
  expect(scene.read("checkpoints/latest_accepted_checkpoint_backup_receipt.json")).toEqual(kept);
  rmSync(join(scene.root, "checkpoints/latest_accepted_checkpoint_pointer.json"));
  expect(scene.do("resume", { coordination: next }).detail).toContain("Resumed from backup_receipt");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({
    ...{ optimizer_step: 8, backup_state: "backed_up", upload_outcome: "succeeded" },
  });
  rmSync(inTheWay);
  expect(scene.do("record_checkpoint", recorded).detail).not.toContain("not backed up");
  expect(scene.read("status/checkpoint_surface.json")).toMatchObject({ backup_state: "backed_up" });
});

describe("the actual lane evaluates the checkpoint that is recorded", () => {
  const decisionOf = (scene: LaneScene, step: number) =>
    scene.read(`evals/checkpoint_eval_step-${step}.json`) as unknown as EvalDecision;
  const decide = (scene: LaneScene) => {
    expect(scene.do("decide_continue_restart").outcome).toBe("succeeded");
    return scene.read("decisions/latest_continue_restart_decision.json");
  };

  test("on held-out text, each step by its own bytes", () => {
    using scene = new LaneScene(actualLane);
    scene.do("start");
    // the profile of the next window is no part of what was trained
    scene.profile({ data: [{ identity: "the web", digest: "0".repeat(64) }] });
    const losses = [4, 8].map((step) => {
      const recorded = { optimizer_step: step, checkpoint_ref: `checkpoint://${step}` };
      expect(scene.do("record_checkpoint", recorded).detail).toContain("Its loss on held-out text is");
      expect(scene.read(`checkpoints/step-${step}/checkpoint_manifest.json`)).toMatchObject({
        dataset_identity: "psion_reference_tokenized@v1",
      });
      return Number(verified(evalDecision, decisionOf(scene, step) as never, "").validation_loss);
    });
    expect(losses[1]!).toBeLessThan(losses[0]!);
    const plan = planWindow(builtInProfile(actualLane)!, () => new Uint8Array());
    using session = new WindowSession(plan, "cpu");
    const path = join(scene.root, "evidence/retained/step-000008.safetensors");
    session.load(path, scene.evidence().retained_states.at(-1)!);
    expect(losses[1]).toBeCloseTo(session.trainer.evaluate(plan.heldOut()!), 6);
    expect(decide(scene)).toMatchObject({ decision_state: "continue", checkpoint_backed_up: true });
    const copy = join(scene.root, "checkpoints/backups/step-8/state.safetensors");
    const bytes = readFileSync(copy);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(copy, bytes);
    expect(decide(scene)).toMatchObject({
      decision_state: "hold_and_investigate",
      checkpoint_backed_up: false,
    });
  });

  test("what cannot be evaluated is to be tried again, and nothing is decided on it", () => {
    using scene = new LaneScene(actualLane);
    scene.do("start");
    expect(scene.do("record_checkpoint", { inject_eval_worker_unavailable: true }).outcome).toBe("succeeded");
    expect(scene.read("status/current_run_status.json").phase).toBe("checkpoint_eval_retry_required");
    expect(decide(scene)).toMatchObject({ decision_state: "hold_and_investigate", validation_loss: null });
    expect(scene.do("record_checkpoint").outcome).toBe("succeeded");
    expect(decide(scene).decision_state).toBe("continue");
  });

  test("tokens of a file outside of those that are trained on; where there are none, that is said", () => {
    using scene = new LaneScene(actualLane);
    mkdirSync(scene.root, { recursive: true });
    const tokens = Int32Array.from({ length: 500 }, (_, i) => (i * i) % 250);
    writeFileSync(join(scene.root, "tokens.bin"), tokens);
    const data = [{ identity: "tokens:tokens.bin", digest: sha256(new Uint8Array(tokens.buffer)) }];
    for (const token_end of [400, 500]) {
      scene.profile({ data, token_start: 0, token_end });
      expect(scene.do("start").outcome).toBe("succeeded");
      expect(scene.do("record_checkpoint").outcome).toBe("succeeded");
      const { validation_loss, trained_text_loss } = decisionOf(scene, 8);
      expect([validation_loss === null, trained_text_loss === null]).toEqual([
        token_end === 500,
        token_end === 400,
      ]);
    }
    // data that are no longer there
    rmSync(join(scene.root, "tokens.bin"));
    const packet = scene.do("record_checkpoint");
    expect([packet.outcome, packet.detail]).toEqual(["succeeded", expect.stringContaining("not evaluated")]);
  });
});
