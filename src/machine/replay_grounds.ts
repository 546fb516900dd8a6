/** The grounds of a verdict: what doing the work again showed, and whether evidence and checkpoint are of this contribution. */
import { type HandoffReceipt, handoffReceipt } from "./checkpoint.ts";
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
      file: (kind) => files.get(kind),
    },
    {
      ...{ challengeId, contributionDigest: contribution_digest, nonce },
      ...(invocation.replaySteps !== undefined && { steps: invocation.replaySteps }),
    },
  );
  const start = startOf(invocation, target);
  const strangers = [...foreign(target), ...lineage(target), ...start.differences];
  const validatorMs = Math.round(performance.now() - begun);
  const workerMs = evidence.duration_ms;
  const document = sealed(reexecution, {
    ...{ lane_id: lane.id, work_class, challenged_run_id: receipt.run_id },
    ...{ contribution_id, contribution_digest },
    ...{ challenge_id: challengeId, nonce },
    ...redone,
    start_state: start.state,
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

function takenOver(files: Redoable["files"]): HandoffReceipt | undefined {
  const file = files.get("checkpoint_handoff_receipt");
  return file && replayed(handoffReceipt, file);
}

/** What the window begins with, as far as this validator knows it; where the window before held here, that one's end. */
function startOf(
  { root }: Invocation,
  { receipt, evidence, files }: Redoable,
): { readonly state: Reexecution["start_state"]; readonly differences: readonly Difference[] } {
  const before = (evidence.steps[0]?.step ?? 1) - 1;
  const taken = takenOver(files);
  const differences: Difference[] = [];
  const differ = (what: string, expected: string, observed: string): void => {
    if (expected !== observed) differences.push({ what, expected, observed });
  };
  // the receipt of a checkpoint that this node served is made out to another, and says nothing of this window
  const own = taken !== undefined && taken.serving_node_pubkey !== receipt.node_pubkey;
  if (own) differ("checkpoint_handoff_receipt.peer_node_pubkey", receipt.node_pubkey, taken.peer_node_pubkey);
  if (before === 0) return { state: "seed", differences };
  const observed = evidence.start_state_digest;
  const begins =
    taken?.peer_node_pubkey === receipt.node_pubkey && BigInt(taken.optimizer_step) === BigInt(before);
  if (begins)
    differ("checkpoint_handoff_receipt.checkpoint_object_digest", observed, taken.checkpoint_object_digest);
  const runs = begins ? [receipt.run_id, taken.source_run_id] : [receipt.run_id];
  const known = verdictFiles(root, reexecutionName)
    .map((path) => replayed(reexecution, foundFile(root.path(path))))
    .filter(
      (r) =>
        r.lane_id === receipt.lane_id &&
        r.work_class === receipt.work_class &&
        runs.includes(r.challenged_run_id) &&
        r.last_step === before &&
        r.difference_count === 0,
    );
  const ends = known.map((r) => r.end_state_digest);
  if (ends[0] !== undefined && !ends.includes(observed)) differ("start_state_digest", ends[0], observed);
  // a window that follows one of unknown beginning is no better known than that
  const held = known.some((r) => r.end_state_digest === observed && r.start_state !== "unverified");
  return { state: held ? "accepted" : "unverified", differences };
}

/** What the manifests of both families of checkpoints say. */
const namedCheckpoint = {
  schema: record({ run_id: str, optimizer_step: u64, checkpoint_object_digest: str, manifest_digest: str }),
  digest: undefined,
};
type NamedCheckpoint = ReturnType<typeof replayed<(typeof namedCheckpoint)["schema"]>>;
