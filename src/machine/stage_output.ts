/** What every grouped stage leaves beside its contribution: the envelope for its downstream and a summary of its execution. */
import { readdirSync } from "node:fs";
import { sealed } from "./documents.ts";
import { contributionFolder } from "./layout.ts";
import type { InvocationManifest, StageAssignment } from "./manifest.ts";
import type { ArtifactPaths, Outcome } from "./packets.ts";
import { bindingOf, type RunRoot } from "./run_root.ts";
import {
  type StageTransport,
  stageExecutionSummary,
  stagePayload,
  stageTransport,
} from "./stage_documents.ts";
import {
  executionSummaryName,
  givenKindOf,
  madeKindOf,
  outputPayloadName,
  outputTransportName,
} from "./stage_files.ts";
import { tensorFile } from "./stage_tensor.ts";
import { checkInputTransport } from "./stage_transport.ts";
import { type ArtifactManifest, contributionId, type WorkIdentity } from "./window.ts";

type Stage = {
  readonly root: RunRoot;
  readonly manifest: InvocationManifest;
  readonly stage: StageAssignment;
  readonly work: WorkIdentity;
};

const folderOf = ({ work }: Stage): string => contributionFolder(work.windowId, contributionId(work));

type Output = { readonly envelope: StageTransport; readonly payloadDigest: string };

/** The envelope that a downstream is started with; the tensors of the steps come beside it. None for the last stage. */
export function writeOutput(given: Stage): Output | undefined {
  const { root, manifest, stage, work } = given;
  if (stage.downstream_stage_id === null) return undefined;
  const identity = {
    ...{ run_id: work.runId, window_id: work.windowId, assignment_id: work.assignmentId },
    replica_id: stage.replica_id,
  };
  const payload = sealed(stagePayload, {
    lane_id: work.laneId,
    ...identity,
    ...{ stage_id: stage.stage_id, node_pubkey: work.node },
    detail: "Activations of the steps lie beside this.",
  });
  const payloadPath = `${folderOf(given)}/${outputPayloadName}`;
  root.write(payloadPath, payload);
  const { artifact_digest, artifact_bytes } = root.bind("payload", payloadPath).artifact_ref;
  const envelope = sealed(stageTransport, {
    ...{ lane_id: work.laneId, network_id: manifest.coordination.network_id },
    ...identity,
    ...{ from_stage_id: stage.stage_id, to_stage_id: stage.downstream_stage_id },
    ...{ handoff_kind: "activation", transport: "wider_network_stream" },
    payload_path: outputPayloadName,
    ...{ payload_sha256: artifact_digest ?? "", payload_bytes: artifact_bytes ?? 0 },
    source_stage_assignment_digest: stage.assignment_digest,
    detail: "Activations of the steps come beside this, numbered.",
  });
  root.write(`${folderOf(given)}/${outputTransportName}`, envelope);
  return { envelope, payloadDigest: payload.payload_digest };
}

export type WrittenStage = Pick<
  ArtifactPaths,
  | "grouped_stage_output_transport_path"
  | "grouped_stage_output_payload_path"
  | "grouped_stage_execution_summary_path"
>;

/** Throws where a worker's input does not hold; a resumed stage has none. */
export function writeStageEvidence(given: Stage, outcome: Outcome): WrittenStage {
  const { root, manifest, stage, work } = given;
  const folder = folderOf(given);
  const output = writeOutput(given);
  const input = manifest.grouped_stage_input_transport === null ? undefined : checkInputTransport(manifest);
  const summaryPath = `${folder}/${executionSummaryName}`;
  const summary = sealed(stageExecutionSummary, {
    ...{ lane_id: work.laneId, network_id: manifest.coordination.network_id, run_id: work.runId },
    ...{ window_id: work.windowId, assignment_id: work.assignmentId },
    ...{ contribution_id: contributionId(work), node_pubkey: work.node },
    ...{ grouped_stage_assignment: stage, outcome: outcome.outcome },
    input_transport_path: input ? `${folder}/artifacts/grouped_stage_input_transport.json` : null,
    input_transport_digest: input?.envelope.transport_digest ?? null,
    input_payload_digest: input?.payload.payload_digest ?? null,
    output_transport_path: output ? `${folder}/${outputTransportName}` : null,
    output_transport_digest: output?.envelope.transport_digest ?? null,
    output_payload_path: output ? `${folder}/${outputPayloadName}` : null,
    output_payload_digest: output?.payloadDigest ?? null,
    detail: `Stage ${stage.stage_index + 1} of ${stage.stage_count}: ${manifest.operation}.`,
  });
  root.write(summaryPath, summary);
  return {
    grouped_stage_output_transport_path: output ? root.path(`${folder}/${outputTransportName}`) : null,
    grouped_stage_output_payload_path: output ? root.path(`${folder}/${outputPayloadName}`) : null,
    grouped_stage_execution_summary_path: root.path(summaryPath),
  };
}

/**
 * What a stage was given and what it made, step by step, as far as it came; with them a step can be done again. Bound where
 * they lie, since nothing writes them again but the same work.
 */
export function stageArtifacts(root: RunRoot, folder: string): ArtifactManifest["artifacts"] {
  const own: readonly (readonly [string, string])[] = [
    ["grouped_stage_output_transport", outputTransportName],
    ["grouped_stage_output_payload", outputPayloadName],
    ["grouped_stage_execution_summary", executionSummaryName],
  ];
  const copies = readdirSync(root.path(`${folder}/artifacts`)).flatMap((name) => {
    const kind = givenKindOf(name);
    return kind === undefined ? [] : [[kind, `artifacts/${name}`] as const];
  });
  const made = readdirSync(root.path(folder)).flatMap((name) => {
    const kind = madeKindOf(name);
    return kind === undefined ? [] : [[kind, name] as const];
  });
  return [...own.filter(([, name]) => root.has(`${folder}/${name}`)), ...copies, ...made].map(
    ([kind, name]) => ({
      artifact_kind: kind,
      binding: bindingOf(kind, tensorFile(root.path(`${folder}/${name}`)), `${folder}/${name}`),
    }),
  );
}
