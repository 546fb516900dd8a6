/** `validate_contribution` of a folder: the manifest that a supervisor would have written, made from the contribution itself. */
import { existsSync, realpathSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { laneContract, refuse, runtimeSurfaceId } from "./contract.ts";
import { parsed } from "./documents.ts";
import { isBlank } from "./fields.ts";
import { attest, ownSource, sourceState } from "./identity.ts";
import type { Composed } from "./invoke.ts";
import { validatorFolder } from "./layout.ts";
import { type InvocationManifest, invocationManifest, manifestDigest } from "./manifest.ts";
import { contributorRoot, foundFile, replayed, resolveInput } from "./replay_inputs.ts";
import { bindingOf } from "./run_root.ts";
import { type ArtifactManifest, artifactManifest, contributionReceipt } from "./window.ts";

export type ValidateForm = {
  /** Of the validator; where the verdict is left. */
  readonly runRoot: string;
  /** Folder with `contribution_receipt.json` and `artifact_manifest.json`. */
  readonly contribution: string;
  readonly challengeId: string;
  readonly node: string;
  /** Name of the validator's run; absent: the run root's own. */
  readonly runId?: string;
  /** SHA-256 of the state that the window is to begin with; absent: what the validator's own record has. */
  readonly startState?: string;
};

/** Reads the contribution's two documents and makes the manifest that asks for its validation. Throws a `Refusal`. */
export function composeValidation(form: ValidateForm, environment: NodeJS.ProcessEnv): Composed {
  for (const [name, text] of Object.entries(form)) {
    if (isBlank(text)) refuse("bad_config", `${name} must not be blank`);
  }
  const given = resolve(form.contribution);
  // its run root is found from where it lies, whatever link leads there
  const folder = existsSync(given) ? realpathSync(given) : given;
  const receiptFile = foundFile(join(folder, "contribution_receipt.json"));
  const listFile = foundFile(join(folder, "artifact_manifest.json"));
  const receipt = replayed(contributionReceipt, receiptFile);
  const listed = replayed(artifactManifest, listFile);
  const lane =
    laneContract(receipt.lane_id) ??
    refuse("unsupported_topology", `no lane ${receipt.lane_id.slice(0, 80)}`);
  const asked = {
    ...{ schema_version: invocationManifest.id, runtime_surface_id: runtimeSurfaceId },
    ...{ lane_id: lane.id, role: "validator", operation: "validate_contribution" },
    work_class: "validation_replay",
    coordination: {
      network_id: networkOf(listed, listFile.path),
      ...{ window_id: receipt.window_id, assignment_id: receipt.assignment_id },
      ...{ challenge_id: form.challengeId, node_pubkey: form.node },
    },
    admission_identity: {
      release_id: lane.releaseId,
      build_digest: "-",
      environment_ref: lane.environmentRef,
    },
    ...{ run_id: form.runId ?? basename(resolve(form.runRoot)), run_root: form.runRoot },
    validator_target_contribution_receipt: bindingOf(
      "contribution_receipt",
      receiptFile.bytes,
      receiptFile.path,
    ),
    validator_target_contribution_artifact_manifest: bindingOf(
      ...(["contribution_artifact_manifest", listFile.bytes, listFile.path] as const),
    ),
    validator_target_work_class: receipt.work_class,
    ...{ ...ownSource(environment), dry_run: false, checkpoint_object_digest: form.startState ?? null },
    ...{ inject_failed_upload: false, inject_eval_worker_unavailable: false },
  };
  const open = parsed(invocationManifest, asked, "validate-contribution", "internal");
  const { build_digest } = attest(lane, sourceState(open, environment));
  const manifest = { ...open, admission_identity: { ...open.admission_identity, build_digest } };
  return {
    manifest: { ...manifest, manifest_digest: manifestDigest(manifest) },
    keptAt: `${validatorFolder(receipt.window_id, form.challengeId)}/invocation_manifest.json`,
  };
}

/** The network that the work was asked for in, as its own manifest has it. */
function networkOf(
  listed: ArtifactManifest,
  listPath: string,
): InvocationManifest["coordination"]["network_id"] {
  const entry = listed.artifacts.find(({ artifact_kind }) => artifact_kind === "invocation_manifest");
  if (!entry) return null;
  const file = resolveInput(entry.binding, entry.artifact_kind, [contributorRoot(listPath)], "foreign");
  return replayed({ ...invocationManifest, digest: undefined }, file).coordination.network_id;
}
