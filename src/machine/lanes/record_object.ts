/** The bytes of a checkpoint as they lie in the run root, against what is said of them. */
import { statSync } from "node:fs";
import { refuse } from "../contract.ts";
import { type ExecutionEvidence, executionEvidence, type LaneProfile, laneProfile } from "../evidence.ts";
import { evidencePath, objectPathOf, profilePathOf, retainedPathOf, trainedProfilePath } from "../layout.ts";
import type { InvocationManifest } from "../manifest.ts";
import { fileRecord, type RunRoot } from "../run_root.ts";

/** What manifests of checkpoints say of the object. */
export type ObjectRecord = {
  readonly checkpoint_object_digest: string;
  readonly checkpoint_total_bytes: number;
};

/** `fresh`: of the last window that was trained here, not of a checkpoint that lay there already. */
export type Recorded = ObjectRecord & { readonly step: number; readonly fresh: boolean };

/**
 * Puts the state after the step that a manifest names where checkpoints lie: hashed, and what the manifest and the evidence
 * of its window say it is. Until then nothing that was trained touches a checkpoint that was accepted.
 */
export function recordedObject(root: RunRoot, manifest: InvocationManifest): Recorded {
  const step = stepOf(manifest);
  const [trained, kept] = [retainedPathOf(step), objectPathOf(step)];
  const path = root.has(trained) ? trained : kept;
  if (!root.has(path))
    return refuse(
      "checkpoint_missing",
      `${root.root} has no state after step ${step}, neither ${trained} nor ${kept}`,
    );
  const { sha256: checkpoint_object_digest, bytes: checkpoint_total_bytes } = fileRecord(root.path(path));
  const evidence = evidenceIn(root);
  const claimed = evidence?.retained_states.find((state) => state.step === step)?.object_digest;
  const asked = manifest.checkpoint_object_digest?.toLowerCase().replace(/^sha256:/, "");
  for (const expected of [path === trained ? claimed : undefined, asked]) {
    if (expected !== undefined && expected !== checkpoint_object_digest)
      refuse(
        "checkpoint_digest_mismatch",
        `${path}: expected SHA-256 ${expected.slice(0, 80)}, got ${checkpoint_object_digest}`,
      );
  }
  const bytes = manifest.checkpoint_total_bytes;
  if (bytes !== null && BigInt(bytes) !== BigInt(checkpoint_total_bytes))
    refuse("checkpoint_digest_mismatch", `${path}: expected ${bytes} bytes, got ${checkpoint_total_bytes}`);
  const fresh = path === trained;
  if (fresh) root.snapshot(trained, kept);
  return { checkpoint_object_digest, checkpoint_total_bytes, step, fresh };
}

/** The profile that a recorded state was trained with, kept beside it: the one in `manifests/` may be another by now. */
export function recordedProfile(root: RunRoot, { step, fresh }: Recorded): LaneProfile {
  const kept = profilePathOf(step);
  const path = fresh || !root.has(kept) ? trainedProfilePath : kept;
  try {
    const profile = root.read(laneProfile, path);
    if (profile) {
      root.write(kept, profile);
      return profile;
    }
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    return refuse("artifact_digest_mismatch", `profile of step ${step}: ${why}`, cause);
  }
  return refuse("artifact_incomplete", `${root.path(path)} is not there; step ${step} was trained with it`);
}

function evidenceIn(root: RunRoot): ExecutionEvidence | undefined {
  try {
    return root.read(executionEvidence, evidencePath);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    return refuse("artifact_digest_mismatch", `${why}; starting or resuming writes it anew`, cause);
  }
}

function stepOf({ optimizer_step }: InvocationManifest): number {
  const step = Number(optimizer_step);
  if (step >= 1 && Number.isSafeInteger(step)) return step;
  return refuse("bad_config", `optimizer_step: expected a step from 1 on, got ${optimizer_step}`);
}

/** Throws where the object of an accepted checkpoint is not in the run root as its manifest has it. */
export function checkObject(root: RunRoot, step: number | bigint, record: ObjectRecord): string {
  const path = objectPathOf(step);
  if (!root.has(path)) return refuse("checkpoint_missing", `${root.root} has no ${path}`);
  const { checkpoint_object_digest: expected, checkpoint_total_bytes: bytes } = record;
  const differs = (got: string): never =>
    refuse(
      "checkpoint_digest_mismatch",
      `${path}: expected SHA-256 ${expected} of ${bytes} bytes, got ${got}`,
    );
  const stat = statSync(root.path(path));
  if (!stat.isFile()) return differs("no file");
  // what has another size need not be read
  if (stat.size !== bytes) return differs(`${stat.size} bytes`);
  const { sha256 } = fileRecord(root.path(path));
  return sha256 === expected ? path : differs(sha256);
}
