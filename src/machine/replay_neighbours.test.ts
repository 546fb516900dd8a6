/** A stage between two others: what one neighbour says against it is doubt, what both say is a difference. */
import { expect, test } from "bun:test";
import type { StageAssignment } from "./manifest.ts";
import type { Reexecution } from "./reexecution.ts";
import type { Redoable } from "./replay_grounds.ts";
import { stageGrounds } from "./replay_neighbours.ts";
import type { StageEvidence } from "./replay_stage.ts";

const place = { window_id: "w", assignment_id: "a", replica_id: "r" };
const [mine, its] = ["1".repeat(64), "2".repeat(64)];

const stage = {
  ...{ replica_id: "r", stage_id: "b", stage_index: 1, stage_count: 3, stage_role: "intermediate" },
  ...{ upstream_stage_id: "a", downstream_stage_id: "c", assignment_digest: mine },
} as StageAssignment;

function judged(upstream: string, downstream: string, anchored = "none"): unknown {
  const target = { receipt: { ...place, run_id: "run" }, evidence: { steps: [] }, files: new Map() };
  const summary = { input_transport_digest: mine, output_transport_digest: mine };
  const neighbour = (stage_id: string, stage_index: number, digests: object) => ({
    record: {
      ...{ start_state: "seed", challenged_run_id: "run", lane_profile_digest: mine },
      stage: {
        ...{ ...place, stage_id, stage_index, crossings: [], upstream: anchored, downstream: anchored },
        ...digests,
      },
    } as unknown as Reexecution,
    window: "w",
  });
  const { stage: found, differences } = stageGrounds(
    target as unknown as Redoable,
    { stage, summary, summaryPath: "" } as unknown as StageEvidence,
    [
      neighbour("a", 0, { output_transport_digest: upstream }),
      neighbour("c", 2, { input_transport_digest: downstream }),
    ],
    mine,
  );
  return [found.upstream, found.downstream, differences.map(({ what }) => what)];
}

test("one word against another decides nothing, two do", () => {
  expect(judged(mine, mine)).toEqual(["agrees", "agrees", []]);
  expect(judged(its, mine)).toEqual(["contradicts", "agrees", []]);
  expect(judged(mine, its)).toEqual(["agrees", "contradicts", []]);
  expect(judged(its, its)).toEqual([
    ...["contradicts", "contradicts"],
    ["upstream.transport_digest", "downstream.transport_digest"],
  ]);
  // neighbours that are themselves in doubt
  expect(judged(its, its, "contradicts")).toEqual(["contradicts", "contradicts", []]);
});
