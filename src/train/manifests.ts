/** What is written once when a run begins or goes on: launch, resume and operator manifests. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { referenceTo } from "./evidence.ts";
import type { Admission } from "./preflight.ts";
import { labelOf, ownPaths, type Run, refOf, retainedPaths, schemaId, surfaces, write } from "./run_root.ts";

const remoteRoot = (run: Run): string =>
  `\${PSION_ACTUAL_PRETRAINING_BUCKET_URL}/${run.lane.runFolder}/${run.runId}`;

function fields(run: Run, schema: string, surface: string, hardware: Admission, runShape: Admission) {
  const remote = remoteRoot(run);
  const settings = {
    path: ownPaths.settings,
    sha256: sha256(readFileSync(join(run.root, ownPaths.settings))),
  };
  const unused = {
    ...{ recipe_bundle: null, baseline_tools_bundle: null, scaling_bundle: null },
    data_bundle: referenceTo(run.root, ownPaths.dataset),
    ...{ systems_bundle: null, topology_storage_bundle: null, evidence_contract: null },
  };
  return {
    schema_version: schemaId(schema),
    surface_id: surface,
    lane_id: run.lane.id,
    recipe_id: run.lane.recipeId,
    topology_storage_bundle_id: "single_local_control_plane_worker",
    evidence_contract_id: "psion_actual_pretraining_evidence_contract_v1",
    run_id: run.runId,
    retained_paths: retainedPaths,
    launcher_surfaces: surfaces(run.lane),
    run_roots: {
      local_run_root: ".",
      remote_run_root: remote,
      remote_checkpoint_root: `${remote}/checkpoints`,
      remote_manifest_root: `${remote}/manifests`,
      remote_log_root: `${remote}/logs`,
    },
    preflight_receipt: receipt(retainedPaths.hardware_qualification_path, hardware),
    run_shape_receipt: receipt(retainedPaths.run_shape_qualification_path, runShape),
    contract_refs: { lane_spec: settings, ...unused },
    ...run.git,
  };
}

const receipt = (path: string, { digest, state }: Admission) => ({
  relative_path: path,
  receipt_digest: digest,
  admission_state: state,
});

export function writeLaunchManifest(run: Run, hardware: Admission, runShape: Admission): void {
  write(run, retainedPaths.launch_manifest_path, {
    ...fields(run, "launch_manifest", surfaces(run.lane).start_surface_id, hardware, runShape),
    credential_sources: [],
    claim_boundary: run.lane.claimBoundary,
    detail: "The run trains in this process; nothing is sent anywhere.",
  });
}

export function writeResumeManifest(
  run: Run,
  hardware: Admission,
  runShape: Admission,
  from: { readonly step: number; readonly label?: string; readonly ref?: string },
): void {
  write(run, retainedPaths.resume_manifest_path, {
    ...fields(run, "resume_manifest", surfaces(run.lane).resume_surface_id, hardware, runShape),
    latest_checkpoint_pointer_path: retainedPaths.latest_checkpoint_pointer_path,
    checkpoint_label: from.label ?? labelOf(run, from.step),
    optimizer_step: from.step,
    checkpoint_ref: from.ref ?? refOf(run, from.step),
    claim_boundary: run.lane.claimBoundary,
    detail: "The run goes on from this checkpoint, bit for bit.",
  });
}

export function writeOperatorManifest(run: Run): void {
  const { max_steps, steps_per_window, windows_per_cadence } = run.settings;
  write(run, ownPaths.operator_manifest, {
    schema_version: "psionic.psion_reference_pilot_operator_manifest.v1",
    created_at_utc: new Date().toISOString(),
    run_id: run.runId,
    workload: run.lane.name,
    truth_surface_kind: "trained_here",
    actual_lane_relation: "separate_reference_lane",
    artifact_prefix: "psion_reference_pilot",
    selected_mode: "local_reference",
    git_ref: run.git.selected_git_ref,
    git_commit_sha: run.git.git_commit_sha,
    requested_budget_override: { max_steps, steps_per_window, windows_per_cadence, step_duration_ms: null },
    claim_boundary: run.lane.claimBoundary,
  });
}
