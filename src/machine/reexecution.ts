/** The grounds of a verdict, beside the score artifact: what was done again, how it was chosen, and what came out otherwise. */
import { type Content, document } from "./documents.ts";
import { count, digest, filled, listOf, maybe, oneOf, orNull, record, str, u32 } from "./fields.ts";

/** `bit_for_bit`: backend and kernel library are the worker's. */
export const comparisons = ["bit_for_bit", "within_bounds"] as const;

/**
 * What is known of the state that the window begins with: the seed gives it; it is the end of a window whose work held before
 * this validator, which itself began so; the validator's manifest names it; or only the worker says what it is. Steps that this
 * validator judged as another window of the run are `repeated`, whatever they begin with.
 */
export const startStates = ["seed", "accepted", "given", "unverified", "repeated"] as const;

/**
 * How a stage stands to a neighbour's contribution: there is no such neighbour; both say the same of what passed; none was
 * judged here; or they contradict each other.
 */
export const neighbourStates = ["none", "agrees", "unjudged", "contradicts"] as const;

/** Of grouped work: which stage, and what passed between it and its neighbours. */
const stageGrounds = record({
  ...{ window_id: filled, assignment_id: filled, replica_id: filled, stage_id: filled, stage_index: u32 },
  assignment_digest: digest,
  input_transport_digest: orNull(digest),
  output_transport_digest: orNull(digest),
  crossings: listOf(
    record({
      step: count,
      kind: oneOf(["activation", "gradient", "norm"]),
      way: oneOf(["given", "made"]),
      /** Of the numbers and what goes with them: what they answer, the loss, sums of squares. */
      digest,
    }),
  ),
  upstream: oneOf(neighbourStates),
  downstream: oneOf(neighbourStates),
});

/** Numbers with a fraction stand as text, since new documents hash integers and strings alone. */
export const reexecution = document(
  "psionic.train.reexecution.v1",
  {
    lane_id: filled,
    work_class: filled,
    /** Of what was to be trained; missing in verdicts of before it was kept, which vouch for nothing. */
    lane_profile_digest: maybe(digest),
    challenged_run_id: filled,
    contribution_id: filled,
    contribution_digest: digest,
    challenge_id: filled,
    /** Drawn by the validator after the contribution was sealed; with challenge and digest it decides what is drawn. */
    nonce: digest,
    mode: oneOf(["full", "sampled"]),
    comparison: oneOf(comparisons),
    total_steps: count,
    /** Of the run, and the states before and after the window as its evidence has them. */
    first_step: count,
    last_step: count,
    start_state_digest: digest,
    end_state_digest: digest,
    start_state: oneOf(startStates),
    stage: maybe(stageGrounds),
    /** Stretches between retained states, of which `drawn_segments` were done again, in their order. */
    segment_count: count,
    drawn_segments: listOf(record({ first_step: count, last_step: count })),
    reexecuted_steps: listOf(count),
    /** Chance that a forged step is among those done again, the same for every step, millionths. */
    forged_step_caught_ppm: count,
    /** What was allowed to differ; null where every bit had to agree. */
    bounds: orNull(
      record({
        ...{ loss_relative: str, gradient_norm_relative: str, update_relative: str },
        ...{ moments_relative: str, direction_relative: str },
      }),
    ),
    /** Of all that were found; the first hundred are listed. */
    difference_count: count,
    differences: listOf(record({ what: filled, expected: str, observed: str })),
    /** The largest there was, also where it is allowed; null where every bit agreed. */
    largest_deviation: orNull(record({ what: filled, relative: str })),
    worker_backend: filled,
    worker_kernel_library_digest: orNull(digest),
    validator_backend: filled,
    validator_kernel_library_digest: orNull(digest),
    /** Of the whole window as the worker tells it; null where it does not. */
    worker_ms: orNull(count),
    validator_ms: count,
    /** Validator's time over the worker's, millionths. */
    cost_ppm: orNull(count),
    reexecution_digest: str,
  },
  { field: "reexecution_digest", prefix: "psionic_train_reexecution|" },
);
export type Reexecution = Content<typeof reexecution>;
