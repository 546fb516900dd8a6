/** `psion_cs336_a1_demo_v1`: a tiny run on this machine's processor that really trains, in a fraction of a second. */
import { sha256 } from "../../core/digest.ts";
import { float32 } from "../../core/json.ts";
import { checkpointManifest, checkpointPointer } from "../checkpoint.ts";
import { refuse } from "../contract.ts";
import { type Content, sealed } from "../documents.ts";
import {
  closeoutPath,
  launcherLogPath,
  launchManifestPath,
  manifestPathOf,
  pointerPath,
  retainedSummaryPath,
  statusPath,
} from "../layout.ts";
import type { Invocation } from "../surfaces.ts";
import { demoCloseout, demoLaunch, demoStatus, demoSummary } from "./demo_documents.ts";
import { checkDemoProfile, writeDemoEvidence } from "./demo_evidence.ts";
import { type DemoStep, demoSteps, demoWeightCount, trainDemo } from "./demo_model.ts";
import { demoObject } from "./demo_object.ts";

const label = "bounded_step_000004";
const objectPath = "checkpoints/step-000004/cs336_a1_reference_checkpoint.json";
const claimBoundary =
  "A bounded run on 45 bytes; it shows that steps are taken and bound to evidence, not a useful model.";

/** `start` and `rehearse_base_lane`; a dry run writes what was planned and no checkpoint. */
export function performDemo(invocation: Invocation): string {
  const { manifest, lane } = invocation;
  const { operation } = manifest;
  if (operation !== "start" && operation !== "rehearse_base_lane")
    return refuse(
      "internal_error",
      `lane ${lane.id} has no ${operation}: it starts, runs ${demoSteps} steps and ends`,
    );
  checkDemoProfile(invocation);
  writeLaunch(invocation);
  if (manifest.dry_run) {
    writeStatus(invocation, "dry_run_planned", []);
    return `Planned ${demoSteps} steps of ${demoWeightCount} weights; nothing was trained.`;
  }
  const begun = performance.now();
  const { state, steps } = trainDemo();
  const durationMs = performance.now() - begun;
  const objectDigest = writeCheckpoint(invocation, state, steps);
  writeDemoEvidence(invocation, state, steps, objectDigest, durationMs);
  writeStatus(invocation, operation === "start" ? "completed" : "rehearsed", steps);
  writeCloseout(invocation, steps);
  const [first, last] = [steps[0]!, steps.at(-1)!];
  return `Took ${steps.length} steps; loss of the first window ${first.lossBefore.toFixed(4)}, of the last after its step ${last.lossAfter.toFixed(4)}.`;
}

function head({ manifest, lane }: Invocation) {
  return { lane_id: lane.id, run_id: manifest.run_id ?? "" };
}

function writeLaunch(invocation: Invocation): void {
  const { root, manifest, attestation } = invocation;
  const { operation, dry_run, selected_git_ref } = manifest;
  const { git_commit_sha, build_digest } = attestation;
  root.write(
    launchManifestPath,
    sealed(demoLaunch, {
      ...{ ...head(invocation), operation, dry_run, steps: demoSteps, weights: demoWeightCount },
      ...{ selected_git_ref, git_commit_sha, build_digest, claim_boundary: claimBoundary },
    }),
  );
}

const traced = (step: DemoStep) => ({
  step: step.step,
  loss_before: float32(step.lossBefore),
  loss_after: float32(step.lossAfter),
  gradient_norm: float32(step.gradientNorm),
  learning_rate: float32(step.learningRate),
});

type Phase = Content<typeof demoStatus>["phase"];

function writeStatus(invocation: Invocation, phase: Phase, steps: readonly DemoStep[]): void {
  const { root, now } = invocation;
  const trained = steps.length > 0;
  const progress = {
    latest_checkpoint_label: trained ? label : null,
    last_completed_step: steps.length,
    initial_loss: trained ? float32(steps[0]!.lossBefore) : null,
    final_loss: trained ? float32(steps.at(-1)!.lossAfter) : null,
  };
  root.write(statusPath, sealed(demoStatus, { ...head(invocation), phase, ...progress, updated_at_ms: now }));
  root.write(
    retainedSummaryPath,
    sealed(demoSummary, {
      ...{ ...head(invocation), last_known_phase: phase, ...progress },
      ...{ steps: steps.map(traced), claim_boundary: claimBoundary },
    }),
  );
  const lines = steps.map(
    (s) =>
      `step=${s.step} loss_before=${s.lossBefore} loss_after=${s.lossAfter} gradient_norm=${s.gradientNorm}`,
  );
  const text = [...lines, `phase=${phase}`].map((line) => `${line}\n`).join("");
  root.writeBytes(launcherLogPath, new TextEncoder().encode(text));
}

/** The object first, then the manifest with its real digest and size, then the pointer; the object's digest. */
function writeCheckpoint(
  invocation: Invocation,
  state: ReturnType<typeof trainDemo>["state"],
  steps: readonly DemoStep[],
): string {
  const { root, manifest } = invocation;
  const bytes = demoObject(manifest.run_id ?? "", state, steps);
  root.writeBytes(objectPath, bytes);
  const objectDigest = sha256(bytes);
  const { window_id, assignment_id } = manifest.coordination;
  const bound = window_id !== null && assignment_id !== null;
  const common = {
    ...head(invocation),
    ...(bound && { window_id, assignment_id }),
    grouped_stage_assignment: manifest.grouped_stage_assignment ?? undefined,
    ...{ checkpoint_label: label, optimizer_step: steps.length },
    checkpoint_ref: `checkpoint://psion/cs336_a1_demo/${manifest.run_id}/step-000004`,
  };
  const path = manifestPathOf(steps.length);
  root.write(
    path,
    sealed(checkpointManifest, {
      ...common,
      relative_manifest_path: path,
      checkpoint_object_digest: objectDigest,
      checkpoint_total_bytes: bytes.byteLength,
    }),
  );
  root.write(
    pointerPath,
    sealed(checkpointPointer, {
      ...common,
      pointer_state: "accepted",
      checkpoint_manifest_relative_path: path,
      detail: "Written after the checkpoint and its manifest.",
    }),
  );
  return objectDigest;
}

function writeCloseout(invocation: Invocation, steps: readonly DemoStep[]): void {
  const closeout = { outcome: "accepted", checkpoint_label: label, steps: steps.map(traced) } as const;
  invocation.root.write(
    closeoutPath,
    sealed(demoCloseout, { ...head(invocation), ...closeout, claim_boundary: claimBoundary }),
  );
}
