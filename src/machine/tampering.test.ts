/** Contributions judged by doing their work again: forged ones are found, honest ones of all lanes are accepted. */
import { afterAll, describe, expect, test } from "bun:test";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { orderedJson } from "../core/json.ts";
import { lockRun } from "../train/run_root.ts";
import { handoffReceipt } from "./checkpoint.ts";
import { validationPacket } from "./cli/validate.ts";
import type { RefusalClass } from "./contract.ts";
import { valuesIn } from "./lanes/state_object.ts";
import { boundBytes } from "./replay_inputs.ts";
import { replayPlan } from "./replay_plan.ts";
import { bindingOf } from "./run_root.ts";
import { Bench, laneWork } from "./testing/bench.ts";
import { forgeries } from "./testing/paper_tamperings.ts";
import { artifactOf, artifactPath, forge, type Json, resealed } from "./testing/reseal.ts";
import { nudged, tamperings } from "./testing/tamperings.ts";
import { longWindow } from "./testing/verdicts.ts";

const zeros = "0".repeat(64);
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
    const all = forgeries(lane, honest);
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

test.each([
  ["apple", 1],
  ["adapter", 25],
] as const)(
  "on other kernels moments that are not the steps' are found: lane %s, one in %d",
  (lane, share) => {
    const honest = bench.contribute(lane);
    const all = tamperings(lane, honest)
      .filter(({ name }) => name.includes("moment") && !name.includes(", and "))
      .filter((_, i) => i % share === 0);
    expect(all.length).toBeGreaterThan(1);
    for (const { name, make } of all) {
      const folder = make(bench);
      const packet = plainly(() => bench.validate(folder));
      expect([name, packet.detail]).toEqual([name, expect.stringContaining("rejected with 0")]);
      expect(bench.grounds("window-0001", "reexecution.json").comparison).toBe("within_bounds");
      bench.fresh();
    }
    expect(plainly(() => bench.validate(honest)).detail).toContain("accepted with 10000");
    bench.fresh();
  },
  60_000,
);

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

describe("what a window began with", () => {
  type Grounds = { start_state: string; differences: { what: string }[] };
  const judged = (folder: string) => {
    const { detail, refusal_class } = bench.validate(folder);
    if (refusal_class !== null) return { detail: refusal_class, start: "", what: [] };
    const { start_state, differences } = bench.grounds(
      ...(["window-0002", "reexecution.json"] as const),
    ) as unknown as Grounds;
    return { detail, start: start_state, what: differences.map(({ what }) => what) };
  };

  test("is told: the seed, an end that held here, or the worker's word alone", () => {
    const first = bench.contribute("apple");
    const second = bench.proceed("apple", first, "window-0002");
    expect(judged(second)).toMatchObject({ start: "unverified", what: [] });
    expect(bench.grounds("window-0002", "validator_score_receipt.json")).toMatchObject({
      ...{ disposition: "quarantined", score_bps: 7500, reason_codes: ["checkpoint_recovered"] },
    });
    bench.fresh();
    bench.validate(first);
    expect(bench.grounds("window-0001", "reexecution.json").start_state).toBe("seed");
    expect(judged(second)).toMatchObject({ start: "accepted", what: [] });
    bench.fresh();
  }, 30_000);

  test("a handed on checkpoint is looked up under its own run, and is the one the window began with", () => {
    const first = bench.contribute("apple");
    const second = bench.proceed("apple", first, "window-0002");
    const { start_state_digest, lane_id } = artifactOf(second, "execution_evidence");
    const { node_pubkey } = artifactOf(second, "invocation_manifest").coordination as Json;
    const receipt = {
      ...{ schema_version: handoffReceipt.id, lane_id, serving_node_pubkey: "npub1-peer" },
      ...{ peer_node_pubkey: node_pubkey, source_run_id: "run-0001", window_id: null, assignment_id: null },
      ...{ grouped_stage_assignment: null, source_kind: "live_primary_pointer", checkpoint_label: "end" },
      ...{ optimizer_step: 8, checkpoint_ref: "checkpoint://end", checkpoint_manifest_digest: zeros },
      ...{ checkpoint_object_digest: start_state_digest, checkpoint_total_bytes: 1 },
      source_checkpoint_pointer: bindingOf("checkpoint_pointer", new Uint8Array(), "checkpoints/p.json"),
      source_checkpoint_manifest: bindingOf("checkpoint_manifest", new Uint8Array(), "checkpoints/m.json"),
      ...{ restored_from_backup: false, detail: "A checkpoint.", receipt_digest: "" },
    };
    const handed = (change: Json) => {
      const folder = bench.copied(second);
      const bytes = new TextEncoder().encode(orderedJson(resealed({ ...receipt, ...change }), 2));
      const path = artifactPath(folder, "execution_evidence").replace("execution_evidence", "handoff");
      writeFileSync(path, bytes);
      const kind = "checkpoint_handoff_receipt";
      const bound = bindingOf(kind, bytes, path.slice(join(folder, "..", "..", "..", "..").length + 1));
      forge(
        folder,
        {},
        {
          list: (l) => ({
            ...l,
            artifacts: [...(l.artifacts as Json[]), { artifact_kind: kind, binding: bound }],
            artifact_count: (l.artifact_count as number) + 1,
          }),
        },
      );
      return folder;
    };
    const whatOf = (change: Json) => judged(handed(change)).what;
    bench.validate(first);
    expect(judged(handed({}))).toMatchObject({ start: "accepted", what: [] });
    expect(judged(handed({ source_run_id: "run-0666" }))).toMatchObject({ start: "accepted", what: [] });
    // this node served it to another: no word of what it began with
    expect(whatOf({ serving_node_pubkey: node_pubkey, peer_node_pubkey: "npub1-other" })).toEqual([]);
    expect(whatOf({ peer_node_pubkey: "npub1-other" })).toContain(
      "checkpoint_handoff_receipt.peer_node_pubkey",
    );
    expect(whatOf({ checkpoint_object_digest: zeros })).toContain(
      "checkpoint_handoff_receipt.checkpoint_object_digest",
    );
    // handed on before a checkpoint of its own was recorded: the manifest keeps the name of its run
    const named = artifactOf(second, "checkpoint_manifest");
    const onward = handed({
      ...{ source_run_id: "run-0002", serving_node_pubkey: node_pubkey, peer_node_pubkey: "npub1-other" },
      optimizer_step: named.optimizer_step,
      checkpoint_object_digest: named.checkpoint_object_digest,
    });
    forge(onward, { checkpoint_manifest: (m) => ({ ...m, run_id: "run-0002" }) });
    expect(judged(onward).what).not.toContain("checkpoint_manifest.run_id");
    // a manifest of another run is not excused by just any receipt
    const other = handed({ source_run_id: "run-0002", optimizer_step: 7 });
    forge(other, { checkpoint_manifest: (m) => ({ ...m, run_id: "run-0002" }) });
    expect(judged(other).what).toContain("checkpoint_manifest.run_id");
    bench.fresh();
  }, 60_000);
});

describe("files of this machine", () => {
  const kind = "launcher_log";
  const placed = (folder: string, materialized_path: string) =>
    forge(
      folder,
      {},
      {
        list: (l) => ({
          ...l,
          artifacts: (l.artifacts as { artifact_kind: string; binding: Json }[]).map((entry) =>
            entry.artifact_kind === kind
              ? { ...entry, binding: { ...entry.binding, materialized_path } }
              : entry,
          ),
        }),
      },
    );

  test("are not a worker's to name: no absolute path, no link that leads out", () => {
    const honest = bench.contribute("demo");
    const outside = join(bench.folder, "outside.log");
    cpSync(artifactPath(honest, kind), outside);
    const absolute = bench.copied(honest);
    placed(absolute, outside);
    expect(bench.validate(absolute).refusal_class).toBe("artifact_incomplete");
    const link = bench.copied(honest);
    rmSync(artifactPath(link, kind));
    symlinkSync(outside, artifactPath(link, kind));
    expect(bench.validate(link).refusal_class).toBe("artifact_incomplete");
    bench.fresh();
  }, 30_000);

  test("are hashed as they are read, so that one that was put in their place is found", () => {
    const honest = bench.contribute("apple");
    const path = artifactPath(honest, "retained_state_step_000008");
    const promised = { path, sha256: sha256(readFileSync(path)), size: 0n, bytes: undefined };
    expect(valuesIn(promised).values.size).toBeGreaterThan(0);
    expect(boundBytes(promised).length).toBeGreaterThan(0);
    writeFileSync(path, nudged(path, 0.5, 1e-3));
    expect(() => valuesIn(promised)).toThrow("SHA-256");
    expect(() => boundBytes(promised)).toThrow("changed while it was judged");
    bench.fresh();
  }, 30_000);
});

test("a link to a contribution is as good as its folder", () => {
  const folder = bench.contribute("demo");
  const link = join(bench.folder, "link");
  symlinkSync(folder, link);
  expect(bench.validate(link).detail).toContain("accepted with 10000");
  bench.fresh();
}, 30_000);

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
