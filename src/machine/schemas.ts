/** Every typed document of the machine runtime, by its schema id. */
import { actualOutputs, actualRequest, demoOutputs, demoRequest } from "./automatic.ts";
import * as checkpoint from "./checkpoint.ts";
import type { AnyDocument } from "./documents.ts";
import { executionEvidence, laneProfile } from "./evidence.ts";
import type { JsonSchema } from "./fields.ts";
import { handoffIndex } from "./handoff_index.ts";
import { attestationDocument } from "./identity.ts";
import { jsonSchemaOf } from "./json_schema.ts";
import * as actual from "./lanes/actual_documents.ts";
import * as demo from "./lanes/demo_documents.ts";
import { hardwareObservation, runShapeObservation } from "./lanes/observations.ts";
import { invocationManifest } from "./manifest.ts";
import { membershipReceipt } from "./membership.ts";
import { runStatusPacket, statusPacket, windowStatusPacket } from "./packets.ts";
import { acceptedOutcomeProof, validationReplayProof } from "./proofs.ts";
import { reexecution } from "./reexecution.ts";
import * as stage from "./stage_documents.ts";
import { stageNorm } from "./stage_norm.ts";
import { stageTensor } from "./stage_tensor.ts";
import { checkpointSurface } from "./surface.ts";
import * as validation from "./validation.ts";
import * as window from "./window.ts";

const all: readonly AnyDocument[] = [
  invocationManifest,
  attestationDocument,
  ...[statusPacket, runStatusPacket, windowStatusPacket],
  membershipReceipt,
  ...[checkpointSurface, checkpoint.checkpointPointer, checkpoint.checkpointManifest],
  ...[checkpoint.handoffReceipt, handoffIndex, checkpoint.recoveryReceipt],
  ...[checkpoint.actualPointer, checkpoint.actualManifest],
  ...[checkpoint.backupReceipt, checkpoint.autoResumeReceipt, checkpoint.drill],
  ...[actual.launchManifest, actual.resumeManifest, actual.currentRunStatus, actual.retainedSummary],
  ...[actual.closeoutBundle, actual.evalDecision, actual.evalFailure, actual.continueRestartDecision],
  ...[demo.demoLaunch, demo.demoStatus, demo.demoSummary, demo.demoCloseout, demo.demoCheckpoint],
  ...[window.windowExecution, window.artifactManifest],
  ...[window.contributionReceipt, window.sealedWindowBundle],
  ...[stage.stagePayload, stage.stageTransport, stage.stageExecutionSummary, stage.stageReplayEvidence],
  ...[stageTensor, stageNorm],
  ...[validation.scoreArtifact, validation.scoreReceipt],
  ...[validation.qualityDriftSignal, validation.rollbackSignal],
  ...[executionEvidence, laneProfile, reexecution],
  ...[acceptedOutcomeProof, validationReplayProof],
  ...[hardwareObservation, runShapeObservation],
  ...[actualRequest, actualOutputs, demoRequest, demoOutputs],
];

export const documents: ReadonlyMap<string, AnyDocument> = new Map(
  all.map((doc) => [doc.id, doc] as const).sort(([a], [b]) => (a < b ? -1 : 1)),
);

/** Documents that others write for us to read. */
const fromOthers: ReadonlySet<string> = new Set([
  ...[invocationManifest.id, actualRequest.id, demoRequest.id],
  ...[hardwareObservation.id, runShapeObservation.id],
]);

/** Documents of the actual lane that `psionic train start` and its like write under the same id, with fields of their own. */
const alsoOperators: ReadonlySet<string> = new Set(
  [
    ...[actual.launchManifest, actual.resumeManifest, actual.currentRunStatus, actual.retainedSummary],
    ...[actual.closeoutBundle, actual.evalDecision, actual.evalFailure, actual.continueRestartDecision],
  ].map(({ id }) => id),
);
const theirs =
  "As train manifest writes it; train start and the other commands for operators write documents of this id with other fields.";

/** A document as JSON Schema, in the form that whoever has it in hand will meet. */
export function exportedSchema(doc: AnyDocument): JsonSchema {
  const schema = jsonSchemaOf(doc, fromOthers.has(doc.id) ? "read" : "written");
  return alsoOperators.has(doc.id) ? { ...schema, $comment: theirs } : schema;
}
