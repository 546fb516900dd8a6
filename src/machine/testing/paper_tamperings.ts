/**
 * More forged contributions: of the checkpoint that is shown, of documents that no step stands on, of what is handed out beside
 * the work. Every digest agrees again, but where the forgery is that one does not.
 */
import { readFileSync } from "node:fs";
import { orderedJson } from "../../core/json.ts";
import type { ExecutionEvidence, LaneProfile } from "../evidence.ts";
import type { Bench } from "./bench.ts";
import { artifactOf, artifactPath, type Edits, forge, type Json } from "./reseal.ts";
import { nudged, type Tampering, tamperings } from "./tamperings.ts";

const zeros = "0".repeat(64);

export type PaperForgery = { readonly found: Tampering["found"]; readonly edits: (folder: string) => Edits };

const edit = (values: Json) => (document: Json) => ({ ...document, ...values });
const bytesOf = (folder: string, kind: string) => new Uint8Array(readFileSync(artifactPath(folder, kind)));
const written = (value: object) => new TextEncoder().encode(orderedJson(value, 2));

const different = (
  kind: string,
  values: Json,
  found: Tampering["found"] = "reexecution_mismatch",
): PaperForgery => ({
  found,
  edits: () => ({ [kind]: edit(values) }),
});

/** Pointer, manifest and surface that say the same of the checkpoint, which is not so. */
const consistent = (values: Json, pointed: Json = {}): PaperForgery => ({
  found: "reexecution_mismatch",
  edits(folder) {
    const manifest = artifactOf(folder, "checkpoint_manifest");
    const edits = { checkpoint_manifest: edit(values), checkpoint_pointer: edit(pointed) };
    // the surface names the manifest by its digest, which is made when it is sealed
    forge(folder, edits);
    const { manifest_digest } = artifactOf(folder, "checkpoint_manifest");
    if (manifest_digest === manifest.manifest_digest) throw new Error("nothing was changed");
    return { checkpoint_surface: edit({ ...values, checkpoint_manifest_digest: manifest_digest }) };
  },
});

const everyLane: Readonly<Record<string, PaperForgery>> = {
  "a pointer to another step": different("checkpoint_pointer", { optimizer_step: 3 }),
  "a pointer of another label": different("checkpoint_pointer", { checkpoint_label: "better" }),
  "a pointer of another reference": different("checkpoint_pointer", {
    checkpoint_ref: "checkpoint://better",
  }),
  "a pointer of another run": different("checkpoint_pointer", { run_id: "run-0666" }),
  "a pointer to another manifest": different("checkpoint_pointer", {
    checkpoint_manifest_relative_path: "checkpoints/manifests/checkpoint_manifest_step-000099.json",
  }),
  "a surface of another label": different("checkpoint_surface", { checkpoint_label: "better" }),
  "a surface of another reference": different("checkpoint_surface", {
    checkpoint_ref: "checkpoint://better",
  }),
  "a surface of another run": different("checkpoint_surface", { run_id: "run-0666" }),
  "a surface of another lane": different("checkpoint_surface", { lane_id: "other" }),
  "a surface of another manifest": different("checkpoint_surface", { checkpoint_manifest_digest: zeros }),
  "a surface of another size": different("checkpoint_surface", { checkpoint_total_bytes: 1 }),
  "a surface that was recovered": different("checkpoint_surface", {
    recovery_source_kind: "primary_pointer",
  }),
  "a surface with another copy": different("checkpoint_surface", { backup_state: "kept_elsewhere" }),
  "a checkpoint of a later step": consistent({ optimizer_step: 64 }, { optimizer_step: 64 }),
  "a checkpoint of another size": consistent({ checkpoint_total_bytes: 7 }),
  "no pointer": { found: "checkpoint_missing", edits: () => ({ checkpoint_pointer: null }) },
  "no checkpoint manifest": { found: "checkpoint_missing", edits: () => ({ checkpoint_manifest: null }) },
  "a pointer that is none": {
    found: "artifact_digest_mismatch",
    edits: () => ({ checkpoint_pointer: written({ schema_version: "psionic.train.checkpoint_pointer.v1" }) }),
  },
  "a pointer that is no JSON": {
    found: "artifact_digest_mismatch",
    edits: () => ({ checkpoint_pointer: new TextEncoder().encode("{") }),
  },
  "a checkpoint manifest whose own digest is wrong": {
    found: "artifact_digest_mismatch",
    edits: (folder) => ({
      checkpoint_manifest: written({ ...artifactOf(folder, "checkpoint_manifest"), manifest_digest: zeros }),
    }),
  },
  "a membership of another node": different(
    ...(["membership_revision", { node_pubkey: "npub1-thief" }, "artifact_digest_mismatch"] as const),
  ),
  "a membership of another run": different(
    ...(["membership_revision", { run_id: "run-0666" }, "artifact_digest_mismatch"] as const),
  ),
  "a membership of another session": different(
    ...(["membership_revision", { session_id: zeros }, "artifact_digest_mismatch"] as const),
  ),
  "a membership of another build": different(
    ...(["membership_revision", { build_digest: zeros }, "artifact_digest_mismatch"] as const),
  ),
  "a membership that lasts longer": different(
    ...(["membership_revision", { expires_at_ms: 9e12 }, "artifact_digest_mismatch"] as const),
  ),
  "a lease that lasts longer": different(
    ...(["membership_revision", { lease_expires_at_ms: 9e12 }, "artifact_digest_mismatch"] as const),
  ),
  "a membership of another operation": different(
    ...(["membership_revision", { operation: "backup" }, "artifact_digest_mismatch"] as const),
  ),
  "a membership of a refusal": different(
    ...(["membership_revision", { worker_state: "failed" }, "artifact_digest_mismatch"] as const),
  ),
  "a membership whose own digest is wrong": {
    found: "artifact_digest_mismatch",
    edits: (folder) => ({
      membership_revision: written({ ...artifactOf(folder, "membership_revision"), receipt_digest: zeros }),
    }),
  },
  "a manifest that asked for it whose own digest is wrong": {
    found: "artifact_digest_mismatch",
    edits: (folder) => ({
      invocation_manifest: written({ ...artifactOf(folder, "invocation_manifest"), manifest_digest: zeros }),
    }),
  },
  "a manifest that asked for it from another build": {
    found: "artifact_digest_mismatch",
    edits: (folder) => ({
      invocation_manifest: edit({
        admission_identity: {
          ...(artifactOf(folder, "invocation_manifest").admission_identity as Json),
          build_digest: zeros,
        },
      }),
    }),
  },
  "work on a backend that nobody has": {
    found: "reexecution_mismatch",
    edits: () => ({ execution_evidence: edit({ backend: "abacus" }) }),
  },
};

const retaining: Readonly<Record<string, PaperForgery>> = {
  "no lane profile": { found: "artifact_incomplete", edits: () => ({ lane_profile: null }) },
  "the file of another lane profile": {
    found: "reexecution_mismatch",
    edits: () => ({ lane_profile: (p) => ({ ...p, seed: "31337" }) }),
  },
  "a lane profile whose own digest is wrong": {
    found: "artifact_digest_mismatch",
    edits: (folder) => ({
      lane_profile: written({ ...(artifactOf(folder, "lane_profile") as unknown as LaneProfile), seed: "1" }),
    }),
  },
  "a retained state of another size": {
    found: "reexecution_mismatch",
    edits: () => ({
      execution_evidence: (value) => {
        const e = value as unknown as ExecutionEvidence;
        return { ...e, retained_states: e.retained_states.map((s) => ({ ...s, object_bytes: 1 })) };
      },
    }),
  },
  "a loss in other words, on other kernels": {
    found: "reexecution_mismatch",
    edits: () => ({
      execution_evidence: (value) => {
        const e = value as unknown as ExecutionEvidence;
        const steps = e.steps.map((s, i) => (i === 0 ? { ...s, loss: `${s.loss}e0` } : s));
        return { ...e, steps, kernel_library_digest: zeros };
      },
    }),
  },
  "work without kernels": {
    found: "reexecution_mismatch",
    edits: () => ({ execution_evidence: edit({ kernel_library_digest: null }) }),
  },
};

const windowed: Readonly<Record<string, PaperForgery>> = {
  "a checkpoint of another window": consistent({ window_id: "window-0666" }, { window_id: "window-0666" }),
  "a checkpoint of another assignment": consistent(
    ...([{ assignment_id: "assignment-0666" }, { assignment_id: "assignment-0666" }] as const),
  ),
};

const ledger: Readonly<Record<string, PaperForgery>> = {
  "a launch of another run": different(
    ...(["launch_manifest", { run_id: "run-0666" }, "artifact_digest_mismatch"] as const),
  ),
  "a status of another run": different(
    ...(["current_status", { run_id: "run-0666" }, "artifact_digest_mismatch"] as const),
  ),
  "a summary of another lane": different(
    ...(["retained_summary", { lane_id: "other" }, "artifact_digest_mismatch"] as const),
  ),
};

const copies: Readonly<Record<string, PaperForgery>> = {
  "a copy that its receipt denies": different("checkpoint_backup_receipt", {
    ...{ backup_state: "refused", upload_outcome: "failed", upload_failure_reason: "none" },
  }),
  "a copy of another checkpoint": different("checkpoint_backup_receipt", { optimizer_step: 4 }),
  "a copy without its receipt": {
    found: "reexecution_mismatch",
    edits: () => ({ checkpoint_backup_receipt: null }),
  },
  "a copy's receipt of another lane": different(
    ...(["checkpoint_backup_receipt", { lane_id: "other" }, "artifact_digest_mismatch"] as const),
  ),
};

const adapters: Readonly<Record<string, PaperForgery>> = {
  "adapters with another weight": {
    found: "reexecution_mismatch",
    edits: (folder) => ({ adapter_weights: nudged(artifactPath(folder, "adapter_weights"), 0.5, 1e-3) }),
  },
  "adapters of the state that the window began with": {
    found: "reexecution_mismatch",
    edits: (folder) => ({ adapter_weights: bytesOf(folder, "retained_state_step_000000") }),
  },
  "adapters that are no tensors": {
    found: "artifact_digest_mismatch",
    edits: () => ({ adapter_weights: new TextEncoder().encode("weights") }),
  },
  "no adapters": { found: "artifact_incomplete", edits: () => ({ adapter_weights: null }) },
  "adapters of another alpha": different("adapter_config", { lora_alpha: 16 }),
  "adapters of another base": different("adapter_config", { base_digest: zeros }),
  "adapters without their settings": {
    found: "artifact_incomplete",
    edits: () => ({ adapter_config: null }),
  },
};

/** Of any window whose states are retained, that of a stage too. */
export const ofWindows: Readonly<Record<string, PaperForgery>> = { ...everyLane, ...retaining, ...windowed };

const own: Readonly<Record<string, readonly Readonly<Record<string, PaperForgery>>[]>> = {
  demo: [windowed, ledger],
  actual: [retaining, ledger, copies],
  apple: [retaining, windowed],
  adapter: [retaining, windowed, adapters],
};

function paperTamperings(lane: string, honest: string): Tampering[] {
  const all = [everyLane, ...(own[lane] ?? [])].flatMap((some) => Object.entries(some));
  const list = all.map(
    ([name, { found, edits }]): Tampering => ({
      name: `${lane}: ${name}`,
      found,
      make(bench: Bench) {
        const folder = bench.copied(honest);
        forge(folder, edits(folder));
        return folder;
      },
    }),
  );
  return [
    ...list,
    {
      name: `${lane}: two artifacts of one kind`,
      found: "artifact_digest_mismatch",
      make(bench) {
        const folder = bench.copied(honest);
        forge(folder, {}, { list: twice });
        return folder;
      },
    },
  ];
}

function twice(list: Json): Json {
  const artifacts = list.artifacts as Json[];
  return { ...list, artifacts: [artifacts[0], ...artifacts], artifact_count: artifacts.length + 1 };
}

/** All forgeries of a lane's honest contribution of its own profile. */
export const forgeries = (lane: string, honest: string): readonly Tampering[] => [
  ...tamperings(lane, honest),
  ...paperTamperings(lane, honest),
];
