/** Grouped stages as processes: the losses of one trainer, evidence to do the work again from, waits that end. */
import { describe, expect, test } from "bun:test";
import { existsSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../backends/index.ts";
import { float32Text } from "../core/json.ts";
import { Trainer } from "../train/trainer.ts";
import { validationPacket } from "./cli/validate.ts";
import { appleLane } from "./contract.ts";
import { verified } from "./documents.ts";
import { type ExecutionEvidence, executionEvidence } from "./evidence.ts";
import { builtInProfile } from "./lanes/profile.ts";
import { evidencePath } from "./layout.ts";
import { stepNames } from "./stage_files.ts";
import { plannedStages } from "./stage_plan.ts";
import { stageKills } from "./testing/stage_kills.ts";
import { StagedScene } from "./testing/stages.ts";

/** Losses and norms of a process that has the whole model, as text. */
function wholeTraces(windowCount = 1): { readonly loss: string; readonly gradient_norm: string }[] {
  const { profile, model, windows, config } = plannedStages(
    builtInProfile(appleLane)!,
    () => new Uint8Array(),
  );
  const device = openDevice("cpu", { threads: 1 });
  try {
    using trainer = new Trainer(device, model, windows, config);
    return Array.from({ length: profile.steps * windowCount }, () => {
      const { loss, gradientNorm } = trainer.step();
      return { loss: float32Text(loss), gradient_norm: float32Text(Math.fround(gradientNorm)) };
    });
  } finally {
    device.close();
  }
}

const wholeLosses = (windowCount = 1): string[] => wholeTraces(windowCount).map(({ loss }) => loss);

const evidenceOf = (scene: StagedScene, index: number): ExecutionEvidence => {
  const path = `${scene.rootOf(index)}/${evidencePath}`;
  return verified(executionEvidence, scene.readStage(index, evidencePath) as never, path);
};

describe("a window in stages", () => {
  for (const count of [2, 3]) {
    test(`${count} processes have the losses of one, bit for bit, and limit the norm of all of them`, async () => {
      using scene = new StagedScene(count);
      const ends = await scene.runAll();
      expect(ends.map(({ code, packet }) => [code, packet.refusal_class])).toEqual(ends.map(() => [0, null]));
      const expected = wholeTraces();
      // what the profile limits is reached, so that it plays a part
      expect(Number(expected[0]!.gradient_norm)).toBeGreaterThan(1);
      for (let index = 0; index < count; index++) {
        const evidence = evidenceOf(scene, index);
        expect(evidence.steps.map(({ loss, gradient_norm }) => ({ loss, gradient_norm }))).toEqual(expected);
        expect(evidence).toMatchObject({ work_class: "grouped_replica_stage_execution", backend: "cpu" });
      }
    }, 60_000);
  }
});

const record = (step: number, window = "window-0001") => ({
  ...{
    checkpoint_label: `step-${step}`,
    optimizer_step: step,
    checkpoint_ref: `checkpoint://staged/${step}`,
  },
  ...(window !== "window-0001" && { coordination: coordinationOf(window, 0) }),
});
const coordinationOf = (window: string, index: number) => ({
  ...{ network_id: "network.example", window_id: window, assignment_id: "assignment-0001" },
  node_pubkey: `npub1-node-${index + 1}`,
});

describe("a stage on its own", () => {
  test("nobody answers: artifact_incomplete, to be tried again; nonsense to wait is bad_config", async () => {
    using scene = new StagedScene(2);
    const { code, packet } = await scene.spawn(0, "start", {}, { PSIONIC_STAGE_WAIT_SECONDS: "0.3" }).ended;
    expect([code, packet.refusal_class, packet.retryable]).toEqual([17, "artifact_incomplete", true]);
    expect(packet.detail).toContain("gradient of step 1");
    const wrong = await scene.spawn(0, "start", {}, { PSIONIC_STAGE_WAIT_SECONDS: "soon" }).ended;
    expect(wrong.packet.refusal_class).toBe("bad_config");
    // the downstream of a stage that has died waits for what never comes
    const after = await scene.spawn(1, "start", {}, { PSIONIC_STAGE_WAIT_SECONDS: "0.3" }).ended;
    expect(after.packet.refusal_class).toBe("artifact_incomplete");
    expect(after.packet.detail).toContain("norm of step 1");
  }, 60_000);

  test("a truncated tensor", async () => {
    using scene = new StagedScene(2);
    await scene.spawn(0, "start", {}, { PSIONIC_STAGE_WAIT_SECONDS: "0.2" }).ended;
    const path = join(scene.contribution(0), stepNames("activation", 1).tensor);
    truncateSync(path, 40);
    const { packet } = await scene.spawn(1).ended;
    expect([packet.refusal_class, packet.detail]).toEqual([
      "artifact_digest_mismatch",
      expect.stringContaining("tensor of step 1"),
    ]);
  }, 60_000);

  test("killed and started again it catches up, with the same losses", async () => {
    using scene = new StagedScene(2);
    const first = scene.spawn(0);
    await scene.offered(0);
    const second = scene.spawn(1);
    const path = join(scene.contribution(0), stepNames("activation", 3).transport);
    while (!existsSync(path)) await Bun.sleep(2);
    first.child.kill("SIGKILL");
    await first.ended;
    const again = await scene.spawn(0).ended;
    expect([again.code, (await second.ended).code]).toEqual([0, 0]);
    expect(evidenceOf(scene, 0).steps.map(({ loss }) => loss)).toEqual(wholeLosses());
  }, 60_000);
});

describe("what a stage left", () => {
  test("recorded, validated by doing it again, recovered, and gone on with", async () => {
    using scene = new StagedScene(2);
    expect((await scene.runAll()).map(({ code }) => code)).toEqual([0, 0]);
    for (const index of [0, 1]) {
      const { packet } = await scene.spawn(index, "record_checkpoint", record(8)).ended;
      expect([packet.outcome, packet.detail]).toEqual(["succeeded", packet.detail]);
      const surface = scene.readStage(index, "status/checkpoint_surface.json");
      expect(surface.grouped_stage_assignment).toEqual(scene.assignment(index));
      const words = [
        "--run-root",
        join(scene.folder, "validator"),
        "--contribution",
        scene.contribution(index),
      ];
      const verdict = validationPacket([...words, "--challenge-id", `challenge-${index}`], {
        environment: { ...scene.environment() },
      });
      expect(verdict.detail).toContain("was accepted with 10000 after doing 8 of 8 steps again");
      const other = await scene.spawn(index, "resume", {
        grouped_stage_assignment: scene.assignment(1 - index),
      }).ended;
      expect(other.code).toBe(11);
      const resumed = await scene.spawn(index, "resume").ended;
      expect([resumed.code, resumed.packet.detail]).toEqual([0, expect.stringContaining("Recovered step 8")]);
      expect(scene.readStage(index, "checkpoints/grouped_stage_recovery_receipt.json")).toMatchObject({
        ...{ recovery_source_kind: "retained_checkpoint", restored_primary_pointer: false },
      });
    }
    const next = "window-0002";
    const first = scene.spawn(0, "start", { coordination: coordinationOf(next, 0) });
    const envelope = scene.envelope(0, next);
    while (!existsSync(envelope)) await Bun.sleep(5);
    const second = scene.spawn(1, "start", {
      coordination: coordinationOf(next, 1),
      grouped_stage_input_transport: {
        ...{ artifact_ref: { artifact_id: "input" }, materialized_path: envelope },
      },
    });
    const ends = await Promise.all([first.ended, second.ended]);
    expect(ends.map(({ code, packet }) => [code, packet.detail])).toEqual(
      ends.map(({ packet }) => [0, packet.detail]),
    );
    expect(evidenceOf(scene, 1).steps.map(({ loss }) => loss)).toEqual(wholeLosses(2).slice(8));
    // each goes on from its own end of the window before, which held
    for (const index of [0, 1]) {
      const input = index === 1 && {
        grouped_stage_input_transport: {
          ...{ artifact_ref: { artifact_id: "input" }, materialized_path: envelope },
        },
      };
      const recorded = { ...record(16, next), coordination: coordinationOf(next, index), ...input };
      const { code, packet } = await scene.spawn(index, "record_checkpoint", recorded).ended;
      expect([code, packet.detail]).toEqual([0, packet.detail]);
      const words = ["--contribution", scene.contribution(index, next), "--challenge-id", `next-${index}`];
      const verdict = validationPacket(["--run-root", join(scene.folder, "validator"), ...words], {
        environment: { ...scene.environment() },
      });
      expect(verdict.detail).toContain("was accepted with 10000 after doing 8 of 8 steps again");
    }
  }, 90_000);
});

test("a stage's checkpoint taken over by a peer", async () => {
  using scene = new StagedScene(2);
  await scene.runAll();
  expect((await scene.spawn(0, "record_checkpoint", record(8)).ended).code).toBe(0);
  const served = await scene.spawn(0, "serve_checkpoint", {
    ...{ grouped_stage_assignment: null, work_class: "small_model_local_training" },
    peer_node_pubkey: "npub1-peer",
  }).ended;
  expect([served.code, served.packet.detail]).toEqual([0, served.packet.detail]);
  const joiner = join(scene.folder, "joiner");
  const { code, packet } = await scene.spawn(0, "resume", {
    run_root: joiner,
    coordination: { ...coordinationOf("window-0001", 0), node_pubkey: "npub1-peer" },
    peer_checkpoint_handoff_receipt: {
      artifact_ref: { artifact_id: "handoff" },
      materialized_path: join(scene.rootOf(0), "status/peer_checkpoint_handoff_receipt.json"),
    },
  }).ended;
  expect([code, packet.detail]).toEqual([0, expect.stringContaining("peer_checkpoint_handoff")]);
  expect(existsSync(join(joiner, "checkpoints/grouped_stage_recovery_receipt.json"))).toBe(true);
}, 60_000);

test("stages killed at random moments; the soak does it 200 times", async () => {
  expect((await stageKills(3, 11)).killed).toBeGreaterThan(0);
}, 90_000);
