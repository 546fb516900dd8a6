/** Lane profiles damaged at random: refused by class, never a crash and never an internal error. */
import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { appleLane } from "../contract.ts";
import { laneProfilePath } from "../layout.ts";
import { LaneScene } from "../testing/lane_scene.ts";
import { builtInProfile } from "./profile.ts";

const hostile = [
  ...["0", "-1", "1", "2", "3", "1e9", "1e308", "NaN", "", " ", "0x10", "1.5", "4294967296", "true", "../x"],
  ...["adam_w", "muon", "gpt2", "gpt_oss", "docs_oss_13m", "tokens:", "tokens:/etc/passwd", "\u0000", "é"],
];
const structures = [null, 0, -1, 1.5, 2 ** 53, [], {}, "x", [[]], [{ name: "width" }], true];

test("a few hundred damages", () => {
  using scene = new LaneScene(appleLane);
  mkdirSync(join(scene.root, "manifests"), { recursive: true });
  let state = 1;
  const below = (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
  const classes = new Map<string, number>();
  for (let i = 0; i < 300; i++) {
    const { profile_digest: _, ...profile } = structuredClone(builtInProfile(appleLane)!);
    const settings = [...profile.model.settings, ...profile.optimizer.settings];
    const damages = 1 + below(2);
    let damaged: Record<string, unknown> = profile;
    for (let d = 0; d < damages; d++) {
      const kind = below(5);
      if (kind < 3) pick(settings).value = pick(hostile);
      else if (kind === 3) pick(settings).name = pick(["width", "momentum", "schedule", "adapter_rank", ""]);
      else damaged = { ...damaged, [pick(Object.keys(profile))]: pick(structures) };
    }
    let text = JSON.stringify(damaged);
    if (below(10) === 0) text = text.slice(0, below(text.length));
    writeFileSync(join(scene.root, laneProfilePath), text);
    const { refusal_class, detail } = scene.do("start", { dry_run: true });
    const found = refusal_class ?? "succeeded";
    classes.set(found, (classes.get(found) ?? 0) + 1);
    const allowed = ["bad_config", "unsupported_topology", "artifact_digest_mismatch", "artifact_incomplete"];
    if (refusal_class !== null && !allowed.includes(refusal_class))
      throw new Error(`case ${i}: ${refusal_class}: ${detail}\n${text}`);
  }
  expect(classes.get("bad_config")).toBeGreaterThan(150);
  expect(classes.get("succeeded")).toBeGreaterThan(5);
}, 60_000);
