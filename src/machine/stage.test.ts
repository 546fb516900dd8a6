/** Grouped stages as processes: the losses of one trainer, evidence to do the work again from, waits that end. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { float32Text } from "../core/json.ts";
import type { Device } from "../runtime/device.ts";
import { Trainer } from "../train/trainer.ts";
import { appleLane } from "./contract.ts";
import { verified } from "./documents.ts";
import { type ExecutionEvidence, executionEvidence } from "./evidence.ts";
import { evidencePath } from "./layout.ts";
import { groupedProfile, plannedStages } from "./stage_plan.ts";
import { StagedScene } from "./testing/stages.ts";

let device: Device;
beforeAll(() => {
  device = openDevice("cpu", { threads: 1 });
});
afterAll(() => device.close());

/** Losses of a process that has the whole model, as text. */
function wholeLosses(): string[] {
  const { profile, model, windows, config } = plannedStages(
    groupedProfile(appleLane),
    () => new Uint8Array(),
  );
  using trainer = new Trainer(device, model, windows, config);
  return Array.from({ length: profile.steps }, () => float32Text(trainer.step().loss));
}

const evidenceOf = (scene: StagedScene, index: number): ExecutionEvidence => {
  const path = `${scene.rootOf(index)}/${evidencePath}`;
  return verified(executionEvidence, scene.readStage(index, evidencePath) as never, path);
};

describe("a window in stages", () => {
  for (const count of [2, 3]) {
    test(`${count} processes have the losses of one, bit for bit`, async () => {
      using scene = new StagedScene(count);
      const ends = await scene.runAll();
      expect(ends.map(({ code, packet }) => [code, packet.refusal_class])).toEqual(ends.map(() => [0, null]));
      const expected = wholeLosses();
      for (let index = 0; index < count; index++) {
        const evidence = evidenceOf(scene, index);
        expect(evidence.steps.map(({ loss }) => loss)).toEqual(expected);
        expect(evidence).toMatchObject({ work_class: "grouped_replica_stage_execution", backend: "cpu" });
      }
    }, 60_000);
  }
});
