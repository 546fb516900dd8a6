/** What a lane trains, and what its run of a window can be done again from. New documents hash integers and strings alone. */
import { workClasses } from "./contract.ts";
import { type Content, document } from "./documents.ts";
import { count, digest, filled, listOf, oneOf, orNull, record, str } from "./fields.ts";

export const laneProfile = document(
  "psionic.train.lane_profile.v1",
  {
    lane_id: filled,
    /** Name of the model and its settings as text, in order. */
    model: record({ name: filled, settings: listOf(record({ name: filled, value: str })) }),
    /** Digest of the weights that a run begins with; null: made from the seed. */
    base_digest: orNull(digest),
    data: listOf(record({ identity: filled, digest })),
    token_start: count,
    token_end: count,
    steps: count,
    seed: str,
    optimizer: record({ name: filled, settings: listOf(record({ name: filled, value: str })) }),
    profile_digest: str,
  },
  { field: "profile_digest", prefix: "psionic_train_lane_profile|" },
);
export type LaneProfile = Content<typeof laneProfile>;

/** Artifact kind of the state after a step. */
export const retainedKind = (step: number): string => `retained_state_step_${String(step).padStart(6, "0")}`;

/** Artifact kind `execution_evidence`; floats are 32-bit and stand as text. */
export const executionEvidence = document(
  "psionic.train.execution_evidence.v1",
  {
    lane_id: filled,
    work_class: oneOf(workClasses),
    run_id: filled,
    window_id: orNull(filled),
    assignment_id: orNull(filled),
    lane_profile_digest: digest,
    start_state_digest: digest,
    data: record({
      identity: filled,
      digest,
      token_ranges: listOf(record({ step: count, start: count, end: count })),
    }),
    seed: str,
    steps: listOf(record({ step: count, loss: str, gradient_norm: str, learning_rate: str })),
    /** States after some of the steps, the last among them, kept as artifacts `retainedKind(step)`; empty where none are. */
    retained_states: listOf(record({ step: count, object_digest: digest, object_bytes: count })),
    end_state_digest: digest,
    optimizer_state_digest: digest,
    checkpoint_object_digest: digest,
    backend: filled,
    /** Null where no kernel library took part. */
    kernel_library_digest: orNull(digest),
    plan_digest: digest,
    /** What the steps took, as the worker tells it. */
    duration_ms: orNull(count),
    evidence_digest: str,
  },
  { field: "evidence_digest", prefix: "psionic_train_execution_evidence|" },
);
export type ExecutionEvidence = Content<typeof executionEvidence>;
