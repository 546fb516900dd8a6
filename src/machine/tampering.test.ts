/** Contributions judged by doing their work again: forged ones are found, honest ones of all lanes are accepted. */
import { afterAll, describe, expect, test } from "bun:test";
import { Bench, laneWork } from "./testing/bench.ts";
import { tamperings } from "./testing/tamperings.ts";

const lanes = Object.keys(laneWork);
const bench = new Bench();
afterAll(() => bench[Symbol.dispose]());

describe.each(lanes)("lane %s", (lane) => {
  test("an honest contribution is accepted, also after its run root was moved", () => {
    const folder = bench.copied(bench.contribute(lane), "moved");
    const packet = bench.validate(folder);
    expect([packet.outcome, packet.detail]).toEqual([
      "succeeded",
      expect.stringContaining("accepted with 10000"),
    ]);
    expect(bench.grounds("window-0001", "reexecution.json")).toMatchObject({
      ...{ mode: "full", comparison: "bit_for_bit", difference_count: 0, forged_step_caught_ppm: 1_000_000 },
    });
    bench.fresh();
  });

  test("forged ones are found for what they are", () => {
    const honest = bench.contribute(lane);
    const all = tamperings(lane, honest);
    // the soak takes all of them
    const share = all.filter((_, i) => i % (lane === "apple" ? 4 : 11) === 0);
    expect(share.length).toBeGreaterThan(3);
    for (const { name, found, make } of share) {
      const folder = make(bench);
      const packet = bench.validate(folder);
      const got =
        packet.refusal_class ?? bench.grounds("window-0001", "validator_score_receipt.json").reason_codes;
      expect([name, got]).toEqual([name, found === "reexecution_mismatch" ? [found] : found]);
      bench.fresh();
    }
  }, 60_000);
});
