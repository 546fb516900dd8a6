/**
 * More scenarios of the contract as processes: checkpoints and contributions that a resolver brought, membership over time,
 * stages that do not fit together. Byte by byte against fixtures/golden/machine; `PSIONIC_BINARY` names an executable to try.
 */
import { expect, test } from "bun:test";
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { appleLane } from "./contract.ts";
import type { Example } from "./examples.ts";
import { resolvedObjectPath } from "./handoff_fetch.ts";
import { handoffPath, membershipPath, pointerPath, resolvedFolder } from "./layout.ts";
import { type StageAssignment, stageDigest } from "./manifest.ts";
import { resolvedKey } from "./names.ts";
import { compared, normalised, Scenario } from "./testing/scenario.ts";
import { bound } from "./testing/scene.ts";

const small = { work_class: "small_model_local_training", coordination: bound };
const grouped = { work_class: "grouped_replica_stage_execution", coordination: bound };
const record = {
  ...{ checkpoint_label: "window-0001-final", optimizer_step: 8 },
  checkpoint_ref: "checkpoint://example/window-0001/final",
};
const peer = { ...bound, window_id: "window-0002", node_pubkey: "npub1-node-b" };

function same(name: string, scenario: Scenario): void {
  const { found, expected } = compared(name, scenario.text());
  expect(found).toBe(expected);
}

/** The files alone, where the packets say nothing new. */
function sameFiles(name: string, scenario: Scenario, ...paths: readonly string[]): void {
  const text = paths
    .map((path) => `--- ${path}\n${readFileSync(join(scenario.folder, path), "utf8")}\n`)
    .join("");
  const { found, expected } = compared(name, normalised(text, scenario.folder));
  expect(found).toBe(expected);
}

/** As a resolver leaves an artifact: under its id, in the cache of a run root. */
function resolved(scenario: Scenario, root: string, id: string, from: string, ending = ".json"): void {
  const folder = join(scenario.folder, root, resolvedFolder);
  mkdirSync(folder, { recursive: true });
  cpSync(from, join(folder, `${resolvedKey(id)}${ending}`));
}

function stage(index: number, changes: Partial<StageAssignment> = {}): StageAssignment {
  const assignment: StageAssignment = {
    ...{ replica_id: "replica-01", stage_id: `stage-0${index + 1}`, stage_index: index, stage_count: 2 },
    stage_role: index === 0 ? "ingress" : "egress",
    upstream_stage_id: index === 0 ? null : "stage-01",
    downstream_stage_id: index === 0 ? "stage-02" : null,
    ...{ assignment_digest: "", ...changes },
  };
  return { ...assignment, assignment_digest: stageDigest(assignment) };
}

const scenarios: Readonly<Record<string, () => Promise<void>>> = {
  joined_by_ids: async () => {
    using scenario = new Scenario(appleLane.id);
    await scenario.process("start", small);
    await scenario.process("record_checkpoint", { ...small, ...record });
    await scenario.process("serve_checkpoint", { ...small, peer_node_pubkey: "npub1-node-b" });
    const receipt = scenario.json(join("run", handoffPath));
    const at = (path: string) => join(scenario.folder, "run", path);
    // ids alone, and what they name in the cache
    const artifact_ref = { artifact_id: "artifact://handoff/receipt@v1" };
    resolved(scenario, "joiner", artifact_ref.artifact_id, at(handoffPath));
    for (const name of ["source_checkpoint_pointer", "source_checkpoint_manifest"]) {
      const { artifact_ref: ref, materialized_path } = receipt[name] as {
        artifact_ref: { artifact_id: string };
        materialized_path: string;
      };
      resolved(scenario, "joiner", ref.artifact_id, at(materialized_path));
    }
    const object = resolvedObjectPath(String(receipt.checkpoint_object_digest));
    cpSync(at("checkpoints/step-8/state.safetensors"), join(scenario.folder, "joiner", object));
    renameSync(join(scenario.folder, "run"), join(scenario.folder, "elsewhere"));
    const asked = { work_class: small.work_class, coordination: peer, run_id: "joiner" };
    const joined = await scenario.process(
      ...(["resume", { ...asked, peer_checkpoint_handoff_receipt: { artifact_ref } }, "joiner"] as const),
    );
    expect([joined.exitCode, joined.packet.detail]).toEqual([
      0,
      expect.stringContaining("Took steps 9 to 16"),
    ]);
    const nowhere = { artifact_ref: { artifact_id: "artifact://handoff/other@v1" } };
    const missing = await scenario.process(
      ...(["resume", { ...asked, peer_checkpoint_handoff_receipt: nowhere }, "other"] as const),
    );
    expect([missing.exitCode, missing.packet.detail]).toEqual([
      15,
      expect.stringContaining("artifacts/resolved"),
    ]);
    sameFiles(
      "joined_by_ids",
      scenario,
      join("joiner", pointerPath),
      "joiner/status/checkpoint_surface.json",
    );
  },

  replayed_from_cache: async () => {
    using scenario = new Scenario(appleLane.id);
    await scenario.process("start", small);
    await scenario.process("record_checkpoint", { ...small, ...record });
    const target = scenario.target();
    const bindings = Object.values(target) as {
      artifact_ref: { artifact_id: string };
      materialized_path: string;
    }[];
    for (const { artifact_ref, materialized_path } of bindings)
      resolved(scenario, "validator", artifact_ref.artifact_id, materialized_path);
    const list = JSON.parse(readFileSync(bindings[1]!.materialized_path, "utf8")) as { artifacts: Example[] };
    for (const { binding } of list.artifacts) {
      const { artifact_ref, materialized_path } = binding as (typeof bindings)[number];
      const from = join(scenario.folder, "run", materialized_path);
      resolved(scenario, "validator", artifact_ref.artifact_id, from, from.endsWith("json") ? ".json" : "");
    }
    rmSync(join(scenario.folder, "run"), { recursive: true });
    const ask = (work: string) =>
      scenario.process(
        "validate_contribution",
        {
          ...{ ...target, run_id: "validator", validator_target_work_class: work },
          coordination: { ...bound, challenge_id: "challenge-0001", node_pubkey: "npub1-validator" },
        },
        "validator",
      );
    const judged = await ask("small_model_local_training");
    expect([judged.exitCode, judged.packet.detail]).toEqual([
      0,
      expect.stringContaining("accepted with 10000"),
    ]);
    const folder = "validator/windows/window-0001/validators/challenge-3bfca866453bdb1c8df958a614b52913";
    const names = ["score_receipt", "quality_drift_signal", "rollback_signal"];
    sameFiles("replayed_from_cache", scenario, ...names.map((name) => `${folder}/validator_${name}.json`));
    expect((await ask("adapter_training")).exitCode).toBe(18);
    expect((await ask("aggregation")).exitCode).toBe(10);
  },

  membership: async () => {
    using scenario = new Scenario(appleLane.id);
    const transitions: unknown[] = [];
    const heard = async (changes: Example = {}): Promise<void> => {
      await scenario.process("backup", { ...small, ...changes });
      const { transition, worker_state, previous_liveness_state } = scenario.json(
        join("run", membershipPath),
      );
      transitions.push([transition, worker_state, previous_liveness_state]);
    };
    /** As if the last word had come so much earlier; the digest is the supervisor's to check. */
    const earlier = (ms: number): void => {
      const path = join(scenario.folder, "run", membershipPath);
      const text = readFileSync(path, "utf8");
      writeFileSync(
        path,
        text.replace(/("last_heartbeat_at_ms": )(\d+)/, (_, key, at) => `${key}${Number(at) - ms}`),
      );
    };
    await heard();
    await heard();
    earlier(30_000);
    await heard();
    await heard({ admission_identity: { release_id: "x", build_digest: "x", environment_ref: "x" } });
    await heard();
    await heard({ coordination: { ...bound, node_pubkey: "npub1-node-b" } });
    expect(transitions).toEqual([
      ["join", "draining", undefined],
      ["heartbeat", "draining", "fresh"],
      ["rejoin", "draining", "expired"],
      ["fail", "failed", "fresh"],
      ["rejoin", "draining", "fresh"],
      ["replace", "draining", "fresh"],
    ]);
    const revisions = join(scenario.folder, "run/status/membership_revisions");
    expect(readdirSync(revisions).sort()).toEqual([1, 2, 3, 4, 5, 6].map((n) => `revision-00000${n}.json`));
    sameFiles(
      "membership",
      scenario,
      ...[4, 6].map((n) => `run/status/membership_revisions/revision-00000${n}.json`),
    );
  },

  stages_refused: async () => {
    using scenario = new Scenario(appleLane.id);
    const start = (changes: Example) => scenario.process("start", { ...grouped, ...changes });
    const input = {
      artifact_ref: { artifact_id: "psionic.train.artifact.grouped_stage_input_transport.example" },
      materialized_path: "nothing.json",
    };
    const ingress = { grouped_stage_assignment: stage(0), grouped_stage_input_transport: input };
    expect((await start(ingress)).exitCode).toBe(10);
    const egress = { grouped_stage_assignment: stage(1), grouped_stage_input_transport: null };
    expect((await start(egress)).exitCode).toBe(10);
    expect((await start({ ...egress, grouped_stage_input_transport: input })).exitCode).toBe(17);
    const role = { grouped_stage_assignment: stage(0, { stage_role: "egress" }) };
    expect((await start({ ...role, grouped_stage_input_transport: null })).exitCode).toBe(14);
    const none = { grouped_stage_assignment: null, grouped_stage_input_transport: null };
    expect((await start(none)).exitCode).toBe(14);
    same("stages_refused", scenario);
  },
};

for (const [name, scenario] of Object.entries(scenarios)) test.concurrent(name, scenario, 60_000);

test("a stage that resumes as another one is stale", async () => {
  using scenario = new Scenario(appleLane.id);
  const asked = { ...grouped, grouped_stage_assignment: stage(0), grouped_stage_input_transport: null };
  // an accepted checkpoint of a stage, without the steps of the stage
  await scenario.process("start", small);
  const recorded = await scenario.process("record_checkpoint", { ...asked, ...record });
  expect(recorded.exitCode).toBe(0);
  const surface = scenario.json("run/status/checkpoint_surface.json");
  expect(surface.grouped_stage_assignment).toEqual(stage(0));
  const resumed = await scenario.process("resume", asked);
  expect(resumed.exitCode).toBe(0);
  expect(scenario.json("run/checkpoints/grouped_stage_recovery_receipt.json")).toMatchObject({
    ...{ recovery_source_kind: "retained_checkpoint", restored_primary_pointer: false },
  });
  const other = await scenario.process("resume", { ...asked, grouped_stage_assignment: stage(1) });
  expect(other.exitCode).toBe(11);
  sameFiles("stage_of_another", scenario, "run/status/psionic_train_window_status_packet.json");
}, 60_000);
