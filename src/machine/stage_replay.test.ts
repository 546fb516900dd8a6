/** Contributions of grouped stages judged: what a stage made of what it was given comes out again, or does not. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { orderedJson } from "../core/json.ts";
import { validationPacket } from "./cli/validate.ts";
import { invoke } from "./invoke.ts";
import { reexecutionName, validatorFolder } from "./layout.ts";
import { readOutcomeProof, writeOutcomeProof } from "./outcome_proof.ts";
import { ofWindows } from "./testing/paper_tamperings.ts";
import { artifactPath, type Edits, forge, type Json, resealed } from "./testing/reseal.ts";
import { StagedScene } from "./testing/stages.ts";

const scene = new StagedScene(2);
afterAll(() => scene[Symbol.dispose]());

beforeAll(async () => {
  const ends = await scene.runAll();
  expect(ends.map(({ code }) => code)).toEqual([0, 0]);
  for (const index of [0, 1]) {
    const label = { checkpoint_label: "end", checkpoint_ref: "checkpoint://end", optimizer_step: 8 };
    const words = scene.write(scene.stageManifest(index, "record_checkpoint", label));
    expect(invoke(words, { environment: scene.environment(), clock: () => scene.now }).outcome).toBe(
      "succeeded",
    );
  }
}, 60_000);

const validator = (index: number): string => join(scene.folder, `validator-${index}`);

function validate(index: number, folder: string, challenge = "c") {
  const words = ["--run-root", validator(index), "--contribution", folder, "--challenge-id", challenge];
  return validationPacket(words, { environment: scene.environment(), clock: () => scene.now });
}

function grounds(index: number, name: string): Json {
  const folder = join(validator(index), "windows", "window-0001", "validators");
  return JSON.parse(readFileSync(join(folder, readdirSync(folder)[0] ?? "", name), "utf8")) as Json;
}

test("each stage is accepted, and a proof of that holds, also when it is read again", () => {
  for (const index of [0, 1]) {
    const packet = validate(index, scene.contribution(index));
    expect([packet.outcome, packet.detail]).toEqual([
      "succeeded",
      expect.stringContaining("accepted with 10000 after doing 8 of 8 steps"),
    ]);
    expect(grounds(index, "validator_score_receipt.json")).toMatchObject({
      reason_codes: ["primary_checkpoint_accepted", "grouped_stage_evidence_verified"],
      verified_hooks: expect.arrayContaining(["grouped_stage_integrity", "work_execution_plausibility"]),
      grouped_stage_replay_evidence_digest: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    const status = (root: string) => join(root, "status", "psionic_train_run_status_packet.json");
    const path = join(scene.folder, `proof-${index}.json`);
    const proof = writeOutcomeProof(path, status(scene.rootOf(index)), status(validator(index)));
    expect(proof).toMatchObject({ carrier: { weak_device_bearing: false, backend_family: "cpu" } });
    expect(readOutcomeProof(path)).toEqual(proof);
    expect(proof.cited_artifacts.length).toBe(13);
    expect(proof.cited_artifacts.every(({ artifact_path }) => !artifact_path.startsWith("/"))).toBe(true);
  }
}, 30_000);

describe("two stages before one validator", () => {
  const root = validator(7);
  const recordOf = (challenge: string): string => join(root, validatorFolder("window-0001", challenge));
  const judged = (index: number) => {
    const { detail } = validate(7, scene.contribution(index), `stage-${index}`);
    const grounds = JSON.parse(readFileSync(join(recordOf(`stage-${index}`), reexecutionName), "utf8"));
    const { upstream, downstream, crossings } = grounds.stage;
    return { detail, upstream, downstream, passed: crossings.length, differences: grounds.differences };
  };
  /** As if the first stage had been found to have made, or been given, something else. */
  const rewritten = (kind: string, way: string): void => {
    const path = join(recordOf("stage-0"), reexecutionName);
    const grounds = JSON.parse(readFileSync(path, "utf8"));
    const crossings = grounds.stage.crossings.map((c: Json) =>
      c.kind === kind && c.way === way && c.step === 3 ? { ...c, digest: "1".repeat(64) } : c,
    );
    const edited = { ...grounds, stage: { ...grounds.stage, crossings } };
    writeFileSync(path, orderedJson(resealed(edited), 2));
  };

  test("they did one piece of work, or contradict each other", () => {
    expect(judged(0)).toMatchObject({ upstream: "none", downstream: "unjudged", passed: 24 });
    expect(judged(1)).toMatchObject({ upstream: "agrees", downstream: "none", differences: [] });
    expect(judged(0)).toMatchObject({ downstream: "agrees", differences: [] });
    // what it says it was given is not what was made, and the reverse: one neighbour's word alone
    for (const [kind, way] of [
      ["activation", "made"],
      ["gradient", "given"],
    ] as const) {
      judged(0);
      rewritten(kind, way);
      const doubtful = judged(1);
      expect(doubtful).toMatchObject({ upstream: "contradicts", differences: [] });
      expect(doubtful.detail).toContain("quarantined with 7500");
    }
  }, 30_000);
});

type Forgery = { readonly index: number; readonly found: string; readonly make: (folder: string) => void };

const edited = (edits: Edits) => (folder: string) => forge(folder, edits);
const step = (kind: string, n: number): string => `${kind}_step_${String(n).padStart(6, "0")}`;
const otherStage = (value: Json): Json => ({
  ...value,
  grouped_stage_assignment: { ...(value.grouped_stage_assignment as Json), replica_id: "replica-02" },
});

const forgeries: Readonly<Record<string, Forgery>> = {
  "a forged loss": {
    ...{ index: 1, found: "reexecution_mismatch" },
    make: edited({
      execution_evidence: (e) => ({
        ...e,
        steps: (e.steps as Json[]).map((s, i) => (i === 4 ? { ...s, loss: "5.25" } : s)),
      }),
    }),
  },
  "an activation that was not made": {
    ...{ index: 0, found: "reexecution_mismatch" },
    make: edited({
      [step("grouped_stage_made_activation", 3)]: (doc) => ({ ...doc, content_sha256: "1".repeat(64) }),
    }),
  },
  "a norm that was not agreed": {
    ...{ index: 1, found: "reexecution_mismatch" },
    make: edited({
      [step("grouped_stage_norm_payload", 3)]: (doc) => ({
        ...doc,
        square_sums: (doc.square_sums as string[]).map((s) => String(4 * Number(s))),
      }),
    }),
  },
  "another stage's share of the norm": {
    ...{ index: 0, found: "reexecution_mismatch" },
    make: edited({
      [step("grouped_stage_gradient_payload", 3)]: (doc) => ({ ...doc, square_sums: ["1.5"] }),
    }),
  },
  "a norm that is missing": {
    ...{ index: 1, found: "artifact_incomplete" },
    make: edited({ [step("grouped_stage_norm_payload", 3)]: null }),
  },
  "a gradient of another step": {
    ...{ index: 0, found: "reexecution_mismatch" },
    make(folder) {
      const bytes = (kind: string) => new Uint8Array(readFileSync(artifactPath(folder, kind)));
      forge(folder, {
        [step("grouped_stage_gradient_payload", 2)]: bytes(step("grouped_stage_gradient_payload", 3)),
        [step("grouped_stage_gradient_tensor", 2)]: bytes(step("grouped_stage_gradient_tensor", 3)),
      });
    },
  },
  "a torn tensor": {
    ...{ index: 1, found: "artifact_digest_mismatch" },
    make(folder) {
      const kind = step("grouped_stage_input_tensor", 2);
      forge(folder, { [kind]: new Uint8Array(readFileSync(artifactPath(folder, kind))).subarray(0, 99) });
    },
  },
  "an input that is missing": {
    ...{ index: 1, found: "artifact_incomplete" },
    make: edited({ [step("grouped_stage_input_payload", 2)]: null }),
  },
  "a stage that drifted in the documents": {
    ...{ index: 0, found: "artifact_digest_mismatch" },
    make: (folder) => forge(folder, {}, { receipt: otherStage, list: otherStage }),
  },
  "a stage that drifted in the summary": {
    ...{ index: 0, found: "artifact_digest_mismatch" },
    make: edited({ grouped_stage_execution_summary: otherStage }),
  },
  "a summary of another transport": {
    ...{ index: 1, found: "artifact_digest_mismatch" },
    make: edited({
      grouped_stage_execution_summary: (s) => ({ ...s, input_transport_digest: "1".repeat(64) }),
    }),
  },
  "an input that was dropped": {
    ...{ index: 1, found: "artifact_digest_mismatch" },
    make: edited({
      grouped_stage_input_transport: null,
      grouped_stage_input_payload: null,
      grouped_stage_execution_summary: (s) => ({
        ...s,
        ...{ input_transport_path: null, input_transport_digest: null, input_payload_digest: null },
      }),
    }),
  },
  "an input payload that was dropped": {
    ...{ index: 1, found: "artifact_digest_mismatch" },
    make: edited({ grouped_stage_input_payload: null }),
  },
  "a summary of another input payload": {
    ...{ index: 1, found: "artifact_digest_mismatch" },
    make: edited({
      grouped_stage_execution_summary: (s) => ({ ...s, input_payload_digest: "1".repeat(64) }),
    }),
  },
  "an input payload of another detail": {
    ...{ index: 1, found: "artifact_digest_mismatch" },
    make: edited({ grouped_stage_input_payload: (p) => ({ ...p, detail: "Other." }) }),
  },
  "kernels that nobody has": {
    ...{ index: 0, found: "unsupported_topology" },
    make: edited({
      execution_evidence: (e) => ({ ...e, kernel_library_digest: "1".repeat(64) }),
      [step("grouped_stage_made_activation", 3)]: (doc) => ({ ...doc, content_sha256: "1".repeat(64) }),
    }),
  },
  "a summary that was deleted": {
    ...{ index: 0, found: "artifact_incomplete" },
    make: (folder) => rmSync(join(folder, "grouped_stage_execution_summary.json")),
  },
  "a checkpoint of another stage": {
    ...{ index: 0, found: "reexecution_mismatch" },
    make: edited({ checkpoint_manifest: otherStage, checkpoint_pointer: otherStage }),
  },
  "a pointer of another stage": {
    ...{ index: 1, found: "reexecution_mismatch" },
    make: edited({ checkpoint_pointer: otherStage }),
  },
  "a manifest that asked for another stage": {
    ...{ index: 0, found: "artifact_digest_mismatch" },
    make: edited({ invocation_manifest: otherStage }),
  },
  "a summary of another network": {
    ...{ index: 0, found: "artifact_digest_mismatch" },
    make: edited({ grouped_stage_execution_summary: (s) => ({ ...s, network_id: "network.other" }) }),
  },
  "an activation of another profile": {
    ...{ index: 1, found: "reexecution_mismatch" },
    make: edited({
      [step("grouped_stage_input_payload", 4)]: (doc) => ({ ...doc, lane_profile_digest: "1".repeat(64) }),
    }),
  },
  "an activation of another replica": {
    ...{ index: 0, found: "reexecution_mismatch" },
    make: edited({
      [step("grouped_stage_made_activation", 5)]: (doc) => ({ ...doc, replica_id: "replica-02" }),
    }),
  },
  "a loss that another stage told": {
    ...{ index: 0, found: "reexecution_mismatch" },
    make: edited({ [step("grouped_stage_gradient_payload", 6)]: (doc) => ({ ...doc, loss: "0.5" }) }),
  },
  "an output that was dropped": {
    ...{ index: 0, found: "artifact_digest_mismatch" },
    make: edited({ grouped_stage_output_transport: null, grouped_stage_output_payload: null }),
  },
  "no summary": {
    ...{ index: 0, found: "artifact_incomplete" },
    make: edited({ grouped_stage_execution_summary: null }),
  },
};

// other kernels are not the worker's, on which alone a stage is judged
const judgedElsewhere = /backend|kernels/;
const papers = Object.entries(ofWindows)
  .filter(([name]) => !judgedElsewhere.test(name))
  .map(([name, { found, edits }], i): [string, Forgery] => [
    name,
    { index: i % 2, found, make: (folder) => forge(folder, edits(folder)) },
  ]);

test.each([...Object.entries(forgeries), ...papers])("%s is found", (_, { index, found, make }) => {
  const copy = join(scene.folder, "forged");
  rmSync(copy, { recursive: true, force: true });
  cpSync(scene.rootOf(index), copy, { recursive: true });
  const folder = join(copy, scene.contribution(index).slice(scene.rootOf(index).length));
  make(folder);
  rmSync(validator(index), { recursive: true, force: true });
  const packet = validate(index, folder);
  const reasons =
    packet.refusal_class === null && grounds(index, "validator_score_receipt.json").reason_codes;
  expect(packet.refusal_class ?? reasons).toEqual(packet.refusal_class === null ? [found] : found);
});
