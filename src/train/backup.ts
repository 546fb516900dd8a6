/**
 * A second copy of the accepted checkpoint, and the way back from it. The copy is of the real files, read again and hashed
 * where it lies; what is restored is hashed again before it takes the checkpoint's place.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { PsionicError } from "../core/error.ts";
import type { Json } from "../models/files/strict_json.ts";
import { type BackupStore, backupStore } from "./backup_store.ts";
import { stepFolder } from "./checkpoint.ts";
import { writeWhole } from "./durable.ts";
import {
  log,
  type Run,
  readDocument,
  retainedPaths,
  schemaId,
  surfaceId,
  withDigest,
  write,
} from "./run_root.ts";

const backups = "checkpoints/backups";
export const backupPointerPath = `${backups}/latest_accepted_checkpoint_pointer.backup.json`;
const backupManifestPath = (step: number): string =>
  `${backups}/step-${step}/checkpoint_manifest.backup.json`;

type Document = { readonly [key: string]: Json };
export type Accepted = {
  readonly step: number;
  readonly label: string;
  readonly ref: string;
  readonly digest: string;
};

const textOf = (root: string, path: string): string => readFileSync(join(root, path), "utf8");
const reference = (root: string, path: string) => ({ path, sha256: sha256(textOf(root, path)) });

/** Copies the accepted checkpoint into the store and writes the receipt. */
export async function backUp(run: Run, accepted: Accepted, store: BackupStore): Promise<void> {
  const { step, digest } = accepted;
  await store.keep(join(run.root, "checkpoints", stepFolder(step)), step, digest);
  const manifest = `checkpoints/${stepFolder(step)}/checkpoint_manifest.json`;
  const copies = [
    [retainedPaths.latest_checkpoint_pointer_path, backupPointerPath],
    [manifest, backupManifestPath(step)],
  ] as const;
  for (const [from, copy] of copies)
    writeWhole(join(run.root, copy), [new TextEncoder().encode(textOf(run.root, from))]);
  writeReceipt(run, accepted, store, null);
  log(run, "checkpoint_backed_up", surfaceId(run.lane, "backup"), {
    checkpoint_label: accepted.label,
    backup_state: "backed_up",
  });
}

/** Records that the accepted checkpoint was not copied, with a drill; an earlier copy's receipt is replaced. */
export function refuseBackup(
  run: Run,
  accepted: Accepted,
  store: Pick<BackupStore, "root" | "credentials">,
  reason: string,
): void {
  writeReceipt(run, accepted, store, reason);
  writeDrill(run, "failed_upload", accepted.step, reason);
  log(run, "checkpoint_backup_refused", surfaceId(run.lane, "backup"), {
    checkpoint_label: accepted.label,
    backup_state: "refused",
  });
}

/** `refusal`: why there is no copy; null where there is one. */
function writeReceipt(
  run: Run,
  accepted: Accepted,
  store: Pick<BackupStore, "root" | "credentials">,
  refusal: string | null,
): void {
  const { step } = accepted;
  const copy = (path: string) => (refusal === null ? reference(run.root, path) : null);
  const receipt = withDigest("checkpoint_backup_receipt", "receipt_digest", {
    schema_version: schemaId("checkpoint_backup_receipt"),
    lane_id: run.lane.id,
    run_id: run.runId,
    checkpoint_label: accepted.label,
    optimizer_step: step,
    checkpoint_ref: accepted.ref,
    ...run.git,
    primary_pointer: reference(run.root, retainedPaths.latest_checkpoint_pointer_path),
    primary_checkpoint_manifest: reference(
      run.root,
      `checkpoints/${stepFolder(step)}/checkpoint_manifest.json`,
    ),
    backup_pointer: copy(backupPointerPath),
    backup_checkpoint_manifest: copy(backupManifestPath(step)),
    remote_backup_root: store.root,
    credential_source_names: store.credentials,
    backup_state: refusal === null ? "backed_up" : "refused",
    upload_outcome: refusal === null ? "succeeded" : "failed",
    upload_failure_reason: refusal,
    claim_boundary: run.lane.claimBoundary,
    detail: refusal === null ? "The copy was read again and hashed." : "Nothing was copied.",
    receipt_digest: "",
  });
  write(run, retainedPaths.latest_checkpoint_backup_receipt_path, receipt);
}

/** The checkpoint of the backup receipt put back in its place with its pointer; throws where the copy is not whole. */
export async function restoreFromBackup(run: Run): Promise<Accepted> {
  const receipt = readDocument(run.root, retainedPaths.latest_checkpoint_backup_receipt_path);
  const again = withDigest("checkpoint_backup_receipt", "receipt_digest", {
    ...receipt,
    receipt_digest: "",
  } as Document & { receipt_digest: string });
  const step = Number(receipt.optimizer_step);
  const whole =
    again.receipt_digest === receipt.receipt_digest &&
    receipt.run_id === run.runId &&
    receipt.backup_state === "backed_up" &&
    Number.isSafeInteger(step);
  if (!whole)
    throw new PsionicError(
      "digest_mismatch",
      "[train resume] expected a backup receipt of this run, got another",
    );
  for (const [field, path] of [
    ["backup_pointer", backupPointerPath],
    ["backup_checkpoint_manifest", backupManifestPath(step)],
  ] as const) {
    const wanted = (receipt[field] as { readonly sha256?: Json } | undefined)?.sha256;
    if (sha256(textOf(run.root, path)) !== wanted) {
      throw new PsionicError(
        "digest_mismatch",
        `[train resume] expected ${path} as the backup receipt names it, got another`,
      );
    }
  }
  const manifest = readDocument(run.root, backupManifestPath(step));
  const digest = String(manifest.checkpoint_object_digest);
  const store = backupStore(String(receipt.remote_backup_root));
  await store.bring(step, digest, join(run.root, "checkpoints"));
  const put = (from: string, to: string): void =>
    writeWhole(join(run.root, to), [new TextEncoder().encode(textOf(run.root, from))]);
  put(backupManifestPath(step), `checkpoints/${stepFolder(step)}/checkpoint_manifest.json`);
  put(backupPointerPath, retainedPaths.latest_checkpoint_pointer_path);
  return {
    step,
    label: String(receipt.checkpoint_label),
    ref: String(receipt.checkpoint_ref),
    digest,
  };
}

/** What was done about a pointer that could not be used, or a copy that failed. */
export function writeDrill(
  run: Run,
  kind: "corrupt_pointer" | "stale_pointer" | "failed_upload",
  step: number,
  refusal: string | null,
): void {
  const drill = withDigest("checkpoint_failure_drill", "receipt_digest", {
    schema_version: schemaId("checkpoint_failure_drill"),
    lane_id: run.lane.id,
    run_id: run.runId,
    drill_id: `psion_actual_pretraining_checkpoint_failure_drill::${step}::${kind}`,
    drill_kind: kind,
    trigger_surface: kind === "failed_upload" ? "backup" : "resume",
    ...run.git,
    outcome: refusal === null ? "recovered_without_manual_edit" : "retained_refusal",
    evidence_paths: [
      kind === "failed_upload"
        ? retainedPaths.latest_checkpoint_backup_receipt_path
        : retainedPaths.auto_resume_receipt_path,
      retainedPaths.latest_checkpoint_pointer_path,
    ],
    refusal_reason: refusal,
    claim_boundary: run.lane.claimBoundary,
    detail:
      refusal === null
        ? "The checkpoint was restored from its backup."
        : kind === "failed_upload"
          ? "The checkpoint itself is intact; the copy is to be made again."
          : "No backup could take its place.",
    receipt_digest: "",
  });
  write(run, `checkpoints/failures/${kind}_drill.json`, drill);
}
