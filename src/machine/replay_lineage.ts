/**
 * Whether the checkpoint that a contribution shows is one that its work came to: surface, pointer, manifest and receipts say
 * the same of it, and what they say follows from the work.
 */
import { orderedJson } from "../core/json.ts";
import {
  type ActualManifest,
  type ActualPointer,
  actualManifest,
  actualPointer,
  autoResumeReceipt,
  type BackupReceipt,
  backupReceipt,
  type CheckpointManifest,
  type CheckpointPointer,
  checkpointManifest,
  checkpointPointer,
  recoveryReceipt,
} from "./checkpoint.ts";
import { actualLane, refuse } from "./contract.ts";
import type { Redoable } from "./replay_grounds.ts";
import { type Found, replayed, schemaIn } from "./replay_inputs.ts";
import { takenOver } from "./replay_start.ts";
import { copyOf, recoverySourceOf } from "./surface.ts";
import type { Difference } from "./window_replayer.ts";

/** A checkpoint as its pointer and its manifest have it; a pointer that names none yet has no manifest. */
type Named = { readonly pointer: Pointer; readonly manifest: Manifest | undefined };
type Pointer = CheckpointPointer | ActualPointer;
type Manifest = CheckpointManifest | ActualManifest;

type Values = Readonly<Record<string, unknown>>;

/** `checkpoint_missing` where the contribution lacks what its surface stands on. */
export function lineage(target: Redoable): Difference[] {
  const { surface, files } = target;
  const pointerFile = files.get("checkpoint_pointer");
  if (!pointerFile) {
    if (surface.pointer_state !== null)
      refuse("checkpoint_missing", "the contribution has no checkpoint_pointer, which its surface stands on");
    return stateDifferences(target);
  }
  const named = namedIn(files, pointerFile);
  const { pointer, manifest } = named;
  const accepted = pointer.pointer_state !== "pending_first_checkpoint";
  if (accepted && !manifest)
    refuse("checkpoint_missing", "the contribution has no checkpoint_manifest, which its pointer names");
  // nothing was accepted yet, so nothing is shown of this work
  if (!manifest || !accepted)
    return different("checkpoint_surface", surface, { pointer_state: pointer.pointer_state });
  return [
    ...pairDifferences(pointer, manifest),
    ...different("checkpoint_manifest", manifest, { run_id: ranUnder(target, manifest) }),
    ...different("checkpoint_surface", surface, surfaceOf(target, { pointer, manifest })),
    ...stateDifferences(target),
    ...placeDifferences(target, manifest),
  ];
}

/** Fields whose value is another than is expected. */
function different(what: string, found: object, expected: Values): Difference[] {
  const fields = found as Values;
  return Object.entries(expected)
    .map(([field, value]) => [field, told(value), told(fields[field])] as const)
    .filter(([, value, observed]) => value !== observed)
    .map(([field, value, observed]) => ({ what: `${what}.${field}`, expected: value, observed }));
}

const told = (value: unknown): string => (value === undefined || value === null ? "null" : String(value));

function namedIn(files: Redoable["files"], pointerFile: Found): Named {
  const file = files.get("checkpoint_manifest");
  if (schemaIn(pointerFile) === checkpointPointer.id) {
    const pointer = replayed(checkpointPointer, pointerFile);
    return { pointer, manifest: file && replayed(checkpointManifest, file) };
  }
  const pointer = replayed(actualPointer, pointerFile);
  return { pointer, manifest: file && replayed(actualManifest, file) };
}

const stageOf = (doc: object): string => {
  const { grouped_stage_assignment: stage } = doc as Partial<CheckpointPointer>;
  return stage === undefined ? "null" : orderedJson(stage);
};

const windowOf = (doc: object) => {
  const { window_id, assignment_id } = doc as Partial<CheckpointPointer>;
  return { window_id, assignment_id };
};

function pairDifferences(pointer: Pointer, manifest: Manifest): Difference[] {
  const { lane_id, run_id, checkpoint_label, optimizer_step, checkpoint_ref } = manifest;
  return [
    ...different("checkpoint_pointer", pointer, {
      ...{ lane_id, run_id, checkpoint_label, optimizer_step, checkpoint_ref },
      ...windowOf(manifest),
      checkpoint_manifest_relative_path: manifest.relative_manifest_path,
    }),
    ...different("checkpoint_pointer", { stage: stageOf(pointer) }, { stage: stageOf(manifest) }),
  ];
}

/** What a surface says of an accepted checkpoint, derived as the worker derives it. */
function surfaceOf({ receipt, surface, files }: Redoable, { pointer, manifest }: Required<Named>): Values {
  const named = manifest ?? refuse("checkpoint_missing", "the contribution has no checkpoint_manifest");
  const generic = pointer.schema_version === checkpointPointer.id;
  // the actual lane's own status names its run, also where the checkpoint is another's
  const ownRun = !generic && surface.run_id === receipt.run_id;
  return {
    lane_id: generic ? pointer.lane_id : actualLane.id,
    run_id: ownRun ? receipt.run_id : pointer.run_id,
    ...windowOf(pointer),
    ...(generic && { grouped_stage_assignment: pointer.grouped_stage_assignment }),
    pointer_state: pointer.pointer_state,
    checkpoint_label: pointer.checkpoint_label,
    optimizer_step: pointer.optimizer_step,
    checkpoint_ref: pointer.checkpoint_ref,
    checkpoint_manifest_digest: named.manifest_digest,
    checkpoint_object_digest: named.checkpoint_object_digest,
    checkpoint_total_bytes: named.checkpoint_total_bytes,
    ...(generic ? genericRecovery(files) : actualRecovery(files, pointer as ActualPointer)),
  };
}

function genericRecovery(files: Redoable["files"]): Values {
  const file = files.get("recovery_receipt");
  const recovery =
    file && schemaIn(file) === recoveryReceipt.id ? replayed(recoveryReceipt, file) : undefined;
  return {
    ...{ backup_state: null, upload_outcome: "succeeded" },
    recovery_resolution_state: recovery?.resolution_state,
    recovery_source_kind: recoverySourceOf(recovery),
    restored_primary_pointer: recovery?.restored_primary_pointer ?? false,
  };
}

function actualRecovery(files: Redoable["files"], pointer: ActualPointer): Values {
  const [copied, resumed] = [files.get("checkpoint_backup_receipt"), files.get("recovery_receipt")];
  const backup: BackupReceipt | undefined = copied && replayed(backupReceipt, copied);
  const { backup_state, upload_outcome } = copyOf(pointer, backup);
  // where a stage was recovered in the same run root, that receipt stands in the place of this one
  if (resumed && schemaIn(resumed) === recoveryReceipt.id) return { backup_state, upload_outcome };
  const resume = resumed && replayed(autoResumeReceipt, resumed);
  return {
    ...{ backup_state, upload_outcome },
    recovery_resolution_state: resume?.resolution_state,
    recovery_source_kind: resume?.resume_source_kind,
    restored_primary_pointer: resume?.restored_primary_pointer,
  };
}

type State = { readonly digest: string; readonly step: number; readonly bytes?: number };

/** States that the work came to, or began with. */
function statesOf({ evidence }: Redoable): State[] {
  const { steps, start_state_digest, retained_states, checkpoint_object_digest } = evidence;
  const [first, last] = [steps[0]?.step ?? 1, steps.at(-1)?.step ?? 0];
  return [
    { digest: start_state_digest, step: first - 1 },
    ...retained_states.map((s) => ({ digest: s.object_digest, step: s.step, bytes: s.object_bytes })),
    { digest: checkpoint_object_digest, step: last },
  ];
}

/** The surface names such a state, by its step and its size. */
function stateDifferences(target: Redoable): Difference[] {
  const { surface, evidence } = target;
  const { checkpoint_object_digest: digest, optimizer_step, checkpoint_total_bytes } = surface;
  // no checkpoint was accepted yet
  if (digest === null) return [];
  const states = statesOf(target).filter((state) => state.digest === digest);
  const what = (field: string): string => `checkpoint_surface.${field}`;
  const [nearest] = states;
  if (!nearest) {
    const expected = evidence.checkpoint_object_digest;
    return [{ what: what("checkpoint_object_digest"), expected, observed: digest }];
  }
  const differences: Difference[] = [];
  if (!states.some(({ step }) => String(step) === String(optimizer_step)))
    differences.push({
      ...{ what: what("optimizer_step"), expected: String(nearest.step), observed: told(optimizer_step) },
    });
  const sizes = states.flatMap(({ bytes }) => bytes ?? []);
  if (sizes.length > 0 && !sizes.some((bytes) => String(bytes) === String(checkpoint_total_bytes)))
    differences.push({
      what: what("checkpoint_total_bytes"),
      ...{ expected: String(sizes[0]), observed: told(checkpoint_total_bytes) },
    });
  return differences;
}

/** What the work ended in is a checkpoint of its window, assignment and stage, where it is one of a window at all. */
function placeDifferences({ receipt, evidence }: Redoable, manifest: Manifest): Difference[] {
  if (manifest.checkpoint_object_digest !== evidence.checkpoint_object_digest) return [];
  const { window_id, assignment_id, grouped_stage_assignment } = receipt;
  const bound = "window_id" in manifest && manifest.window_id !== undefined;
  return [
    ...(bound ? different("checkpoint_manifest", manifest, { window_id, assignment_id }) : []),
    ...("window_id" in manifest || grouped_stage_assignment !== null
      ? different(
          "checkpoint_manifest",
          { stage: stageOf(manifest) },
          { stage: orderedJson(grouped_stage_assignment) },
        )
      : []),
  ];
}

/** The run that a checkpoint manifest must name: what was taken over from a peer keeps the name of its run. */
function ranUnder({ files, receipt }: Redoable, found: Manifest): string {
  const taken = takenOver(files);
  const theirs =
    taken !== undefined &&
    // who hands on what it took over has its own receipt in the place of the one that it came with
    [taken.peer_node_pubkey, taken.serving_node_pubkey].includes(receipt.node_pubkey) &&
    taken.checkpoint_object_digest === found.checkpoint_object_digest &&
    BigInt(taken.optimizer_step) === BigInt(found.optimizer_step);
  return theirs ? taken.source_run_id : receipt.run_id;
}
