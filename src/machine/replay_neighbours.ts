/**
 * Whether the stages of a replica did one piece of work: what a stage says it was given is what its neighbour made, step by
 * step, as far as this validator judged the neighbour. What was made is known from doing it again; what was given is a word.
 */
import { sha256 } from "../core/digest.ts";
import { orderedJson } from "../core/json.ts";
import { refuse } from "./contract.ts";
import type { StageAssignment } from "./manifest.ts";
import type { Reexecution } from "./reexecution.ts";
import type { Redoable } from "./replay_grounds.ts";
import { replayed } from "./replay_inputs.ts";
import type { StageEvidence } from "./replay_stage.ts";
import { type Held, isVouched } from "./replay_start.ts";
import { givenPayloadKind, madePayloadKind } from "./stage_files.ts";
import { type StageNorm, stageNorm } from "./stage_norm.ts";
import { type StageTensor, stageTensor } from "./stage_tensor.ts";
import type { Difference } from "./window_replayer.ts";

export type StageGrounds = NonNullable<Reexecution["stage"]>;
type Crossing = StageGrounds["crossings"][number];
type Side = "upstream" | "downstream";

/** In the order in which things pass in a step, and where each is made. */
const passing = [
  { kind: "activation", madeBy: "upstream" },
  { kind: "gradient", madeBy: "downstream" },
  { kind: "norm", madeBy: "upstream" },
] as const;

/** What passed on each side of the stage, and how that agrees with what its neighbours' contributions say. */
export function stageGrounds(
  target: Redoable,
  { stage, summary }: StageEvidence,
  held: readonly Held[],
  profileDigest: string,
): { readonly stage: StageGrounds; readonly differences: readonly Difference[] } {
  const { receipt } = target;
  const differences: Difference[] = [];
  const own = {
    ...{ window_id: receipt.window_id, assignment_id: receipt.assignment_id },
    ...{ replica_id: stage.replica_id, stage_id: stage.stage_id, stage_index: stage.stage_index },
    assignment_digest: stage.assignment_digest,
    input_transport_digest: summary.input_transport_digest,
    output_transport_digest: summary.output_transport_digest,
    crossings: crossingsOf(target, stage, profileDigest, differences),
  };
  const neighbours = (side: Side): StageGrounds[] =>
    held.flatMap(({ record: r }) => {
      const s = r.stage;
      const fits =
        isVouched(r) &&
        r.challenged_run_id === receipt.run_id &&
        r.lane_profile_digest === profileDigest &&
        s !== undefined &&
        (["window_id", "assignment_id", "replica_id"] as const).every((field) => s[field] === own[field]) &&
        s.stage_id === stage[`${side}_stage_id`] &&
        s.stage_index === stage.stage_index + (side === "upstream" ? -1 : 1);
      return fits ? [s] : [];
    });
  const look = (side: Side): Look => {
    if (stage[`${side}_stage_id`] === null) return { state: "none" };
    const found = neighbours(side).map((other) => ({ other, gap: firstGap(own, other, side) }));
    if (found.length === 0) return { state: "unjudged" };
    if (found.some(({ gap }) => gap === undefined)) return { state: "agrees" };
    // a neighbour that itself hangs in the air cannot say that this stage is wrong
    const gap = found.find(({ other }) => isAnchored(other, side))?.gap;
    return { state: "contradicts", gap };
  };
  const [upstream, downstream] = [look("upstream"), look("downstream")];
  // one neighbour's word against this stage's decides nothing, since either may have kept something else than what passed
  if (upstream.gap && downstream.gap) differences.push(upstream.gap, downstream.gap);
  return { stage: { ...own, upstream: upstream.state, downstream: downstream.state }, differences };
}

/** How a neighbour's contribution stands to this one; `gap`: what differs, where the neighbour itself hangs in no air. */
type Look = { readonly state: StageGrounds[Side]; readonly gap?: Difference | undefined };

const isAnchored = (other: StageGrounds, side: Side): boolean => ["none", "agrees"].includes(other[side]);

/** The first thing that one of the two made and the other says it was given otherwise: what follows it follows from it. */
function firstGap(own: Omit<StageGrounds, Side>, other: StageGrounds, side: Side): Difference | undefined {
  const [sent, came] =
    side === "upstream"
      ? [other.output_transport_digest, own.input_transport_digest]
      : [own.output_transport_digest, other.input_transport_digest];
  const gap = (
    what: string,
    made: string | null | undefined,
    given: string | null | undefined,
  ): Difference => ({
    what: `${side}.${what}`,
    ...{ expected: made ?? "nothing", observed: given ?? "nothing" },
  });
  if (sent !== came) return gap("transport_digest", sent, came);
  const [ours, theirs] = [own, other].map(({ crossings }) => new Map(crossings.map((c) => [keyOf(c), c])));
  const steps = [...new Set([...own.crossings, ...other.crossings].map(({ step }) => step))];
  for (const step of steps.sort((a, b) => a - b)) {
    for (const { kind, madeBy } of passing) {
      const neighbourMade = madeBy === side;
      const [ownWay, otherWay] = neighbourMade ? (["given", "made"] as const) : (["made", "given"] as const);
      const mine = ours?.get(keyOf({ step, kind, way: ownWay }))?.digest;
      const its = theirs?.get(keyOf({ step, kind, way: otherWay }))?.digest;
      if (mine !== its)
        return neighbourMade ? gap(`${kind}.${step}`, its, mine) : gap(`${kind}.${step}`, mine, its);
    }
  }
  return undefined;
}

const keyOf = ({ step, kind, way }: Omit<Crossing, "digest">): string => `${step} ${kind} ${way}`;

/** Everything that passed, also in steps that were not drawn; what is of other work is added to `differences`. */
function crossingsOf(
  { evidence, files }: Redoable,
  stage: StageAssignment,
  profileDigest: string,
  differences: Difference[],
): Crossing[] {
  const crossings: Crossing[] = [];
  const add = (kind: Crossing["kind"], way: Crossing["way"], step: number, from: string): void => {
    const name = (way === "given" ? givenPayloadKind : madePayloadKind)(kind, step);
    const file = files.get(name);
    // norms pass only where a profile limits them; the steps that are done again miss those that are not there
    if (!file && kind === "norm") return;
    const found = file ?? refuse("artifact_incomplete", `the contribution has no ${name}`);
    const doc = kind === "norm" ? replayed(stageNorm, found) : replayed(stageTensor, found);
    const expected: Readonly<Record<string, unknown>> = {
      ...{ lane_id: evidence.lane_id, run_id: evidence.run_id, window_id: evidence.window_id },
      ...{ assignment_id: evidence.assignment_id, replica_id: stage.replica_id },
      ...{ stage_id: from, step, lane_profile_digest: profileDigest },
      ...(kind !== "norm" && { kind }),
    };
    const fields: Readonly<Record<string, unknown>> = doc;
    for (const [field, value] of Object.entries(expected)) {
      const observed = String(fields[field]);
      if (observed !== String(value))
        differences.push({ what: `${name}.${field}`, expected: String(value), observed });
    }
    crossings.push({ step, kind, way, digest: crossingDigest(doc) });
  };
  const { stage_id, upstream_stage_id: up, downstream_stage_id: down } = stage;
  for (const { step } of evidence.steps) {
    for (const { kind, madeBy } of passing) {
      const [from, to] = madeBy === "upstream" ? [up, down] : [down, up];
      if (from !== null) add(kind, "given", step, from);
      if (to !== null) add(kind, "made", step, stage_id);
    }
  }
  return crossings;
}

/** Of what passes, whoever passes it: a stage that was begun again on another node passes the same. */
function crossingDigest(doc: StageTensor | StageNorm): string {
  const { square_sums = null } = doc;
  if (!("content_sha256" in doc)) return sha256(orderedJson({ square_sums }));
  const { content_sha256, answers, loss } = doc;
  return sha256(orderedJson({ content_sha256, answers, loss, square_sums }));
}
