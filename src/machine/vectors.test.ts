/** The contract's own test vectors: manifests, digests and ids. */
import { describe, expect, test } from "bun:test";
import { parseExactJson } from "../core/json_reader.ts";
import { checkpointManifest } from "./checkpoint.ts";
import { actualLane, appleLane, demoLane } from "./contract.ts";
import { idOf, parsed, sealed } from "./documents.ts";
import { egressStage, exampleManifests } from "./examples.ts";
import { buildDigest, type SourceState } from "./identity.ts";
import { validatorFolder } from "./layout.ts";
import {
  type Coordination,
  invocationManifest,
  manifestDigest,
  type StageAssignment,
  stageDigest,
} from "./manifest.ts";
import { checkManifest } from "./manifest_rules.ts";
import { sessionId } from "./membership.ts";
import { resolvedKey } from "./names.ts";
import { assignmentMaterialization, contributionId, type WorkIdentity, windowExecutionId } from "./window.ts";

const commit = "0123456789abcdef0123456789abcdef01234567";
const packaged: SourceState = { commit, admission: "packaged_clean_release", status: null };
const checkout: SourceState = { commit, admission: "refuse_by_default", status: null };
const root = (run: string): string => `/srv/psionic/runs/${run}`;
const published = {
  ...exampleManifests({ source: packaged, ref: "packaged-runtime", root }),
  ...Object.fromEntries(
    Object.entries(exampleManifests({ source: checkout, ref: "refs/heads/main", root })).filter(
      ([, m]) => m.lane_id === actualLane.id,
    ),
  ),
};

const digests: Readonly<Record<string, string>> = {
  start: "6804d844cae6e222036ef95531b66f31ed0475e3203006814d4ba4d228384e12",
  rehearse_base_lane: "8548bd642d5a48c869d13d3f6fd267397d4016adecef77a0a7ab0cc4711e6b7a",
  record_checkpoint: "754355acbfa758c62c51cc61cea58d757a2037ef60f560b01b47209a96971507",
  backup: "3507271c4accae2c49391a2273787d0d88fafd5889bad69f5bfe54c1f16ccf82",
  decide_continue_restart: "8e14b5533fe41756a1898da08395df50b29b5cf050c3beb18da05e232967fb4d",
  serve_checkpoint: "c68901a40ef722ab28e0ea69ebb8f8f8fe1158c1ccda8619b0dffee4e0f650b3",
  resume: "6b3bc942a3d497ab572605a75664fb714060a265cb8dc79d79f6131f0a53f189",
  validate_contribution: "a7cccc432dbee2f250f24e8febb3af08cbccb77114fca1a0f8af6759c5de24be",
  grouped_start: "d5ce625d3e7b2320b2e54311f53e1a3080b912b33195e13708c96e4e63967e8e",
};

describe("manifest digests", () => {
  for (const [name, digest] of Object.entries(digests)) {
    test(name, () => {
      const manifest = parsed(invocationManifest, { ...published[name], manifest_digest: digest }, name);
      expect(manifestDigest(manifest)).toBe(digest);
      checkManifest(manifest);
    });
  }

  test("the file's own form plays no part, its values do", () => {
    const text = JSON.stringify({ unknown: [1.5], ...published.start, run_root: null }, null, 7);
    const manifest = parsed(invocationManifest, parseExactJson(text, "m"), "m");
    expect(manifestDigest(manifest)).toBe(digests.start!);
    expect(manifestDigest({ ...manifest, run_id: "run-0002" })).not.toBe(digests.start!);
  });

  test("64-bit numbers stay exact", () => {
    const big = JSON.stringify(published.record_checkpoint).replace("2048", "18446744073709551615");
    const near = big.replace("18446744073709551615", "18446744073709551614");
    const [a, b] = [big, near].map((text) => parsed(invocationManifest, parseExactJson(text, "m"), "m"));
    expect(a!.optimizer_step).toBe(18446744073709551615n);
    expect(manifestDigest(a!)).not.toBe(manifestDigest(b!));
  });
});

test("build digest", () => {
  const source: SourceState = { ...checkout, commit: "1111222233334444555566667777888899990000" };
  expect(buildDigest(actualLane, source)).toBe(
    "2ed54b617f887b00bcb7f65caecf75a40058e5cea8c7b12631948f199c8281b7",
  );
});

test("stage assignments", () => {
  expect(stageDigest(egressStage)).toBe(egressStage.assignment_digest);
  const ingress: StageAssignment = {
    ...{
      replica_id: "replica-01",
      stage_id: "stage-01",
      stage_index: 0,
      stage_count: 2,
      assignment_digest: "",
    },
    stage_role: "ingress",
    ...{ upstream_stage_id: null, downstream_stage_id: "stage-02" },
  };
  expect(stageDigest(ingress)).toBe("9d3be7bdbbe3c23c672516dae84c3ad8ccd5e1fb18e25fef97cde3031d2462fa");
});

test("the demo fixture: contribution and checkpoint manifest", () => {
  const name = "cs336-a1-demo-fixture";
  const work: WorkIdentity = {
    ...{ laneId: demoLane.id, runId: `psion-${name}`, windowId: `window.${name}` },
    ...{ assignmentId: `assignment.${name}`, node: `npub1-${name}`, networkId: null, stage: null },
  };
  expect(contributionId(work)).toBe("29e4ac46af6fe452e8f006d635221e1afbfcbc55fd61a80acf7911621210b6d2");
  const manifest = sealed(checkpointManifest, {
    ...{
      lane_id: work.laneId,
      run_id: work.runId,
      window_id: work.windowId,
      assignment_id: work.assignmentId,
    },
    ...{ checkpoint_label: "bounded_step_000004", optimizer_step: 4 },
    checkpoint_ref: `checkpoint://psion/cs336_a1_demo/${work.runId}/step-000004`,
    relative_manifest_path: "checkpoints/manifests/checkpoint_manifest_step-000004.json",
    checkpoint_object_digest: "8b91bb5bb1fc03e4ebd3482f25f6f8cc941478659f365657ef32bb66a8d93b0d",
    checkpoint_total_bytes: 79663,
  });
  expect(manifest.manifest_digest).toBe("d54c174edfc16b86c6b4ef08840111ecdaab60f05e496eba15eb7ce0f68ba0c0");
});

test("ids of the record_checkpoint example", () => {
  const coordination = parsed(invocationManifest, published.record_checkpoint, "m")
    .coordination as Coordination;
  const work: WorkIdentity = {
    ...{ laneId: appleLane.id, runId: "run-0002", windowId: "window-0001", assignmentId: "assignment-0001" },
    ...{ node: coordination.node_pubkey ?? "", networkId: coordination.network_id, stage: null },
  };
  expect(windowExecutionId(work)).toBe("d604579a3c9909c33c89e4ac38acae99c777e6df222385339a77584db0e23636");
  expect(contributionId(work)).toBe("6d24934291fde7575b09c2eb31cc9059bb99aaac8d83a0c795e1e9f2c8d59886");
  expect(assignmentMaterialization(work, 1, "worker", "record_checkpoint")).toBe(
    "07dc887be0d6eaf4b5cd77cda13989492c29bf0f8b040955772e9d6bff03fc35",
  );
  const manifest = sealed(checkpointManifest, {
    ...{
      lane_id: work.laneId,
      run_id: work.runId,
      window_id: work.windowId,
      assignment_id: work.assignmentId,
    },
    ...{ checkpoint_label: "window-0001-final", optimizer_step: 2048 },
    checkpoint_ref: "checkpoint://example/window-0001/final",
    relative_manifest_path: "checkpoints/manifests/checkpoint_manifest_step-002048.json",
    checkpoint_object_digest: "9bf8db2897b42c1010b24a5e18b22d62c7287420a99d59c8d96f05cd729513c1",
    checkpoint_total_bytes: 65536,
  });
  expect(manifest.manifest_digest).toBe("280f102a8e6a8909a10d1ff7ba0917831b8506f761581fc6acb8be0fa3450445");
});

test("names that are hashed or made safe", () => {
  expect(validatorFolder("w", "challenge-0001")).toBe(
    "windows/w/validators/challenge-3bfca866453bdb1c8df958a614b52913",
  );
  expect(sessionId("run-0002", "npub1-node-a", 1000)).toBe(
    "d6cb8afe91f3c94ef6212508c44cdb9870ccedbd2b3cc1002a2ff8166265eb39",
  );
  expect(resolvedKey("artifact://checkpoint/pointer@v1")).toBe("artifact_checkpoint_pointer_v1");
  expect(resolvedKey("///")).toBe("artifact");
  expect(idOf("a|", [])).not.toBe(idOf("a|", [""]));
});
