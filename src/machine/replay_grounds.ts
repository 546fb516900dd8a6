/** The grounds of a verdict: what doing the work again showed, and whether evidence and checkpoint are of this contribution. */
import { sealed } from "./documents.ts";
import type { ExecutionEvidence, LaneProfile } from "./evidence.ts";
import { record, str, u64 } from "./fields.ts";
import { reexecutionName } from "./layout.ts";
import { type Reexecution, reexecution } from "./reexecution.ts";
import { foundFile, replayed, verdictFiles } from "./replay_inputs.ts";
import type { Target } from "./replay_target.ts";
import { drawnNonce, redo } from "./replay_work.ts";
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

/** `begun`: when validation began, as performance.now() has it. */
export function redoneWork(
  invocation: Invocation,
  target: Redoable,
  work: LaneWork,
  begun: number,
): { readonly document: Reexecution; readonly told: string } {
  const { lane, manifest } = invocation;
  const { receipt, evidence, files } = target;
  const nonce = drawnNonce();
  const challengeId = manifest.coordination.challenge_id ?? "";
  const { contribution_id, contribution_digest, work_class } = receipt;
  const redone = redo(
    work.replayer,
    {
      evidence,
      profile: work.profile(invocation),
      stage: receipt.grouped_stage_assignment,
      file: (kind) => files.get(kind)?.path,
      digest: (kind) => files.get(kind)?.sha256,
    },
    {
      ...{ challengeId, contributionDigest: contribution_digest, nonce },
      ...(invocation.replaySteps !== undefined && { steps: invocation.replaySteps }),
    },
  );
  const strangers = [...foreign(target), ...lineage(target), ...continuity(invocation, target)];
  const validatorMs = Math.round(performance.now() - begun);
  const workerMs = evidence.duration_ms;
  const document = sealed(reexecution, {
    ...{ lane_id: lane.id, work_class, challenged_run_id: receipt.run_id },
    ...{ contribution_id, contribution_digest },
    ...{ challenge_id: challengeId, nonce },
    ...redone,
    difference_count: redone.difference_count + strangers.length,
    differences: [...strangers, ...redone.differences],
    ...{ worker_ms: workerMs, validator_ms: validatorMs },
    cost_ppm: workerMs ? Math.round((1_000_000 * validatorMs) / workerMs) : null,
  });
  const steps = `${redone.reexecuted_steps.length} of ${redone.total_steps} steps again`;
  return { document, told: steps };
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
    // what was taken over from a peer keeps the name of its run
    ["run_id", files.has("checkpoint_handoff_receipt") ? found.run_id : receipt.run_id],
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

/** Where the window before was accepted here, this one must begin with what that one ended in. */
function continuity({ root }: Invocation, { receipt, evidence }: Redoable): Difference[] {
  const first = evidence.steps[0]?.step ?? 1;
  if (first === 1) return [];
  const before = verdictFiles(root, reexecutionName)
    .map((path) => replayed(reexecution, foundFile(root.path(path))))
    .filter(
      (r) =>
        r.lane_id === receipt.lane_id &&
        r.challenged_run_id === receipt.run_id &&
        r.last_step === first - 1 &&
        r.difference_count === 0,
    )
    .map((r) => r.end_state_digest);
  const observed = evidence.start_state_digest;
  const [expected] = before;
  return expected === undefined || before.includes(observed)
    ? []
    : [{ what: "start_state_digest", expected, observed }];
}

/** What the manifests of both families of checkpoints say. */
const namedCheckpoint = {
  schema: record({ run_id: str, optimizer_step: u64, checkpoint_object_digest: str, manifest_digest: str }),
  digest: undefined,
};
