/** The windowed lanes' way of doing a window again. */
import { float32Text, orderedJson } from "../../core/json.ts";
import { rateAt } from "../../train/schedule.ts";
import { NotFiniteError } from "../../train/trainer.ts";
import { Refusal, refuse } from "../contract.ts";
import { type ExecutionEvidence, laneProfile, retainedKind } from "../evidence.ts";
import { profileFileKind, tokenPaths } from "../evidence_files.ts";
import { boundBytes, type Found, replayed } from "../replay_inputs.ts";
import type {
  ComparedState,
  ComparedStep,
  Comparison,
  Difference,
  ReplayTarget,
  Segment,
  Trace,
  WindowReplayer,
} from "../window_replayer.ts";
import { adapterDifferences } from "./adapter_export.ts";
import { backendsOf } from "./lane_backend.ts";
import { leaves } from "./leaves.ts";
import type { TracedStep } from "./segment_steps.ts";
import { sameState, stateDeviation } from "./state_deviation.ts";
import { type BoundFile, type StateHolder, stateDigest, valuesIn, valuesOf } from "./state_object.ts";
import { type ProfileFiles, planWindow, stepPlanDigest, type WindowPlan, windowData } from "./window_plan.ts";
import { segmentsOf, WindowSession } from "./window_session.ts";

/** Steps of a plan that can be run from a retained state: of a whole model, or of one stage of it. */
export type ReplaySession = Disposable & {
  readonly plan: WindowPlan;
  readonly trainer: StateHolder;
  /** SHA-256 of the kernels that compute. */
  readonly kernels: string;
  /** Goes on from the state in a file, which a worker retained after `step`. */
  take(file: BoundFile, step: number): void;
  run(segment: Segment): TracedStep[];
  /** What was found on the way not to be what the contribution says. */
  readonly differences: readonly Difference[];
};

export type OpenSession = (target: ReplayTarget, backend: string, files: ProfileFiles) => ReplaySession;

const wholeModel: OpenSession = ({ profile }, backend, files) =>
  new WindowSession(planWindow(profile, files), backend);

/** `backend`: what this machine does the work on. */
export function windowReplayer(backend: string, open: OpenSession = wholeModel): WindowReplayer {
  return {
    segments: claimedSegments,
    replay(target, steps) {
      const begun = performance.now();
      using session = open(target, backend, filesOf(target));
      const { plan } = session;
      const kernels = session.kernels;
      const { evidence } = target;
      const drawn = drawnSegments(target, steps);
      const differences = claimDifferences(plan, evidence, session);
      differences.push(...fileDifferences(target, plan), ...workerDifferences(evidence));
      // steps and states that are not those of the window leave nothing to compare with
      const observed = differences.some(({ what }) => /^(retained_states|steps)\.\d+\.step$/.test(what))
        ? { differences: [], steps: [], states: [] }
        : new Replay(session, target).run(drawn, steps === "all");
      return {
        ...{ backend, kernelLibraryDigest: kernels },
        sameKernels: backend === evidence.backend && kernels === evidence.kernel_library_digest,
        differences: [...differences, ...observed.differences, ...session.differences],
        ...{ steps: observed.steps, states: observed.states },
        durationMs: performance.now() - begun,
      };
    },
  };
}

/** As the evidence has them: from one retained state to the next, over all of its steps. */
function claimedSegments({ steps, retained_states }: ExecutionEvidence): readonly Segment[] {
  const [begin, end] = [steps[0]?.step ?? 1, steps.at(-1)?.step ?? 0];
  const inside = retained_states.map(({ step }) => step).filter((step) => step >= begin && step < end);
  const ends = [...new Set([...inside, end])].sort((a, b) => a - b);
  return ends.map((last, i) => ({ first: i === 0 ? begin : ends[i - 1]! + 1, last }));
}

function drawnSegments({ evidence }: ReplayTarget, steps: "all" | readonly number[]): readonly Segment[] {
  const all = claimedSegments(evidence);
  if (steps === "all") return all;
  return all.filter(({ first, last }) => steps.some((step) => step >= first && step <= last));
}

/** What fits into one array of bytes. */
const largestBase = 2 ** 32;

const filesOf = (target: ReplayTarget) => {
  const paths = tokenPaths(target.profile);
  return (path: string): Uint8Array => {
    const kind = profileFileKind(paths, path);
    const found = kind === undefined ? undefined : target.file(kind);
    if (found === undefined)
      return refuse(
        "artifact_incomplete",
        `the contribution has no ${kind ?? path}, which its profile names`,
      );
    return boundBytes(found, kind === "base_weights" ? largestBase : undefined);
  };
};

/** What the profile says of the window against what the evidence says, and what a run has to begin with. */
function claimDifferences(
  plan: WindowPlan,
  evidence: ExecutionEvidence,
  { trainer }: ReplaySession,
): Difference[] {
  const first = firstStep(plan, evidence);
  const { config } = plan;
  const window = { first, last: first + plan.profile.steps - 1 };
  const read = windowData(plan, window.first, window.last);
  // thousands of ranges, so that they are taken apart only where they differ
  const sameData = orderedJson(read) === orderedJson(evidence.data);
  const expected = leaves({
    lane_profile_digest: plan.profile.profile_digest,
    seed: plan.profile.seed,
    ...(!sameData && { data: read }),
    plan_digest: stepPlanDigest(plan),
    steps: Array.from({ length: plan.profile.steps }, (_, i) => first + i).map((step) => ({
      step,
      learning_rate: float32Text(Math.fround(rateAt(config.schedule, config.learningRate, step))),
    })),
    retained_states: segmentsOf(window, plan.retainEvery).map(({ last }) => ({ step: last })),
    ...(first === 1 && { start_state_digest: stateDigest(trainer) }),
    end_state_digest: evidence.retained_states.at(-1)?.object_digest ?? "nothing",
    checkpoint_object_digest: evidence.end_state_digest,
  });
  const { data, ...rest } = evidence;
  const claimed = leaves({
    ...rest,
    ...(!sameData && { data }),
    steps: evidence.steps.map(({ step, learning_rate }) => ({ step, learning_rate })),
    retained_states: evidence.retained_states.map(({ step }) => ({ step })),
  });
  const ignored = first === 1 ? "" : "start_state_digest";
  const compared = [...claimed.keys()].filter((key) =>
    ["steps", "retained_states", "data"].some((list) => key.startsWith(`${list}.`)),
  );
  return [...new Set([...expected.keys(), ...compared])]
    .filter((key) => key !== ignored && expected.get(key) !== claimed.get(key))
    .map((what) => ({
      what,
      expected: expected.get(what) ?? "nothing",
      observed: claimed.get(what) ?? "nothing",
    }));
}

/** Of the window that the evidence's first step is in; windows follow each other without gaps. */
function firstStep({ profile }: WindowPlan, { steps }: ExecutionEvidence): number {
  const begin = Math.max(1, steps[0]?.step ?? 1);
  return Math.floor((begin - 1) / profile.steps) * profile.steps + 1;
}

/** What is said to have computed: a backend that the lane may run on, by kernels that have a digest. */
function workerDifferences({ lane_id, backend, kernel_library_digest }: ExecutionEvidence): Difference[] {
  const known = backendsOf(lane_id);
  return [
    ...(known.includes(backend)
      ? []
      : [{ what: "backend", expected: known.join(" or "), observed: backend }]),
    ...(kernel_library_digest === null
      ? [{ what: "kernel_library_digest", expected: "a digest", observed: "null" }]
      : []),
  ];
}

/**
 * Files of the contribution that are not what the evidence says: retained states, the one that the window begins with among
 * them, the profile that was trained, and adapters as they are handed out.
 */
function fileDifferences(target: ReplayTarget, plan: WindowPlan): Difference[] {
  const { evidence, file } = target;
  const found = (kind: string): Found =>
    file(kind) ?? refuse("artifact_incomplete", `the contribution has no ${kind}`);
  const differ = (what: string, expected: string, observed: string): Difference[] =>
    expected === observed ? [] : [{ what, expected, observed }];
  const begin = retainedKind(firstStep(plan, evidence) - 1);
  return [
    ...differ(begin, evidence.start_state_digest, found(begin).sha256),
    ...evidence.retained_states.flatMap(({ step, object_digest, object_bytes }) => {
      const { sha256, size } = found(retainedKind(step));
      const sized = differ(`${retainedKind(step)}.object_bytes`, String(size), String(object_bytes));
      return [...differ(retainedKind(step), object_digest, sha256), ...sized];
    }),
    ...differ(
      "lane_profile",
      evidence.lane_profile_digest,
      replayed(laneProfile, found("lane_profile")).profile_digest,
    ),
    ...adapterDifferences(target, plan),
  ];
}

const nothing: Trace = { loss: "nothing", gradient_norm: "nothing", learning_rate: "nothing" };

/** Segments run one after the other on one session. */
class Replay {
  readonly #session: ReplaySession;
  readonly #target: ReplayTarget;
  readonly #differences: Difference[] = [];
  readonly #steps: ComparedStep[] = [];
  readonly #states: ComparedState[] = [];

  constructor(session: ReplaySession, target: ReplayTarget) {
    this.#session = session;
    this.#target = target;
  }

  /** `through`: later segments go on from what came out of the ones before, not from what the worker retained. */
  run(drawn: readonly Segment[], through: boolean): Pick<Comparison, "differences" | "steps" | "states"> {
    for (const [i, segment] of drawn.entries()) {
      if (i === 0 || !through) this.#begin(segment.first - 1);
      if (!this.#segment(segment) && through) break;
    }
    this.#moments();
    return { differences: this.#differences, steps: this.#steps, states: this.#states };
  }

  /** Puts the state after `step` in place. */
  #begin(step: number): void {
    const { evidence } = this.#target;
    const start = step === (evidence.steps[0]?.step ?? 1) - 1;
    const claimed = start
      ? evidence.start_state_digest
      : evidence.retained_states.find((s) => s.step === step)?.object_digest;
    const file = this.#file(step);
    if (claimed === undefined) refuse("artifact_incomplete", `the evidence has no ${retainedKind(step)}`);
    this.#session.take(file, step);
  }

  /** Whether there is a state to go on from. */
  #segment(segment: Segment): boolean {
    const { evidence } = this.#target;
    const { trainer } = this.#session;
    const claimedSteps = new Map(evidence.steps.map((step) => [step.step, step]));
    const run = this.#run(segment);
    if (!run) return false;
    for (const observed of run) {
      const claimed = claimedSteps.get(observed.step);
      this.#steps.push({ step: observed.step, claimed: traceOf(claimed), observed: traceOf(observed) });
    }
    const step = segment.last;
    const record = evidence.retained_states.find((s) => s.step === step);
    const observed = stateDigest(trainer);
    const claimed = record?.object_digest ?? "nothing";
    const deviation = claimed === observed ? sameState : this.#deviation(segment);
    this.#states.push({ step, claimed, observed, ...deviation });
    return true;
  }

  /** Undefined where the state that the worker retained is one that nothing can be trained from. */
  #run(segment: Segment): TracedStep[] | undefined {
    try {
      return this.#session.run(segment);
    } catch (cause) {
      if (!(cause instanceof NotFiniteError)) throw cause;
      const what = `steps.${segment.first}`;
      this.#differences.push({ what, expected: "finite numbers", observed: cause.message });
      return undefined;
    }
  }

  /** The optimiser's own digest is that of the moments in the last state, on whatever kernels they were made. */
  #moments(): void {
    const { retained_states, optimizer_state_digest: expected } = this.#target.evidence;
    const last = retained_states.at(-1);
    if (!last) return;
    const { momentsDigest: observed } = this.#values(last.step);
    if (expected !== observed) this.#differences.push({ what: "optimizer_state_digest", expected, observed });
  }

  #deviation({ first, last }: Segment): ReturnType<typeof stateDeviation> {
    const [before, claimed] = [this.#values(first - 1), this.#values(last)];
    return stateDeviation(before.values, claimed.values, valuesOf(this.#session.trainer));
  }

  #values(step: number): ReturnType<typeof valuesIn> {
    try {
      return valuesIn(this.#file(step));
    } catch (cause) {
      if (cause instanceof Refusal) throw cause;
      const why = cause instanceof Error ? cause.message : String(cause);
      return refuse("artifact_digest_mismatch", `${retainedKind(step)}: ${why}`, cause);
    }
  }

  #file(step: number): BoundFile {
    return (
      this.#target.file(retainedKind(step)) ??
      refuse("artifact_incomplete", `the contribution has no ${retainedKind(step)}`)
    );
  }
}

const traceOf = (step: TracedStep | undefined): Trace =>
  step ? { loss: step.loss, gradient_norm: step.gradient_norm, learning_rate: step.learning_rate } : nothing;
