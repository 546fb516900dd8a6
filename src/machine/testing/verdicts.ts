/** Many contributions judged: what scripts/soak.sh counts, and tests take a share of. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import type { ExecutionEvidence, LaneProfile } from "../evidence.ts";
import { retainedKind } from "../evidence.ts";
import { writeState } from "../lanes/state_object.ts";
import { planWindow } from "../lanes/window_plan.ts";
import { WindowSession } from "../lanes/window_session.ts";
import { replayPlan } from "../replay_plan.ts";
import type { Segment } from "../window_replayer.ts";
import { Bench, laneWork } from "./bench.ts";
import { forgeries } from "./paper_tamperings.ts";
import { artifactOf, artifactPath, forge } from "./reseal.ts";
import { nudged, stateEdits, withSettings } from "./tamperings.ts";

const lanes = Object.keys(laneWork);

/** What a validator made of a contribution: the class of its refusal, or the verdict's first reason. */
function foundIn(bench: Bench, folder: string, ...more: string[]): string {
  const packet = bench.validate(folder, "challenge-0001", ...more);
  if (packet.refusal_class !== null) return packet.refusal_class;
  const { reason_codes } = bench.grounds("window-0001", "validator_score_receipt.json");
  return (reason_codes as string[])[0] ?? "";
}

/** Every forgery of every lane; throws at the first that is not found for what it is. Counts by what was found. */
export function judgeForgeries(): Readonly<Record<string, number>> {
  using bench = new Bench();
  const counts: Record<string, number> = {};
  for (const lane of lanes) {
    for (const { name, found, make } of forgeries(lane, bench.contribute(lane))) {
      const got = foundIn(bench, make(bench));
      if (got !== found) throw new Error(`${name}: expected ${found}, got ${got}`);
      counts[found] = (counts[found] ?? 0) + 1;
      bench.fresh();
    }
  }
  return counts;
}

/** Honest contributions of all lanes, of other seeds, rates, lengths and retained states; throws at the first not accepted. */
export function judgeHonest(count: number): number {
  using bench = new Bench();
  for (let i = 0; i < count; i++) {
    const lane = lanes[i % lanes.length]!;
    const profile = lane === "demo" ? undefined : varied(i);
    const folder = bench.contribute(lane, { runId: `run-${i}`, ...(profile && { profile }) });
    bench.trust(folder);
    const got = foundIn(bench, bench.copied(folder, "moved"));
    if (got !== "primary_checkpoint_accepted") throw new Error(`honest ${lane} ${i}: got ${got}`);
    bench.fresh();
    rmSync(join(folder, "..", "..", "..", ".."), { recursive: true });
  }
  return count;
}

const varied =
  (i: number) =>
  (profile: LaneProfile): LaneProfile => ({
    ...withSettings(profile, {
      learning_rate: String(1e-4 * (1 + (i % 30))),
      retain_every: String(1 + (i % 5)),
    }),
    steps: 3 + (i % 7),
    seed: String(1000 + i),
  });

export type Sampling = {
  readonly draws: number;
  readonly caught: number;
  /** As the grounds state it. */
  readonly statedPpm: number;
};

const steps = 64;
const every = 1;
/** 64 steps with a retained state after each. */
export const longWindow = (profile: LaneProfile): LaneProfile => ({
  ...withSettings(profile, { retain_every: String(every) }),
  steps,
});

/**
 * A forged step in each segment, carried on from as if nothing were; which segments show it when they are done again; and how
 * often one of those is among what is drawn for `draws` nonces.
 */
export function sampleForgeries(draws: number): Sampling {
  using bench = new Bench();
  const honest = bench.contribute("actual", { profile: longWindow });
  const segments = Array.from({ length: steps / every }, (_, i) => ({
    ...{ first: i * every + 1, last: (i + 1) * every },
  }));
  const shows = segments.map(({ first }, i) => {
    const folder = forgedStep(bench, honest, first + (i % every));
    bench.trust(folder);
    if (foundIn(bench, folder, "--steps", "all") !== "reexecution_mismatch")
      throw new Error(`a forged step ${first + (i % every)} was not found`);
    const { differences } = bench.grounds("window-0001", "reexecution.json");
    const named = (differences as { what: string }[]).map(({ what }) => Number(what.split(".")[1]));
    bench.fresh();
    return segments.filter((s) => named.some((step) => step >= s.first && step <= s.last));
  });
  let [caught, statedPpm] = [0, 0];
  for (let i = 0; i < draws; i++) {
    const secret = { challengeId: "c", contributionDigest: "0".repeat(64), nonce: `nonce ${i}` };
    const plan = replayPlan(segments, secret);
    statedPpm = plan.chancePpm;
    const shown = shows[i % shows.length]!;
    if (plan.drawn.some((drawn) => shown.some((s) => s.first === drawn.first))) caught++;
  }
  return { draws, caught, statedPpm };
}

/** A copy of the contribution in which the state after one step was changed and everything after it follows from that. */
function forgedStep(bench: Bench, honest: string, step: number): string {
  const folder = bench.copied(honest);
  const evidence = artifactOf(folder, "execution_evidence") as unknown as ExecutionEvidence;
  const plan = planWindow(
    artifactOf(folder, "lane_profile") as unknown as LaneProfile,
    () => new Uint8Array(),
  );
  using session = new WindowSession(plan, "cpu");
  const segment: Segment = { first: step - ((step - 1) % every), last: step };
  session.take(fileOf(artifactPath(folder, retainedKind(segment.first - 1))), segment.first - 1);
  const traces = [...session.run(segment)];
  const scratch = join(bench.folder, "scratch.safetensors");
  const keep = (at: number): Uint8Array => {
    writeState(session.trainer, scratch, at);
    return new Uint8Array(readFileSync(scratch));
  };
  keep(step);
  writeFileSync(scratch, nudged(scratch, 0.1, 1e-3));
  session.take(fileOf(scratch), step);
  // a step at the end of its segment is retained as it was forged
  if (step % every === 0) forge(folder, stateEdits(folder, step, keep(step)));
  for (let at = step; at < steps; at += every - (at % every)) {
    const last = at + every - (at % every);
    traces.push(...session.run({ first: at + 1, last }));
    forge(folder, stateEdits(folder, last, keep(last)));
  }
  const own = new Map(traces.map((trace) => [trace.step, trace]));
  forge(folder, {
    execution_evidence: () => ({
      ...artifactOf(folder, "execution_evidence"),
      steps: evidence.steps.map((trace) => own.get(trace.step) ?? trace),
    }),
  });
  return folder;
}

const fileOf = (path: string) => ({ path, sha256: sha256(readFileSync(path)) });

/** A model of another width, two heads wide. */
function withWidth(profile: LaneProfile, width: number): LaneProfile {
  const sizes: Readonly<Record<string, number>> = {
    width,
    head_dim: width / 2,
    feed_forward: 2 * width,
    context: 256,
  };
  const settings = profile.model.settings.map(({ name, value }) => ({
    name,
    value: String(sizes[name] ?? value),
  }));
  return { ...profile, model: { ...profile.model, settings } };
}

export type Cost = { readonly workerMs: number; readonly validatorMs: number };

/** A window of 64 steps of some size, sampled several times: what that takes against what the worker took. */
export function sampledCost(times: number): Cost {
  using bench = new Bench();
  const profile = (own: LaneProfile): LaneProfile =>
    withWidth(withSettings(longWindow(own), { sequences: "256", length: "64", stride: "1" }), 64);
  const folder = bench.contribute("actual", { profile });
  bench.trust(folder);
  let [workerMs, validatorMs] = [0, 0];
  for (let i = 0; i < times; i++) {
    const got = foundIn(bench, folder);
    if (got !== "primary_checkpoint_accepted") throw new Error(`an honest window: got ${got}`);
    const grounds = bench.grounds("window-0001", "reexecution.json");
    workerMs += grounds.worker_ms as number;
    validatorMs += grounds.validator_ms as number;
  }
  return { workerMs, validatorMs };
}
