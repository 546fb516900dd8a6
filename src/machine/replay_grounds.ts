/** The grounds of a verdict: what doing the work again showed, and whether evidence and checkpoint are of this contribution. */
import { sealed } from "./documents.ts";
import type { ExecutionEvidence, LaneProfile } from "./evidence.ts";
import { record, str, u64 } from "./fields.ts";
import { type Reexecution, reexecution } from "./reexecution.ts";
import { replayed } from "./replay_inputs.ts";
import { stageGrounds } from "./replay_neighbours.ts";
import type { StageEvidence } from "./replay_stage.ts";
import { givenStart, heldBefore, startOf, takenOver } from "./replay_start.ts";
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
  const told =
    start.state === "unverified" ? `${steps}; nothing here vouches for the state it began with` : steps;
  return { document, told };
}

/** Evidence of other work than the receipt's is evidence of nothing. */
function foreign({ receipt, evidence }: Redoable): Difference[] {
  return (["lane_id", "work_class", "run_id", "window_id", "assignment_id"] as const)
    .filter((field) => receipt[field] !== evidence[field])
    .map((field) => ({ what: field, expected: receipt[field], observed: evidence[field] ?? "null" }));
}

/** Surface and manifest must name one checkpoint, and that must be a state which the work came to, or began with. */
function lineage({ receipt, surface, evidence, files }: Redoable): Difference[] {
  const named = surface.checkpoint_object_digest;
  // no checkpoint was accepted yet
  if (named === null) return [];
  const states = [evidence.start_state_digest, ...evidence.retained_states.map((s) => s.object_digest)];
  const made = evidence.checkpoint_object_digest;
  const differences: Difference[] = [];
  if (named !== made && !states.includes(named))
    differences.push({
      what: "checkpoint_surface.checkpoint_object_digest",
      expected: made,
      observed: named,
    });
  const file = files.get("checkpoint_manifest");
  if (!file) return differences;
  const found = replayed(namedCheckpoint, file);
  const expected = [
    ["checkpoint_object_digest", named],
    ["run_id", ranUnder(files, receipt, found)],
    ["optimizer_step", String(surface.optimizer_step)],
    ["manifest_digest", surface.checkpoint_manifest_digest ?? "null"],
  ] as const;
  for (const [field, value] of expected) {
    const observed = String(found[field]);
    if (observed !== value)
      differences.push({ what: `checkpoint_manifest.${field}`, expected: value, observed });
  }
  return differences;
}

/** The run that a checkpoint manifest must name: what was taken over from a peer keeps the name of its run. */
function ranUnder(files: Redoable["files"], receipt: Redoable["receipt"], found: NamedCheckpoint): string {
  const taken = takenOver(files);
  const theirs =
    taken !== undefined &&
    // who hands on what it took over has its own receipt in the place of the one that it came with
    [taken.peer_node_pubkey, taken.serving_node_pubkey].includes(receipt.node_pubkey) &&
    taken.checkpoint_object_digest === found.checkpoint_object_digest &&
    BigInt(taken.optimizer_step) === BigInt(found.optimizer_step);
  return theirs ? taken.source_run_id : receipt.run_id;
}

/** What the manifests of both families of checkpoints say. */
const namedCheckpoint = {
  schema: record({ run_id: str, optimizer_step: u64, checkpoint_object_digest: str, manifest_digest: str }),
  digest: undefined,
};
type NamedCheckpoint = ReturnType<typeof replayed<(typeof namedCheckpoint)["schema"]>>;
