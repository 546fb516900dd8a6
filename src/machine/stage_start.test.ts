/** What a stage asks before it begins a window. */
import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { orderedJson } from "../core/json.ts";
import { appleLane } from "./contract.ts";
import { sealed } from "./documents.ts";
import { laneProfile } from "./evidence.ts";
import { builtInProfile } from "./lanes/profile.ts";
import { laneProfilePath, recoveryPath } from "./layout.ts";
import { StagedScene } from "./testing/stages.ts";

const record = (step: number) => ({
  ...{ checkpoint_label: `step-${step}`, optimizer_step: step },
  checkpoint_ref: `checkpoint://staged/${step}`,
});

test("a recovery receipt of another checkpoint than the pointer's: refused, not begun from the seed", async () => {
  using scene = new StagedScene(2);
  await scene.runAll();
  expect((await scene.spawn(0, "record_checkpoint", record(8)).ended).code).toBe(0);
  expect((await scene.spawn(0, "resume").ended).code).toBe(0);
  const path = join(scene.rootOf(0), recoveryPath);
  const receipt = readFileSync(path);
  expect((await scene.spawn(0, "record_checkpoint", record(6)).ended).code).toBe(0);
  writeFileSync(path, receipt);
  const { packet } = await scene.spawn(0).ended;
  expect([packet.refusal_class, packet.detail]).toEqual([
    "checkpoint_digest_mismatch",
    expect.stringContaining("the pointer names step 6"),
  ]);
}, 60_000);

test("a stage that is larger than this machine's memory: refused before anything is allocated", async () => {
  using scene = new StagedScene(2);
  const own = builtInProfile(appleLane)!;
  const large: Readonly<Record<string, string>> = { width: "65536", feed_forward: "1048576" };
  const settings = own.model.settings.map((s) => ({ ...s, value: large[s.name] ?? s.value }));
  mkdirSync(join(scene.rootOf(0), "manifests"), { recursive: true });
  const profile = sealed(laneProfile, { ...own, model: { ...own.model, settings } });
  writeFileSync(join(scene.rootOf(0), laneProfilePath), orderedJson(profile, 2));
  const { packet } = await scene.spawn(0).ended;
  expect([packet.refusal_class, packet.detail]).toEqual([
    "unsupported_topology",
    expect.stringContaining("bytes of memory"),
  ]);
}, 60_000);
