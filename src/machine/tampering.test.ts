/** Contributions judged by doing their work again: forged ones are found, honest ones of all lanes are accepted. */
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { orderedJson } from "../core/json.ts";
import { lockRun } from "../train/run_root.ts";
import { validationPacket } from "./cli/validate.ts";
import type { RefusalClass } from "./contract.ts";
import { replayPlan } from "./replay_plan.ts";
import { Bench, laneWork } from "./testing/bench.ts";
import { resealed } from "./testing/reseal.ts";
import { tamperings } from "./testing/tamperings.ts";
import { longWindow } from "./testing/verdicts.ts";

const lanes = Object.keys(laneWork);
const bench = new Bench();
afterAll(() => bench[Symbol.dispose]());

/** One in so many; the adapters' base is the largest model. */
const part: Readonly<Record<string, number>> = { apple: 5, adapter: 40 };

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
  }, 30_000);

  test("forged ones are found for what they are", () => {
    const honest = bench.contribute(lane);
    const all = tamperings(lane, honest);
    // the soak takes all of them
    const share = all.filter((_, i) => i % (part[lane] ?? 11) === 0);
    expect(share.length).toBeGreaterThan(1);
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

/** Runs with the processor's plainest instructions, which round differently. */
function plainly<T>(act: () => T): T {
  process.env.PSIONIC_LANE_CPU_ISA = "plain";
  try {
    return act();
  } finally {
    delete process.env.PSIONIC_LANE_CPU_ISA;
  }
}

test("on other kernels honest work is within the bounds, and a rate 1 % off is not", () => {
  const honest = plainly(() => bench.contribute("apple"));
  expect(bench.validate(honest).detail).toContain("accepted with 10000");
  const grounds = bench.grounds("window-0001", "reexecution.json");
  expect(grounds.worker_kernel_library_digest).not.toBe(grounds.validator_kernel_library_digest);
  expect(grounds).toMatchObject({ comparison: "within_bounds", bounds: { update_relative: "0.0005" } });
  bench.fresh();
  for (const { name, make } of tamperings("apple", honest).filter((t) => t.name.includes("a rate 1 %"))) {
    const packet = bench.validate(plainly(() => make(bench)));
    expect([name, packet.detail]).toEqual([name, expect.stringContaining("rejected with 0")]);
    bench.fresh();
  }
}, 60_000);

describe("a window of 64 steps", () => {
  test("is sampled: part of the steps, at the same chance for each, which the grounds state", () => {
    const honest = bench.contribute("actual", { profile: longWindow });
    bench.trust(honest);
    expect(bench.validate(honest).detail).toContain("accepted with 10000 after doing 17 of 64 steps");
    const grounds = bench.grounds("window-0001", "reexecution.json");
    expect(grounds).toMatchObject({ mode: "sampled", segment_count: 64, forged_step_caught_ppm: 265_625 });
    const drawn = grounds.drawn_segments as { first_step: number; last_step: number }[];
    expect(drawn.map(({ first_step, last_step }) => last_step - first_step + 1)).toEqual(
      Array.from({ length: 17 }, () => 1),
    );
    // the nonce is the validator's: another validation draws others
    const nonces = [0, 1, 2].map(() => {
      bench.validate(honest);
      return bench.grounds("window-0001", "reexecution.json").nonce;
    });
    expect(new Set(nonces).size).toBe(3);
    expect(bench.validate(honest, "challenge-0001", "--steps", "40").detail).toContain("40 of 64 steps");
    expect(bench.validate(honest, "challenge-0001", "--steps", "all").detail).toContain("64 of 64 steps");
    bench.fresh();
  }, 60_000);

  test("one forged step is drawn in at least a quarter of the draws, wherever it is", () => {
    const segments = Array.from({ length: 64 }, (_, i) => ({ first: i + 1, last: i + 1 }));
    const caught = new Map<number, number>();
    const draws = 10_000;
    let moving = 0;
    for (let i = 0; i < draws; i++) {
      const secret = { challengeId: "c", contributionDigest: "0".repeat(64), nonce: `nonce ${i}` };
      const plan = replayPlan(segments, secret);
      expect(plan.drawn.length).toBe(17);
      // as the soak has it: the forged step is another one each time
      if (i < 1000 && plan.drawn.some(({ first }) => first === (i % 64) + 1)) moving++;
      for (const { first } of plan.drawn) caught.set(first, (caught.get(first) ?? 0) + 1);
    }
    expect(moving).toBeGreaterThanOrEqual(250);
    const share = 17 / 64;
    const slack = 5 * Math.sqrt(draws * share * (1 - share));
    for (const { first } of segments) {
      expect(Math.abs((caught.get(first) ?? 0) - draws * share)).toBeLessThan(slack);
    }
  });
});

describe("the window after an accepted one", () => {
  test("begins with what that one ended in", () => {
    const first = bench.contribute("apple");
    const second = bench.proceed("apple", first, "window-0002");
    expect(bench.validate(first).detail).toContain("accepted with 10000");
    expect(bench.validate(second).detail).toContain("accepted with 10000");
    expect(bench.grounds("window-0002", "reexecution.json")).toMatchObject({ first_step: 9, last_step: 16 });
    // as if another end had been accepted
    const folder = join(bench.validator, "windows", "window-0001", "validators");
    const path = join(folder, readdirSync(folder)[0] ?? "", "reexecution.json");
    const grounds = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, orderedJson(resealed({ ...grounds, end_state_digest: "0".repeat(64) }), 2));
    expect(bench.validate(second).detail).toContain("rejected with 0");
    expect(bench.grounds("window-0002", "reexecution.json").differences).toMatchObject([
      { what: "start_state_digest" },
    ]);
    bench.fresh();
  }, 30_000);
});

test("two validators on one run root: one works, the other is refused, to be tried again", async () => {
  const folder = bench.contribute("demo");
  const main = join(import.meta.dir, "..", "main.ts");
  const words = ["--run-root", bench.validator, "--contribution", folder, "--challenge-id", "c"];
  const held = lockRun(bench.validator);
  const env = { ...process.env, ...bench.environment() };
  const spawn = () =>
    Bun.spawn([process.execPath, main, "validate-contribution", ...words], {
      ...({ env, stdout: "pipe", stderr: "pipe" } as const),
    });
  const refused = spawn();
  expect(await refused.exited).toBe(17);
  expect(await new Response(refused.stdout).text()).toBe("");
  expect(JSON.parse(await new Response(refused.stderr).text())).toMatchObject({
    ...{ refusal_class: "artifact_incomplete", retryable: true, operation: "validate_contribution" },
  });
  held[Symbol.dispose]();
  const done = spawn();
  expect(await done.exited).toBe(0);
  expect(JSON.parse(await new Response(done.stdout).text())).toMatchObject({ outcome: "succeeded" });
  bench.fresh();
}, 30_000);

test("words that make no sense are bad_config, with a packet", () => {
  const folder = join(bench.folder, "nothing");
  const whole = ["--run-root", bench.validator, "--contribution", folder, "--challenge-id", "c"];
  const cases: readonly (readonly [readonly string[], RefusalClass])[] = [
    [[], "bad_config"],
    [["--run-root", bench.validator], "bad_config"],
    [[...whole, "--steps", "0"], "bad_config"],
    [[...whole, "--steps", "some"], "bad_config"],
    [[...whole, "--steps"], "bad_config"],
    [[...whole, "--run-root", "x"], "bad_config"],
    [[...whole, "--colour", "red"], "bad_config"],
    [[...whole.slice(0, -1), " "], "bad_config"],
    [["--manifest", "x", "--steps", "1"], "bad_config"],
    [bench.write(bench.manifest("start")), "bad_config"],
    [whole, "artifact_incomplete"],
  ];
  for (const [words, refusal] of cases)
    expect([words, validationPacket(words, { environment: bench.environment() }).refusal_class]).toEqual([
      words,
      refusal,
    ]);
  expect(existsSync(bench.validator)).toBe(false);
});
