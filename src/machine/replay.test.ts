/** Validation: contributions done again, forged ones whose digests all agree, and verdicts over several windows. */
import { describe, expect, test } from "bun:test";
import { cpSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { orderedJson } from "../core/json.ts";
import { sealed } from "./documents.ts";
import { type ExecutionEvidence, executionEvidence } from "./evidence.ts";
import type { Example } from "./examples.ts";
import { fuzzContributions } from "./fuzz_contribution.ts";
import { bindingOf } from "./run_root.ts";
import { checkpointSurface } from "./surface.ts";
import { bound, Scene } from "./testing/scene.ts";
import { comparison, trend } from "./validation.ts";
import { artifactManifest, contributionReceipt } from "./window.ts";

/** A contribution in a run root of its own, beside that of the validator. */
class Validated extends Scene {
  readonly contributor = join(this.folder, "contributor");

  /** Trains, and moves the run root: evidence must not care. */
  contribute(window: string): string {
    const coordination = { ...bound, window_id: window };
    expect(this.run("start", { coordination }).outcome).toBe("succeeded");
    cpSync(this.root, this.contributor, { recursive: true });
    rmSync(this.root, { recursive: true });
    const folder = join(this.contributor, "windows", window, "contributions");
    return join(folder, readdirSync(folder)[0] ?? "");
  }

  validate(folder: string, window: string, changes: Example = {}) {
    const bind = (role: string, name: string) =>
      bindingOf(role, readFileSync(join(folder, name)), join(folder, name));
    const demo = this.manifest("start");
    return this.run("validate_contribution", {
      ...{ lane_id: demo.lane_id, admission_identity: demo.admission_identity },
      coordination: {
        ...bound,
        window_id: window,
        challenge_id: "challenge-0001",
        node_pubkey: "npub1-validator",
      },
      validator_target_contribution_receipt: bind("contribution_receipt", "contribution_receipt.json"),
      validator_target_contribution_artifact_manifest: bind(
        "contribution_artifact_manifest",
        "artifact_manifest.json",
      ),
      ...changes,
    });
  }

  verdict(window: string): { readonly folder: string; readonly receipt: Record<string, unknown> } {
    const folder = `windows/${window}/validators/${readdirSync(join(this.root, "windows", window, "validators"))[0]}`;
    return { folder, receipt: this.read(`${folder}/validator_score_receipt.json`) };
  }
}

/** Changes one artifact and seals everything again, so that all digests agree. */
function forge(folder: string, kind: string, change: (value: Record<string, unknown>) => object): void {
  const json = (name: string) => JSON.parse(readFileSync(join(folder, name), "utf8"));
  const write = (name: string, value: object): Uint8Array => {
    writeFileSync(join(folder, name), orderedJson(value, 2));
    return readFileSync(join(folder, name));
  };
  const bytes = write(`artifacts/${kind}.json`, change(json(`artifacts/${kind}.json`)));
  const list = json("artifact_manifest.json");
  for (const entry of list.artifacts) {
    if (entry.artifact_kind === kind) entry.binding = bindingOf(kind, bytes, entry.binding.materialized_path);
  }
  const listed = sealed(artifactManifest, list);
  const listBytes = write("artifact_manifest.json", listed);
  const receipt = json("contribution_receipt.json");
  receipt.artifact_manifest = bindingOf(
    ...(["contribution_artifact_manifest", listBytes, receipt.artifact_manifest.materialized_path] as const),
  );
  write(
    "contribution_receipt.json",
    sealed(contributionReceipt, { ...receipt, artifact_manifest_digest: listed.artifact_manifest_digest }),
  );
}

const forgedEvidence = (change: (e: ExecutionEvidence) => Partial<ExecutionEvidence>) => (value: object) =>
  sealed(executionEvidence, { ...(value as ExecutionEvidence), ...change(value as ExecutionEvidence) });

describe("validation", () => {
  test("an honest contribution, moved: done again and accepted", () => {
    using scene = new Validated();
    const folder = scene.contribute("window-0001");
    const packet = scene.validate(folder, "window-0001");
    expect([packet.outcome, packet.detail]).toEqual([
      "succeeded",
      expect.stringContaining("accepted with 10000"),
    ]);
    const { folder: at, receipt } = scene.verdict("window-0001");
    expect(receipt).toMatchObject({
      ...{ disposition: "accepted", score_bps: 10000, reason_codes: ["primary_checkpoint_accepted"] },
      ...{ validation_index: 1, challenged_run_id: "run-0001", validator_run_id: "validator-run-0001" },
    });
    expect(scene.read(`${at}/reexecution.json`)).toMatchObject({
      reexecuted_steps: [1, 2, 3, 4],
      differences: [],
    });
    expect(scene.read(`${at}/validator_quality_drift_signal.json`).drift_state).toBe("baseline");
    const { artifacts } = scene.read("status/psionic_train_run_status_packet.json") as { artifacts: object };
    expect(artifacts).toMatchObject({
      validator_score_receipt_path: join(scene.root, at, "validator_score_receipt.json"),
    });
  }, 30_000);

  test("forgeries whose digests agree are found by doing the work again", () => {
    const zeros = "0".repeat(64);
    const forgeries: Readonly<Record<string, (e: ExecutionEvidence) => Partial<ExecutionEvidence>>> = {
      "a forged loss": (e) => ({ steps: e.steps.map((s, i) => (i === 3 ? { ...s, loss: "5.2" } : s)) }),
      "a rate 1 % off": (e) => ({ steps: e.steps.map((s) => ({ ...s, learning_rate: "0.1515" })) }),
      "a skipped step": (e) => ({ steps: e.steps.slice(0, 3) }),
      "another data window": (e) => ({
        data: {
          ...e.data,
          token_ranges: e.data.token_ranges.map((r) => ({ ...r, start: r.start + 1, end: r.end + 1 })),
        },
      }),
      "another seed": () => ({ seed: "other" }),
      "other weights": () => ({ end_state_digest: zeros }),
      "another start": () => ({ start_state_digest: zeros }),
      "another checkpoint": () => ({ checkpoint_object_digest: zeros }),
      "another profile": () => ({ lane_profile_digest: zeros }),
    };
    using scene = new Validated();
    const honest = scene.contribute("window-0001");
    for (const [name, change] of Object.entries(forgeries)) {
      const folder = join(scene.folder, "forged", "windows", "w", "contributions", "c");
      rmSync(join(scene.folder, "forged"), { recursive: true, force: true });
      cpSync(honest, folder, { recursive: true });
      const contributor = join(scene.folder, "forged", honest.slice(scene.contributor.length));
      cpSync(folder, contributor, { recursive: true });
      forge(contributor, "execution_evidence", forgedEvidence(change));
      const packet = scene.validate(contributor, "window-0001");
      expect([name, packet.outcome, packet.detail]).toEqual([name, "succeeded", packet.detail]);
      const { receipt, folder: at } = scene.verdict("window-0001");
      expect([name, receipt.disposition, receipt.score_bps, receipt.reason_codes]).toEqual([
        name,
        "rejected",
        0,
        ["reexecution_mismatch"],
      ]);
      const { differences } = scene.read(`${at}/reexecution.json`) as { differences: unknown[] };
      expect(differences.length).toBeGreaterThan(0);
    }
  }, 60_000);

  test("a checkpoint of another run", () => {
    using scene = new Validated();
    const folder = scene.contribute("window-0001");
    forge(folder, "checkpoint_surface", (surface) =>
      sealed(checkpointSurface, {
        ...(surface as never as object),
        checkpoint_object_digest: "1".repeat(64),
      } as never),
    );
    expect(scene.validate(folder, "window-0001").outcome).toBe("succeeded");
    expect(scene.verdict("window-0001").receipt.reason_codes).toEqual(["reexecution_mismatch"]);
  }, 30_000);

  test("stale, absent, drifted and refused inputs", () => {
    using scene = new Validated();
    const folder = scene.contribute("window-0001");
    const stale = {
      coordination: { ...bound, window_id: "window-0002", challenge_id: "c", node_pubkey: "v" },
    };
    expect(scene.validate(folder, "window-0001", stale).refusal_class).toBe("stale_assignment");
    const other = { validator_target_work_class: "adapter_training" };
    expect(scene.validate(folder, "window-0001", other).refusal_class).toBe("artifact_digest_mismatch");
    const log = join(folder, "artifacts/launcher_log.log");
    renameSync(log, `${log}.away`);
    expect(scene.validate(folder, "window-0001").refusal_class).toBe("artifact_incomplete");
    writeFileSync(log, "other");
    expect(scene.validate(folder, "window-0001").refusal_class).toBe("artifact_digest_mismatch");
    renameSync(`${log}.away`, log);
    const pointer = join(folder, "artifacts/checkpoint_pointer.json");
    renameSync(pointer, `${pointer}.away`);
    expect(scene.validate(folder, "window-0001").refusal_class).toBe("checkpoint_missing");
    renameSync(`${pointer}.away`, pointer);
    const path = join(folder, "contribution_receipt.json");
    writeFileSync(path, readFileSync(path, "utf8").replace('"exit_code": 0', '"exit_code": 1'));
    expect(scene.validate(folder, "window-0001").refusal_class).toBe("artifact_digest_mismatch");
  }, 30_000);

  test("a refused contribution is rejected, and the next window's verdict regressed", () => {
    using scene = new Validated();
    const honest = scene.contribute("window-0001");
    scene.validate(honest, "window-0001");
    const kept = join(scene.folder, "kept");
    renameSync(scene.root, kept);
    const coordination = { ...bound, window_id: "window-0002" };
    scene.run("start", {
      coordination,
      admission_identity: { release_id: "x", build_digest: "x", environment_ref: "x" },
    });
    const refused = join(scene.folder, "refused");
    renameSync(scene.root, refused);
    renameSync(kept, scene.root);
    const folder = join(refused, "windows/window-0002/contributions");
    const packet = scene.validate(join(folder, readdirSync(folder)[0]!), "window-0002");
    expect(packet.outcome).toBe("succeeded");
    const { receipt, folder: at } = scene.verdict("window-0002");
    expect(receipt).toMatchObject({ disposition: "rejected", score_bps: 0, validation_index: 2 });
    expect(receipt.verified_hooks).toEqual(["assignment_correctness", "update_integrity"]);
    expect(scene.read(`${at}/validator_quality_drift_signal.json`)).toMatchObject({
      ...{ drift_state: "regressed", score_bps_delta: -10000, previous_window_id: "window-0001" },
    });
    expect(scene.read(`${at}/validator_rollback_signal.json`)).toMatchObject({
      ...{ rollback_posture: "candidate", rollback_baseline_window_id: "window-0001" },
    });
  }, 30_000);
});

test("verdicts in sequence", () => {
  const scored = (
    disposition: "accepted" | "quarantined" | "rejected",
    score_bps: number,
    validation_index: number,
  ) => ({
    ...{ disposition, score_bps, validation_index },
  });
  const [a, q, r] = [scored("accepted", 10000, 1), scored("quarantined", 7500, 2), scored("rejected", 0, 3)];
  expect(comparison(a, q)).toBe("regressed");
  expect(comparison(q, { ...q, disposition: "accepted" })).toBe("improved");
  expect(comparison(q, q)).toBe("stable");
  expect(trend([], a)).toMatchObject({
    drift: "baseline",
    delta: null,
    trailing: 1,
    posture: "hold",
    consecutive: 0,
  });
  expect(trend([a, q], r)).toMatchObject({
    ...{
      drift: "regressed",
      delta: -7500,
      degraded: 2,
      nonAccepted: 2,
      consecutive: 2,
      posture: "candidate",
      baseline: a,
    },
  });
});

test("damaged contributions: the class that the damage calls for, nothing outside of the validator's run root", () => {
  const { cases, classes } = fuzzContributions(11, { count: 120 });
  expect(cases).toBe(120);
  for (const name of ["artifact_digest_mismatch", "artifact_incomplete", "succeeded"])
    expect(classes[name]).toBeGreaterThan(0);
}, 30_000);
