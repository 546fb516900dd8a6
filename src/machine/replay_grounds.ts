/** The grounds of a verdict: what doing the work again showed, and whether evidence and checkpoint are of this contribution. */
import { sealed } from "./documents.ts";
import type { ExecutionEvidence, LaneProfile } from "./evidence.ts";
import { type Reexecution, reexecution } from "./reexecution.ts";
import { lineage } from "./replay_lineage.ts";
import { stageGrounds } from "./replay_neighbours.ts";
import type { StageEvidence } from "./replay_stage.ts";
import { givenStart, heldBefore, startOf } from "./replay_start.ts";
import type { Target } from "./replay_target.ts";
import { drawnNonce, mostListed, redo } from "./replay_work.ts";
import type { CheckpointSurface } from "./surface.ts";
import type { Invocation } from "./surfaces.ts";
import type { Difference, WindowReplayer } from "./window_replayer.ts";

/** A lane's way of doing its work again, and what the validator holds that it was to train. */
export type LaneWork = {
  readonly replayer: WindowReplayer;
  /** The profile of the validator's run root, else the lane's built-in one. Throws a `Refusal`. */
  readonly profile: (invocation: Invocation) => LaneProfile;
};

export type Redoable = Target & { readonly evidence: ExecutionEvidence; readonly surface: CheckpointSurface };

/** `stage`: of grouped work, what its documents came to. `begun`: when validation began, as performance.now() has it. */
export function redoneWork(
  invocation: Invocation,
  target: Redoable,
  work: LaneWork,
  stage: StageEvidence | undefined,
  begun: number,
): { readonly document: Reexecution; readonly told: string } {
  const { lane, manifest } = invocation;
  const { receipt, evidence, files } = target;
  // what is wrong with it is told before there is any work
  givenStart(invocation);
  const profile = work.profile(invocation);
  const nonce = drawnNonce();
  const challengeId = manifest.coordination.challenge_id ?? "";
  const { contribution_id, contribution_digest, work_class } = receipt;
  const redone = redo(
    work.replayer,
    {
      evidence,
      profile,
      stage: receipt.grouped_stage_assignment,
      file: (kind) => files.get(kind),
    },
    {
      ...{ challengeId, contributionDigest: contribution_digest, nonce },
      ...(invocation.replaySteps !== undefined && { steps: invocation.replaySteps }),
    },
  );
  const held = heldBefore(invocation, target);
  const start = startOf(invocation, target, held, profile.profile_digest);
  const grouped = stage && stageGrounds(target, stage, held, profile.profile_digest);
  const strangers = [
    ...foreign(target),
    ...lineage(target),
    ...start.differences,
    ...(grouped?.differences ?? []),
  ];
  const validatorMs = Math.round(performance.now() - begun);
  const workerMs = evidence.duration_ms;
  const document = sealed(reexecution, {
    ...{ lane_id: lane.id, work_class, lane_profile_digest: profile.profile_digest },
    challenged_run_id: receipt.run_id,
    ...{ contribution_id, contribution_digest },
    ...{ challenge_id: challengeId, nonce },
    ...redone,
    start_state: start.state,
    stage: grouped?.stage,
    difference_count: redone.difference_count + strangers.length,
    differences: [...strangers, ...redone.differences].slice(0, mostListed),
    ...{ worker_ms: workerMs, validator_ms: validatorMs },
    cost_ppm: workerMs ? Math.round((1_000_000 * validatorMs) / workerMs) : null,
  });
  const steps = `${redone.reexecuted_steps.length} of ${redone.total_steps} steps again`;
  const doubts: Partial<Record<typeof start.state, string>> = {
    unverified: "; nothing here vouches for the state it began with",
    repeated: "; they were judged as another window of this run",
  };
  const told = `${steps}${doubts[start.state] ?? ""}`;
  return { document, told };
}

/** Evidence of other work than the receipt's is evidence of nothing. */
function foreign({ receipt, evidence }: Redoable): Difference[] {
  return (["lane_id", "work_class", "run_id", "window_id", "assignment_id"] as const)
    .filter((field) => receipt[field] !== evidence[field])
    .map((field) => ({ what: field, expected: receipt[field], observed: evidence[field] ?? "null" }));
}
