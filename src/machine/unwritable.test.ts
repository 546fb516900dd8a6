/** Places that cannot be written, links that lead out, files of absurd sizes: a typed refusal, and nothing outside the run root. */
import { expect, test } from "bun:test";
import { mkdirSync, readdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unexpected } from "../core/error.ts";
import { appleLane } from "./contract.ts";
import { Bench } from "./testing/bench.ts";
import { LaneScene } from "./testing/lane_scene.ts";
import { artifactPath } from "./testing/reseal.ts";
import { bound, Scene } from "./testing/scene.ts";
import { failedWrite, refuseRoot } from "./unwritable.ts";

test("a root that no folder can be is bad_config, one that cannot be written now is to be tried again", () => {
  using scene = new Scene();
  const file = join(scene.folder, "file");
  writeFileSync(file, "");
  symlinkSync(join(scene.folder, "nowhere"), join(scene.folder, "link"));
  for (const root of [
    file,
    join(file, "run"),
    join(scene.folder, "x".repeat(300)),
    join(scene.folder, "link"),
  ]) {
    const { refusal_class, detail } = scene.run("start", { output_root: root });
    expect([root, refusal_class]).toEqual([root, "bad_config"]);
    expect(detail).toContain("expected a folder that can be made and written to, got E");
  }
  const full = Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
  const wrapped = unexpected("io_failed", "x", "a file that can be written", "ENOSPC", { cause: full });
  for (const cause of [full, wrapped]) expect(failedWrite(cause)).toBe("artifact_incomplete");
  expect(failedWrite(new Error("x"))).toBeUndefined();
  expect(() => refuseRoot("run", Object.assign(new Error(), { code: "EROFS" }))).toThrow("got EROFS");
  expect(() => refuseRoot("run", new Error("something else"))).toThrow("something else");
}, 30_000);

test.each(["status", "windows", "checkpoints", "logs", "manifests", "evidence"])(
  "a link in the place of %s carries nothing out of the root, no folder either",
  (name) => {
    using scene = new Scene();
    const outside = join(scene.folder, "outside");
    for (const folder of [outside, scene.root]) mkdirSync(folder);
    symlinkSync(outside, join(scene.root, name));
    const { refusal_class, detail } = scene.run("start", { coordination: bound });
    expect(refusal_class).toBe("bad_config");
    expect(detail).toContain("a place below the run root");
    expect(readdirSync(outside)).toEqual([]);
  },
  30_000,
);

test("a lock that is a file or a link is called so", () => {
  using scene = new Scene();
  mkdirSync(scene.root);
  writeFileSync(join(scene.root, "run.lock"), "");
  const { refusal_class, detail } = scene.run("start");
  expect([refusal_class, detail]).toEqual([
    "artifact_incomplete",
    expect.stringContaining("a folder of claims"),
  ]);
});

test("a file of another size is not read to its end, on a worker nor on a validator", () => {
  using scene = new LaneScene(appleLane);
  scene.do("start");
  scene.do("record_checkpoint");
  const state = join(scene.root, "checkpoints/step-8/state.safetensors");
  truncateSync(state, 2 ** 40);
  const resumed = scene.do("resume", { coordination: { ...bound, window_id: "window-0002" } });
  expect([resumed.refusal_class, resumed.detail]).toEqual([
    "checkpoint_digest_mismatch",
    expect.stringContaining(`got ${2 ** 40} bytes`),
  ]);
  rmSync(state);
  mkdirSync(state);
  expect(scene.do("resume").refusal_class).toBe("checkpoint_digest_mismatch");
  using bench = new Bench();
  const folder = bench.copied(bench.contribute("apple"));
  truncateSync(artifactPath(folder, "retained_state_step_000004"), 2 ** 40);
  expect(bench.validate(folder).refusal_class).toBe("artifact_digest_mismatch");
}, 30_000);
