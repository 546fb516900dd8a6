/** Whole invocations: packets, classes, what is left in the run root. */
import { describe, expect, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { parseExactJson } from "../core/json_reader.ts";
import { lockRun } from "../train/run_root.ts";
import { refusals } from "./contract.ts";
import { verified } from "./documents.ts";
import { egressStage } from "./examples.ts";
import { fuzzManifests } from "./fuzz.ts";
import { invoke } from "./invoke.ts";
import { stageDigest } from "./manifest.ts";
import { bound, Scene } from "./testing/scene.ts";
import { artifactManifest, contributionReceipt, sealedWindowBundle } from "./window.ts";

const main = join(import.meta.dir, "..", "main.ts");

async function subprocess(scene: Scene, words: readonly string[]) {
  const child = Bun.spawn([process.execPath, main, "train", "manifest", ...words], {
    env: { ...process.env, ...scene.environment() },
    ...({ stdout: "pipe", stderr: "pipe" } as const),
  });
  const [stdout, stderr] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { stdout, stderr, code: await child.exited };
}

describe("the process", () => {
  test("success on stdout, refusal on stderr, nothing else on either; the exit code is the packet's", async () => {
    using scene = new Scene();
    const good = await subprocess(scene, scene.write(scene.manifest("start", { dry_run: true })));
    expect([good.code, good.stderr]).toEqual([0, ""]);
    expect(JSON.parse(good.stdout)).toMatchObject({
      outcome: "succeeded",
      exit_code: 0,
      refusal_class: null,
    });
    expect(good.stdout).toBe(`${JSON.stringify(JSON.parse(good.stdout), null, 2)}\n`);
    const bad = await subprocess(scene, scene.write(scene.manifest("start", { lane_id: "other" })));
    expect([bad.code, bad.stdout]).toEqual([13, ""]);
    expect(JSON.parse(bad.stderr)).toMatchObject({ exit_code: 13, refusal_class: "unsupported_topology" });
  });

  test("exactly two words", async () => {
    using scene = new Scene();
    const path = scene.manifestPath;
    for (const words of [
      [],
      ["--manifest"],
      ["--manifest", path, "--json"],
      [path],
      ["--manifest", ""],
      ["-m", path],
    ])
      expect(invoke(words, { environment: scene.environment() }).refusal_class).toBe("bad_config");
    const { code, stdout, stderr } = await subprocess(scene, ["--manifest", path, "--json"]);
    expect([code, stdout]).toEqual([10, ""]);
    // packets from before a manifest was read carry defaults
    expect(JSON.parse(stderr)).toMatchObject({
      ...{ lane_id: "psion_actual_pretraining_v1", role: "worker", operation: "start" },
      ...{ work_class: "full_island_local_update_training", manifest_path: null, run_root: null },
      coordination: { node_pubkey: null },
    });
  });

  test("retry and owner of every class", () => {
    const bits = Object.values(refusals).map((r) => `${r.exitCode}${r.retryable ? "r" : ""}${r.owner[0]}`);
    expect(bits.join(" ")).toBe("10p 11rn 12rn 13p 14p 15rp 16p 17rp 18p 19rn 20rn 21p 22p 70p");
  });
});

describe("refusals leave nothing before the run root is reached", () => {
  const identity = (scene: Scene, field: string, value: string) => ({
    admission_identity: { ...(scene.manifest("start").admission_identity as object), [field]: value },
  });
  const stage = { ...egressStage, downstream_stage_id: null };
  const grouped = (changes: object) => {
    const changed = { ...stage, ...changes };
    return {
      grouped_stage_assignment: { ...changed, assignment_digest: stageDigest(changed as typeof stage) },
    };
  };
  const cases: Readonly<Record<string, readonly [string, object, string]>> = {
    "an edited digest": ["start", { manifest_digest: "0".repeat(64) }, "artifact_digest_mismatch"],
    "another surface": ["start", { runtime_surface_id: "x" }, "bad_config"],
    "an unknown lane": ["start", { lane_id: "psion_actual_pretraining_v2" }, "unsupported_topology"],
    "a blank lane": ["start", { lane_id: " " }, "bad_config"],
    "a validator's class for a worker": ["start", { work_class: "validation_replay" }, "bad_config"],
    "a blank window": ["start", { coordination: { ...bound, window_id: " " } }, "bad_config"],
    "a window that is a way out": ["start", { coordination: { ...bound, window_id: ".." } }, "bad_config"],
    "no node": ["start", { coordination: {} }, "bad_config"],
    "a run root at a launch": ["start", { run_root: "/tmp/x" }, "bad_config"],
    "no output root": ["start", { output_root: null }, "bad_config"],
    "a role that does not start": ["start", { role: "recovery_source" }, "bad_config"],
    "no step": ["record_checkpoint", { optimizer_step: null }, "bad_config"],
    "a peer where none is": ["backup", { peer_node_pubkey: "npub1" }, "bad_config"],
    "no peer to serve": ["serve_checkpoint", { peer_node_pubkey: null }, "bad_config"],
    "a target that is not validated": [
      "validate_contribution",
      { validator_target_work_class: "evaluation" },
      "bad_config",
    ],
    "no challenge": ["validate_contribution", { coordination: bound }, "bad_config"],
    "grouped work without a stage": [
      ...(["start", { work_class: "grouped_replica_stage_execution" }] as const),
      "grouped_stage_assignment_invalid",
    ],
    "ingress with input": [
      "grouped_start",
      grouped({ stage_index: 0, stage_role: "ingress", upstream_stage_id: null, downstream_stage_id: "s" }),
      "bad_config",
    ],
    "non-ingress without input": ["grouped_start", { grouped_stage_input_transport: null }, "bad_config"],
    "a role that is not the index's": [
      "grouped_start",
      grouped({ stage_role: "ingress" }),
      "grouped_stage_assignment_invalid",
    ],
    "another ref": ["start", { selected_git_ref: "HEAD" }, "bad_config"],
    "a dirty tree": ["start", { allow_dirty_tree: true }, "bad_config"],
  };
  for (const [name, [example, changes, refusalClass]] of Object.entries(cases)) {
    test(name, () => {
      using scene = new Scene();
      const packet = scene.run(example, changes as Record<string, unknown>);
      expect([packet.refusal_class as string | null, packet.detail]).toEqual([refusalClass, packet.detail]);
      expect(packet.run_status_packet_path).toBeNull();
      expect(readdirSync(scene.folder).sort()).toEqual(["manifest.json", "packaged"]);
    });
  }

  test("another build, another environment: refused with surfaces", () => {
    using scene = new Scene();
    const compare = {
      build_digest: "build_revoked",
      environment_ref: "environment_mismatch",
      release_id: "build_revoked",
    };
    for (const [field, refusalClass] of Object.entries(compare)) {
      const packet = scene.run("start", { ...identity(scene, field, "other"), coordination: bound });
      expect(packet.refusal_class as string).toBe(refusalClass);
      expect(packet.runtime_attestation?.git_commit_sha).toStartWith("1111");
      expect(scene.read("status/psionic_train_run_status_packet.json").exit_code).toBe(packet.exit_code);
      expect(existsSync(join(scene.root, "status/membership_revision_receipt.json"))).toBe(false);
      const [id] = readdirSync(join(scene.root, "windows/window-0001/contributions"));
      const receipt = scene.read(`windows/window-0001/contributions/${id}/contribution_receipt.json`);
      expect(receipt).toMatchObject({ outcome: "refused", operation: "start", refusal_class: refusalClass });
    }
  });
});

describe("the demo lane", () => {
  test("trains, and its evidence verifies after a move", () => {
    using scene = new Scene();
    const packet = scene.run("start", { coordination: bound });
    expect(packet).toMatchObject({ outcome: "succeeded", run_id: "run-0001", run_root: scene.root });
    const status = scene.read("status/current_run_status.json");
    expect(status).toMatchObject({ phase: "completed", last_completed_step: 4 });
    const text = readFileSync(join(scene.root, "status/current_run_status.json"), "utf8");
    expect(text).toContain('"initial_loss": 5.5616503,');
    const summary = JSON.parse(readFileSync(join(scene.root, "status/retained_summary.json"), "utf8"));
    // later losses depend on the order in which a platform sums
    for (const [i, loss] of [5.6156654, 5.0804863, 5.202415, 5.472208].entries())
      expect(Math.abs(summary.steps[i].loss_after - loss)).toBeLessThan(0.02);
    expect(summary.final_loss).toBeLessThan(summary.initial_loss);
    const surface = scene.read("status/checkpoint_surface.json");
    expect(surface).toMatchObject({
      pointer_state: "accepted",
      optimizer_step: 4,
      upload_outcome: "succeeded",
    });
    expect(existsSync(join(scene.root, "closeout/closeout_bundle.json"))).toBe(true);

    const moved = join(scene.folder, "moved");
    cpSync(scene.root, moved, { recursive: true });
    const json = (path: string) => parseExactJson(readFileSync(join(moved, path), "utf8"), path);
    const bundle = verified(
      sealedWindowBundle,
      json("windows/window-0001/sealed_window_bundle.json"),
      "bundle",
    );
    const receipt = verified(
      contributionReceipt,
      json(bundle.contributions[0]!.contribution_receipt_path),
      "receipt",
    );
    const listed = verified(
      artifactManifest,
      json(receipt.artifact_manifest.materialized_path ?? ""),
      "manifest",
    );
    expect(listed.artifacts.map((a) => a.artifact_kind)).toContain("execution_evidence");
    for (const { artifact_kind, binding } of listed.artifacts) {
      const bytes = readFileSync(join(moved, binding.materialized_path ?? ""));
      expect([artifact_kind, sha256(bytes)]).toEqual([
        artifact_kind,
        binding.artifact_ref.artifact_digest ?? "",
      ]);
    }
  });

  test("a dry run plans and succeeds", () => {
    using scene = new Scene();
    expect(scene.run("start", { dry_run: true }).outcome).toBe("succeeded");
    expect(scene.read("status/current_run_status.json").phase).toBe("dry_run_planned");
    expect(existsSync(join(scene.root, "checkpoints"))).toBe(false);
  });

  test("the same node, 30 seconds later, after a refusal; another node", () => {
    using scene = new Scene();
    const transition = (): unknown => scene.read("status/membership_revision_receipt.json").transition;
    const plan = (changes: Record<string, unknown> = {}) => scene.run("start", { dry_run: true, ...changes });
    const other = { coordination: { node_pubkey: "npub1-node-b" } };
    const seen: unknown[] = [];
    const step = (after: number, go: () => unknown): void => {
      scene.now += after;
      go();
      seen.push(transition());
    };
    const refused = { admission_identity: { release_id: "x", build_digest: "x", environment_ref: "x" } };
    step(0, plan);
    step(29_999, plan);
    step(30_000, plan);
    step(1, () => plan(refused));
    step(1, plan);
    step(1, () => plan(other));
    expect(seen).toEqual(["join", "heartbeat", "rejoin", "fail", "rejoin", "replace"]);
    expect(readdirSync(join(scene.root, "status/membership_revisions")).length).toBe(6);
    expect(scene.read("status/membership_revision_receipt.json")).toMatchObject({
      ...{
        local_membership_revision: 6,
        previous_worker_state: "replaced",
        replaced_node_pubkey: "npub1-node-a",
      },
    });
  });

  test("served to a peer; without a checkpoint there is nothing to serve or resume", () => {
    using scene = new Scene();
    expect(scene.run("serve_checkpoint").refusal_class).toBe("checkpoint_missing");
    expect(scene.run("resume", { peer_checkpoint_handoff_receipt: null }).refusal_class).toBe(
      "checkpoint_missing",
    );
    expect(scene.run("start").outcome).toBe("succeeded");
    expect(scene.run("serve_checkpoint").outcome).toBe("succeeded");
    const receipt = scene.read("status/peer_checkpoint_handoff_receipt.json");
    expect(receipt).toMatchObject({ source_kind: "live_primary_pointer", restored_from_backup: false });
    expect(scene.read("status/membership_revision_receipt.json").worker_state).toBe("draining");
    const path = join(scene.root, "checkpoints/manifests/checkpoint_manifest_step-000004.json");
    writeFileSync(path, readFileSync(path, "utf8").replace('"optimizer_step": 4', '"optimizer_step": 5'));
    const packet = scene.run("serve_checkpoint");
    // the surfaces contradict themselves as well, so there are none
    expect([packet.refusal_class, packet.run_status_packet_path]).toEqual([
      "checkpoint_digest_mismatch",
      null,
    ]);
  });

  test("what cannot be done here is refused by what is missing", () => {
    using scene = new Scene();
    if (process.platform !== "darwin") {
      const elsewhere = scene.run("record_checkpoint");
      expect(elsewhere.refusal_class).toBe("unsupported_topology");
      expect(elsewhere.detail).toContain("PSIONIC_APPLE_LANE_BACKEND");
    }
    for (const name of ["backup", "decide_continue_restart"])
      expect([name, scene.run(name).refusal_class]).toEqual([name, "checkpoint_missing"]);
    expect(scene.run("rehearse_base_lane").refusal_class).toBe("bad_config");
  });
});

describe("the run root", () => {
  test("another process at work: to be tried again, nothing written", () => {
    using scene = new Scene();
    mkdirSync(scene.root);
    const lock = lockRun(scene.root);
    const packet = scene.run("start");
    expect([packet.refusal_class, packet.retryable]).toEqual(["artifact_incomplete", true]);
    expect(readdirSync(scene.root)).toEqual(["run.lock"]);
    lock[Symbol.dispose]();
    mkdirSync(join(scene.root, "run.lock"));
    writeFileSync(join(scene.root, "run.lock", "999999999-1-0123456789ab"), "");
    expect(scene.run("start", { dry_run: true }).outcome).toBe("succeeded");
    expect(readdirSync(scene.root)).not.toContain("run.lock");
  });

  test("a link that leads out is not followed", () => {
    using scene = new Scene();
    const outside = join(scene.folder, "outside");
    mkdirSync(outside);
    mkdirSync(scene.root);
    symlinkSync(outside, join(scene.root, "status"));
    symlinkSync(outside, join(scene.root, "manifests"));
    expect(scene.run("start", { dry_run: true }).refusal_class).toBe("bad_config");
    expect(readdirSync(outside)).toEqual([]);
  });
});

test("damaged manifests: the class that the damage calls for, nothing outside of the run root", () => {
  const { cases, classes } = fuzzManifests(7, { count: 800 });
  expect(cases).toBe(800);
  expect(classes.internal_error).toBeUndefined();
  for (const name of [
    "bad_config",
    "artifact_digest_mismatch",
    "grouped_stage_assignment_invalid",
    "build_revoked",
  ])
    expect(classes[name]).toBeGreaterThan(0);
}, 30_000);
