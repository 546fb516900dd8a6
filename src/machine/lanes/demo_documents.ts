/** Documents of the demo lane. */
import { operations } from "../contract.ts";
import { document } from "../documents.ts";
import { bool, byName, count, filled, float, listOf, oneOf, orNull, record, str } from "../fields.ts";

const head = { lane_id: filled, run_id: filled };
const phase = oneOf(["dry_run_planned", "completed", "rehearsed"]);
/** Losses are null where nothing was trained. */
const progress = {
  ...{ latest_checkpoint_label: orNull(str), last_completed_step: count },
  ...{ initial_loss: orNull(float), final_loss: orNull(float) },
};
const steps = listOf(
  record({ step: count, loss_before: float, loss_after: float, gradient_norm: float, learning_rate: float }),
);

export const demoLaunch = document("psion.cs336_a1_demo_launch_manifest.v1", {
  ...{ ...head, operation: oneOf(operations), dry_run: bool, steps: count, weights: count },
  ...{ selected_git_ref: orNull(str), git_commit_sha: str, build_digest: str, claim_boundary: str },
});

export const demoStatus = document("psion.cs336_a1_demo_current_run_status.v1", {
  ...{ ...head, phase, ...progress, updated_at_ms: count },
});

export const demoSummary = document("psion.cs336_a1_demo_retained_summary.v1", {
  ...{ ...head, last_known_phase: phase, ...progress, steps, claim_boundary: str },
});

export const demoCloseout = document("psion.cs336_a1_demo_closeout_bundle.v1", {
  ...{ ...head, outcome: oneOf(["accepted"]), checkpoint_label: str, steps, claim_boundary: str },
});

const numbers = byName(listOf(float));

/** The bytes of the checkpoint: weights and moments by the names of their tensors. */
export const demoCheckpoint = document("psion.cs336_a1_demo_reference_checkpoint.v1", {
  ...{ ...head, optimizer_step: count, shapes: byName(listOf(count)) },
  ...{ weights: numbers, first_moments: numbers, second_moments: numbers },
});
