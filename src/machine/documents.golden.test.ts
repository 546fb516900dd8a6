/** Documents of grouped stages and of handoffs as they lie in run roots, byte by byte against fixtures/golden/machine. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { appleLane } from "./contract.ts";
import { handoffPath, pointerPath, recoveryPath } from "./layout.ts";
import { executionSummaryName, outputPayloadName, outputTransportName, stepNames } from "./stage_files.ts";
import { compared, normalised, Scenario } from "./testing/scenario.ts";
import { bound } from "./testing/scene.ts";
import { StagedScene } from "./testing/stages.ts";

const surfacePath = "status/checkpoint_surface.json";
const label = { checkpoint_label: "end", optimizer_step: 8, checkpoint_ref: "checkpoint://staged/end" };

/** The files one after the other, under their paths below the folder. */
function same(name: string, folder: string, paths: readonly string[]): void {
  const text = paths.map((path) => `--- ${relative(folder, path)}\n${readFileSync(path, "utf8")}\n`).join("");
  // numbers that other processors round differently are not for a golden file
  const { found, expected } = compared(
    name,
    normalised(text, folder)
      .replace(/"(\d+\.\d+(?:e-?\d+)?)"/g, '"<number>"')
      .replace(/"tensor_bytes": \d+/g, '"tensor_bytes": <bytes>'),
  );
  expect(found).toBe(expected);
}

test("a stage between two others: what it hands on, in all and in a step, and what it recovers", async () => {
  using scene = new StagedScene(3);
  expect((await scene.runAll()).map(({ code }) => code)).toEqual([0, 0, 0]);
  const folder = scene.contribution(1);
  const inFolder = (...names: readonly string[]) => names.map((name) => join(folder, name));
  same(
    "stage_handed_on",
    scene.folder,
    inFolder(outputPayloadName, outputTransportName, executionSummaryName),
  );
  const step = (["activation", "gradient", "norm"] as const).map((kind) => stepNames(kind, 1).payload);
  same("stage_step", scene.folder, inFolder(...step));
  const [root, operations] = [scene.rootOf(1), { record_checkpoint: label, resume: {} }];
  for (const [operation, changes] of Object.entries(operations))
    expect((await scene.spawn(1, operation, changes).ended).code).toBe(0);
  same("stage_recovered", scene.folder, [join(root, pointerPath), join(root, recoveryPath)]);
  same("stage_surface", scene.folder, [join(root, surfacePath)]);
}, 90_000);

test("a checkpoint that goes to a peer: its receipt on both sides, and what the peer then has", async () => {
  using scenario = new Scenario(appleLane.id);
  const small = { work_class: "small_model_local_training", coordination: bound };
  await scenario.process("start", small);
  await scenario.process("record_checkpoint", { ...small, ...label });
  await scenario.process("serve_checkpoint", { ...small, peer_node_pubkey: "npub1-node-b" });
  const served = join("run", handoffPath);
  const joined = await scenario.process(
    "resume",
    {
      ...{ work_class: small.work_class, run_id: "joiner" },
      coordination: { ...bound, window_id: "window-0002", node_pubkey: "npub1-node-b" },
      peer_checkpoint_handoff_receipt: {
        artifact_ref: { artifact_id: "handoff" },
        materialized_path: join(scenario.folder, served),
      },
    },
    "joiner",
  );
  expect([joined.exitCode, joined.packet.detail]).toEqual([0, joined.packet.detail]);
  const at = (...paths: readonly string[]) => paths.map((path) => join(scenario.folder, path));
  expect(at(served, join("joiner", handoffPath)).map(existsSync)).toEqual([true, true]);
  same("handoff_served", scenario.folder, at(served));
  same("handoff_joined", scenario.folder, at(join("joiner", handoffPath), join("joiner", pointerPath)));
  same("handoff_surface", scenario.folder, at(join("joiner", surfacePath)));
}, 60_000);
