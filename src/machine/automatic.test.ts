/** Automatic execution: what is foretold of a request is what carrying it out leaves. */
import { expect, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { orderedJson } from "../core/json.ts";
import { actualRequest, demoRequest, manifestOf, outputsOf } from "./automatic.ts";
import { actualLane, demoLane } from "./contract.ts";
import { type Content, sealed } from "./documents.ts";
import { buildDigest } from "./identity.ts";
import { invoke } from "./invoke.ts";
import { bound, Scene, source } from "./testing/scene.ts";

type Request = Content<typeof actualRequest>;
const coordination = { ...bound, challenge_id: null, membership_revision: null };

function request(scene: Scene, changes: Partial<Request>): Request {
  return sealed(actualRequest, {
    ...{ role: "worker", operation: "start", coordination, build_digest: buildDigest(actualLane, source) },
    ...{ run_id: "run", output_root: null, run_root: scene.root, selected_git_ref: "packaged-runtime" },
    ...{ hardware_observation_path: null, run_shape_observation_path: null, peer_node_pubkey: null },
    ...{ peer_checkpoint_handoff_receipt: null, checkpoint_label: null, optimizer_step: null },
    ...{ checkpoint_ref: null, checkpoint_object_digest: null, checkpoint_total_bytes: null },
    ...{ allow_dirty_tree: false, dry_run: false },
    ...{ inject_failed_upload: false, inject_eval_worker_unavailable: false },
    ...changes,
  });
}

function carriedOut(scene: Scene, asked: Parameters<typeof manifestOf>[0]) {
  writeFileSync(scene.manifestPath, orderedJson(manifestOf(asked), 2));
  const environment = scene.environment({ PSIONIC_ACTUAL_LANE_BACKEND: "cpu" });
  return invoke(["--manifest", scene.manifestPath], { environment, clock: () => scene.now });
}

/** Every path that was foretold is there, and is the one that the run packet tells. */
function checkForetold(scene: Scene, asked: Parameters<typeof outputsOf>[0]): void {
  const foretold = outputsOf(asked);
  const { artifacts, ...paths } = foretold;
  for (const [name, path] of Object.entries({ ...paths, ...artifacts })) {
    if (!name.endsWith("_path") || path === null) continue;
    expect([name, existsSync(String(path))]).toEqual([name, true]);
  }
  const told = scene.read(`status/${basename(foretold.run_status_packet_path)}`).artifacts as object;
  const foretoldPaths = Object.entries(artifacts).filter(([, path]) => path !== null);
  expect(told).toMatchObject(Object.fromEntries(foretoldPaths));
}

test("the actual lane: start, record, backup, resume", () => {
  using scene = new Scene();
  const record: Partial<Request> = {
    ...{ operation: "record_checkpoint", checkpoint_label: "first", optimizer_step: 8 },
    checkpoint_ref: "checkpoint://automatic/first",
  };
  const requests: readonly Partial<Request>[] = [
    { output_root: scene.root, run_root: null },
    record,
    { operation: "backup" },
    { role: "recovery_source", operation: "resume" },
    { role: "recovery_source", operation: "serve_checkpoint", peer_node_pubkey: "npub1-node-b" },
  ];
  for (const changes of requests) {
    const asked = request(scene, changes);
    const packet = carriedOut(scene, asked);
    expect([asked.operation, packet.outcome]).toEqual([asked.operation, "succeeded"]);
    checkForetold(scene, asked);
  }
}, 30_000);

test("the demo lane, and what is not composed", () => {
  using scene = new Scene();
  const asked = sealed(demoRequest, {
    ...{ role: "worker", operation: "start", coordination, build_digest: buildDigest(demoLane, source) },
    ...{ run_id: "run", output_root: join(scene.root), run_root: null, dry_run: false },
    ...{ selected_git_ref: "packaged-runtime", allow_dirty_tree: false },
  });
  expect(carriedOut(scene, asked).outcome).toBe("succeeded");
  checkForetold(scene, asked);
  expect(() => manifestOf(request(scene, { operation: "validate_contribution" }))).toThrow(
    "does not compose",
  );
  expect(() => manifestOf(request(scene, { operation: "backup", run_root: null }))).toThrow("run_root");
  expect(() => manifestOf(request(scene, { operation: "resume" }))).toThrow("recovery_source");
});
