/** Windows that begin with a state nobody vouches for, or with another than the one that is vouched for. */
import { afterAll, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { type ExecutionEvidence, type LaneProfile, retainedKind } from "./evidence.ts";
import { writeState } from "./lanes/state_object.ts";
import { planWindow } from "./lanes/window_plan.ts";
import { WindowSession } from "./lanes/window_session.ts";
import type { StageAssignment } from "./manifest.ts";
import type { Reexecution } from "./reexecution.ts";
import type { Redoable } from "./replay_grounds.ts";
import { startOf } from "./replay_start.ts";
import type { Invocation } from "./surfaces.ts";
import { Bench } from "./testing/bench.ts";
import { artifactOf, artifactPath, type Edits, forge } from "./testing/reseal.ts";
import { nudged, stateEdits } from "./testing/tamperings.ts";

const bench = new Bench();
afterAll(() => bench[Symbol.dispose]());

const zeros = "0".repeat(64);
const evidenceOf = (folder: string) =>
  artifactOf(folder, "execution_evidence") as unknown as ExecutionEvidence;

function judged(folder: string, ...more: string[]) {
  const { detail, refusal_class } = bench.validate(folder, "challenge-0001", ...more);
  if (refusal_class !== null) return { verdict: refusal_class, start: "", what: [] };
  const { start_state, differences } = bench.grounds("window-0002", "reexecution.json");
  const [, verdict = ""] = /was (\w+) with/.exec(detail) ?? [];
  return { verdict, start: start_state, what: (differences as { what: string }[]).map(({ what }) => what) };
}

/** The second window taken again from a state in which one weight was changed; every step follows from that. */
function begunElsewhere(honest: string, change: Partial<ExecutionEvidence> = {}): string {
  const folder = bench.copied(honest);
  const { steps, retained_states, ...evidence } = evidenceOf(folder);
  const plan = planWindow(
    artifactOf(folder, "lane_profile") as unknown as LaneProfile,
    () => new Uint8Array(),
  );
  using session = new WindowSession(plan, "cpu");
  const scratch = join(bench.folder, "scratch.safetensors");
  const begin = nudged(artifactPath(folder, retainedKind(8)), 0.1, 1e-3);
  writeFileSync(scratch, begin);
  session.take({ path: scratch, sha256: sha256(begin) }, 8);
  const traces = retained_states.flatMap(({ step }, i) => {
    const run = session.run({ first: (retained_states[i - 1]?.step ?? 8) + 1, last: step });
    writeState(session.trainer, scratch, step);
    forge(folder, stateEdits(folder, step, new Uint8Array(readFileSync(scratch))));
    return run;
  });
  const edits: Edits = {
    [retainedKind(8)]: begin,
    execution_evidence: () => ({
      ...{ ...evidenceOf(folder), steps: traces, start_state_digest: sha256(begin), ...change },
      evidence_digest: evidence.evidence_digest,
    }),
  };
  forge(folder, edits);
  return folder;
}

test("an end that was judged vouches for the next beginning; another beginning is found, or kept apart", () => {
  const first = bench.contribute("apple");
  const second = bench.proceed("apple", first, "window-0002");
  const forged = begunElsewhere(second);
  // nothing is known of the run yet
  expect(judged(forged)).toEqual({ verdict: "quarantined", start: "unverified", what: [] });
  expect(judged(second)).toEqual({ verdict: "quarantined", start: "unverified", what: [] });
  bench.validate(first);
  expect(judged(forged)).toEqual({ verdict: "rejected", start: "unverified", what: ["start_state_digest"] });
  expect(judged(second)).toEqual({ verdict: "accepted", start: "accepted", what: [] });
  // other kernels may have come to another end, which nobody judged
  const elsewhere = begunElsewhere(second, { kernel_library_digest: zeros });
  expect(judged(elsewhere)).toMatchObject({ verdict: "quarantined", start: "unverified" });
  // a file that is not the state it is said to be
  const swapped = bench.copied(second);
  forge(swapped, { [retainedKind(8)]: nudged(artifactPath(swapped, retainedKind(8)), 0.1, 1e-3) });
  expect(judged(swapped)).toMatchObject({ verdict: "rejected" });
  expect(judged(swapped).what).toContain(retainedKind(8));
  const { start_state_digest } = evidenceOf(second);
  bench.fresh();
  expect(judged(second, "--start-state", start_state_digest)).toEqual({
    ...{ verdict: "accepted", start: "given", what: [] },
  });
  expect(judged(second, "--start-state", `sha256:${start_state_digest.toUpperCase()}`).start).toBe("given");
  expect(judged(second, "--start-state", zeros)).toEqual({
    ...{ verdict: "rejected", start: "given", what: ["start_state_digest"] },
  });
  expect(judged(second, "--start-state", "the first one")).toMatchObject({ verdict: "bad_config" });
  bench.fresh();
}, 60_000);

/** What is made of a window from step 9 on that begins with `zeros`, where these were held before. */
function startAfter(held: readonly Partial<Reexecution>[], stage: Partial<StageAssignment> | null = null) {
  const target = {
    receipt: {
      ...{ run_id: "run", node_pubkey: "node", window_id: "window-0002" },
      grouped_stage_assignment: stage,
    },
    evidence: {
      steps: [{ step: 9 }],
      ...{ start_state_digest: zeros, backend: "cpu", kernel_library_digest: zeros },
    },
    files: new Map(),
  } as unknown as Redoable;
  const invocation = { manifest: { checkpoint_object_digest: null } } as unknown as Invocation;
  const common = {
    ...{ start_state: "seed", challenged_run_id: "run", first_step: 1, last_step: 8 },
    ...{ lane_profile_digest: zeros, worker_backend: "cpu", worker_kernel_library_digest: zeros },
  };
  const { state, differences } = startOf(
    ...([invocation, target] as const),
    held.map((r) => ({ record: { ...common, ...r } as unknown as Reexecution, window: "window-0001" })),
    zeros,
  );
  return [state, differences.length];
}

const other = "2".repeat(64);

test("a stage that contradicts its neighbour says nothing of its next window's beginning", () => {
  const stage = { assignment_digest: "1".repeat(64) };
  const start = (upstream: string, end_state_digest: string) =>
    startAfter(
      [{ end_state_digest, stage: { ...stage, upstream, downstream: "none" } as Reexecution["stage"] }],
      stage,
    );
  expect(start("agrees", zeros)).toEqual(["accepted", 0]);
  expect(start("contradicts", zeros)).toEqual(["unverified", 0]);
  expect(start("agrees", other)).toEqual(["unverified", 1]);
  expect(start("contradicts", other)).toEqual(["unverified", 0]);
  // what it was given is its word alone: given something else it comes to another state
  expect(start("unjudged", other)).toEqual(["unverified", 0]);
});

test("of a window whose beginning a manifest named there may be several, so that its end denies no other", () => {
  const named = { start_state: "given", first_step: 5, last_step: 8, end_state_digest: other } as const;
  expect(startAfter([named])).toEqual(["unverified", 0]);
  expect(startAfter([{ ...named, start_state: "seed" }])).toEqual(["unverified", 1]);
  const [begun, after] = [
    { start_state: "given", last_step: 4, end_state_digest: other },
    { ...named, start_state: "accepted", start_state_digest: other },
  ] as const;
  expect(startAfter([begun, after])).toEqual(["unverified", 0]);
  expect(startAfter([{ ...begun, start_state: "seed" }, after])).toEqual(["unverified", 1]);
});

test("a state is vouched for by whichever run came to it; another state is held against its own run alone", () => {
  const joined = { challenged_run_id: "another", end_state_digest: zeros };
  expect(startAfter([joined])).toEqual(["accepted", 0]);
  expect(startAfter([{ ...joined, end_state_digest: other }])).toEqual(["unverified", 0]);
});

test("the steps of a window that was judged, again as another window: kept apart, unless the manifest asks for them", () => {
  const first = bench.contribute("demo");
  expect(bench.validate(first).detail).toContain("accepted");
  const again = bench.contribute("demo", { window: "window-0002" });
  expect(judged(again)).toEqual({ verdict: "quarantined", start: "repeated", what: [] });
  // the same window by another assignment or challenge is no other window
  expect(bench.validate(first, "challenge-0002").detail).toContain("accepted");
  const { start_state_digest } = evidenceOf(again);
  expect(judged(again, "--start-state", start_state_digest)).toMatchObject({ verdict: "accepted" });
  bench.fresh();
}, 60_000);
