/** Where things lie in a run root, relative to it. */
import { sha256 } from "../core/digest.ts";

export const membershipPath = "status/membership_revision_receipt.json";
export const runPacketPath = "status/psionic_train_run_status_packet.json";
export const windowPacketPath = "status/psionic_train_window_status_packet.json";
export const retainedSummaryPath = "status/retained_summary.json";
export const launchManifestPath = "manifests/launch_manifest.json";
export const resumeManifestPath = "manifests/resume_manifest.json";
export const launcherLogPath = "logs/launcher.log";
export const closeoutPath = "closeout/closeout_bundle.json";

export const pointerPath = "checkpoints/latest_accepted_checkpoint_pointer.json";
export const surfacePath = "status/checkpoint_surface.json";
export const statusPath = "status/current_run_status.json";
export const backupReceiptPath = "checkpoints/latest_accepted_checkpoint_backup_receipt.json";
export const backupPointerPath = "checkpoints/backups/latest_accepted_checkpoint_pointer.backup.json";
export const autoResumePath = "checkpoints/auto_resume_receipt.json";
export const recoveryPath = "checkpoints/grouped_stage_recovery_receipt.json";
export const handoffPath = "status/peer_checkpoint_handoff_receipt.json";
export const backupManifestPathOf = (step: number | bigint): string =>
  `checkpoints/backups/step-${step}/checkpoint_manifest.backup.json`;
export const drillPathOf = (name: string): string => `checkpoints/failures/${name}_drill.json`;

/** Where the generic manifest of a step lies. */
export const manifestPathOf = (step: number | bigint): string =>
  `checkpoints/manifests/checkpoint_manifest_step-${String(step).padStart(6, "0")}.json`;

export const windowFolder = (windowId: string): string => `windows/${windowId}`;
export const contributionFolder = (windowId: string, contributionId: string): string =>
  `windows/${windowId}/contributions/${contributionId}`;
/** The challenge's id itself is no part of a path. */
export const validatorFolder = (windowId: string, challengeId: string): string =>
  `windows/${windowId}/validators/challenge-${sha256(challengeId).slice(0, 32)}`;
/** Beside a validator's scores. */
export const reexecutionName = "reexecution.json";
export const stageReplayName = "grouped_stage_replay_evidence.json";
export const replayProofName = "weak_device_validation_replay_proof.json";
export const resolvedFolder = "artifacts/resolved";
/** What a lane trains; absent: its built-in profile. */
export const laneProfilePath = "manifests/lane_profile.json";
/** Evidence of the last window that was trained here. */
export const evidencePath = "evidence/execution_evidence.json";
/** The profile that window was of, and its retained states. */
export const trainedProfilePath = "evidence/lane_profile.json";
export const retainedFolder = "evidence/retained";
export const retainedPathOf = (step: number): string =>
  `${retainedFolder}/step-${String(step).padStart(6, "0")}.safetensors`;
/** Adapters as they were after that window, for whoever serves them. */
export const adapterFolder = "evidence/adapter";
/** The bytes of a checkpoint of the windowed lanes; their SHA-256 is the checkpoint's object digest. */
export const objectPathOf = (step: number | bigint): string => `checkpoints/step-${step}/state.safetensors`;
/** Beside it on the actual lane: the profile that it was trained with. */
export const profilePathOf = (step: number | bigint): string => `checkpoints/step-${step}/lane_profile.json`;
