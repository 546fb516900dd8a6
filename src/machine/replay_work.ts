/** The part of a validation that costs time: steps are drawn, done again, and held against what the worker says came out. */

import { float32Text } from "../core/json.ts";
import type { Reexecution } from "./reexecution.ts";
import { boundsOf, type ReplayBounds } from "./replay_bounds.ts";
import { type ReplayPlan, replayPlan, stepsOf } from "./replay_plan.ts";
import type {
  ComparedState,
  ComparedStep,
  Comparison,
  Difference,
  ReplayTarget,
  WindowReplayer,
} from "./window_replayer.ts";

/** As many differences as a document lists; their number is told besides. */
export const mostListed = 100;

export type Challenge = {
  readonly challengeId: string;
  readonly contributionDigest: string;
  /** 64 hex digits that nobody knew when the contribution was sealed. */
  readonly nonce: string;
  readonly steps?: number | "all";
};

/** What `reexecution.json` tells of the work itself. */
export type Redone = Omit<
  Reexecution,
  | "schema_version"
  | "lane_id"
  | "work_class"
  | "challenged_run_id"
  | "contribution_id"
  | "contribution_digest"
  | "challenge_id"
  | "nonce"
  | "worker_ms"
  | "validator_ms"
  | "cost_ppm"
  | "lane_profile_digest"
  | "start_state"
  | "stage"
  | "reexecution_digest"
>;

export const drawnNonce = (): string => crypto.getRandomValues(new Uint8Array(32)).toHex();

/** Draws, runs and compares. Throws a `Refusal` where what is needed for that is missing. */
export function redo(replayer: WindowReplayer, target: ReplayTarget, challenge: Challenge): Redone {
  const { evidence } = target;
  const plan = replayPlan(replayer.segments(evidence), challenge, challenge.steps);
  const steps = stepsOf(plan.drawn);
  // every segment from what the worker retained, so that what other kernels round differently does not add up
  const comparison = replayer.replay(target, steps);
  const { name, settings } = target.profile.optimizer;
  const precision = settings.find((setting) => setting.name === "precision")?.value ?? "f32";
  const bounds = comparison.sameKernels ? undefined : boundsOf(evidence.work_class, { name, precision });
  const found = [
    ...comparison.differences,
    ...missed(plan, comparison),
    ...comparison.steps.flatMap((step) => stepDifferences(step, bounds)),
    ...comparison.states.flatMap((state) => stateDifferences(state, bounds)),
  ];
  return {
    mode: plan.mode,
    comparison: bounds ? "within_bounds" : "bit_for_bit",
    total_steps: evidence.steps.length,
    ...{ first_step: evidence.steps[0]?.step ?? 0, last_step: evidence.steps.at(-1)?.step ?? 0 },
    ...{ start_state_digest: evidence.start_state_digest, end_state_digest: evidence.end_state_digest },
    segment_count: plan.segmentCount,
    drawn_segments: plan.drawn.map(({ first, last }) => ({ first_step: first, last_step: last })),
    reexecuted_steps: comparison.steps.map(({ step }) => step),
    forged_step_caught_ppm: plan.chancePpm,
    bounds: bounds ? told(bounds) : null,
    difference_count: found.length,
    differences: found.slice(0, mostListed),
    largest_deviation: largest(comparison),
    ...{ worker_backend: evidence.backend, worker_kernel_library_digest: evidence.kernel_library_digest },
    validator_backend: comparison.backend,
    validator_kernel_library_digest: comparison.kernelLibraryDigest,
  };
}

const told = (bounds: ReplayBounds) => ({
  loss_relative: String(bounds.loss),
  gradient_norm_relative: String(bounds.gradientNorm),
  update_relative: String(bounds.update),
  moments_relative: String(bounds.moments),
  direction_relative: String(bounds.direction),
});

/** Steps that were drawn and not run can have shown nothing. */
function missed(plan: ReplayPlan, { steps }: Comparison): Difference[] {
  const run = new Set(steps.map(({ step }) => step));
  return stepsOf(plan.drawn)
    .filter((step) => !run.has(step))
    .map((step) => ({ what: `steps.${step}`, expected: "done again", observed: "nothing" }));
}

/** Of two numbers as evidence writes them; infinite where the claimed one is none, or stands there in other words. */
function relative(claimed: string, observed: string): number {
  if (claimed === observed) return 0;
  const [a, b] = [Number(claimed), Number(observed)];
  const isWritten = Number.isFinite(Math.fround(a)) && float32Text(a) === claimed;
  const distance = Math.abs(a - b) / Math.max(Math.abs(b), Number.MIN_VALUE);
  return isWritten && !Number.isNaN(distance) ? distance : Number.POSITIVE_INFINITY;
}

function stepDifferences(
  { step, claimed, observed }: ComparedStep,
  bounds: ReplayBounds | undefined,
): Difference[] {
  const fields = [
    ["loss", bounds?.loss ?? 0],
    ["gradient_norm", bounds?.gradientNorm ?? 0],
    // a schedule is arithmetic of the host: no backend may change it
    ["learning_rate", 0],
  ] as const;
  return fields
    .filter(([field, most]) =>
      most === 0 ? claimed[field] !== observed[field] : !(relative(claimed[field], observed[field]) <= most),
    )
    .map(([field]) => ({
      what: `steps.${step}.${field}`,
      ...{ expected: claimed[field], observed: observed[field] },
    }));
}

function stateDifferences(state: ComparedState, bounds: ReplayBounds | undefined): Difference[] {
  const { step, claimed: expected, observed } = state;
  if (!bounds) return expected === observed ? [] : [{ what: `states.${step}`, expected, observed }];
  const most: Readonly<Record<string, number>> = {
    [`states.${step}`]: bounds.update,
    [`states.${step}.first_moments`]: bounds.moments,
    [`states.${step}.second_moments`]: bounds.moments,
    [`states.${step}.direction`]: bounds.direction,
  };
  return deviations(state)
    .filter(({ what, by }) => !(by <= (most[what] ?? 0)))
    .map(({ what }) => ({ what, expected, observed }));
}

const deviations = ({ step, weightDeviation, moments }: ComparedState) => [
  { what: `states.${step}`, by: weightDeviation },
  { what: `states.${step}.first_moments`, by: moments.first },
  { what: `states.${step}.second_moments`, by: moments.second },
  { what: `states.${step}.direction`, by: moments.direction },
];

function largest({ steps, states }: Comparison): Redone["largest_deviation"] {
  const all = [
    ...steps.flatMap(({ step, claimed, observed }) =>
      (["loss", "gradient_norm"] as const).map((field) => ({
        what: `steps.${step}.${field}`,
        by: relative(claimed[field], observed[field]),
      })),
    ),
    ...states.flatMap(deviations),
  ];
  const most = all.reduce((a, b) => (b.by > a.by || Number.isNaN(b.by) ? b : a), { what: "", by: 0 });
  return most.by === 0 ? null : { what: most.what, relative: most.by.toPrecision(3) };
}
