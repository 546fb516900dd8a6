/** The actual pretraining lane on small data sets: it learns, goes on bit for bit, and refuses what does not belong. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sealed, writeRecord } from "../../data/record.ts";
import { type Dataset, datasetKind, manifestName } from "../../data/shards/dataset.ts";
import { ShardWriter } from "../../data/shards/shard_writer.ts";
import { decideContinueRestart } from "../decision.ts";
import { measuredIn } from "../evidence.ts";
import type { GitState } from "../git_state.ts";
import { parameterCount } from "../model.ts";
import { recordCheckpoint } from "../record_checkpoint.ts";
import { type RunOptions, resumeRun, startRun } from "../run.ts";
import { ownPaths, type Run, retainedPaths } from "../run_root.ts";
import { checkedSettings } from "../settings.ts";
import { actualPretraining as lane } from "./actual_pretraining.ts";
import type { RunSettings } from "./lane.ts";

const main = join(import.meta.dir, "..", "..", "main.ts");
const script = join(import.meta.dir, "..", "..", "..", "scripts", "TRAIN");
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-actual-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

type Made = { readonly vocabulary?: number; readonly splits?: readonly string[]; readonly step?: number };

/** Sequences that count up in steps of their own, so that the next token can be learnt. */
function makeDataset(
  name: string,
  { vocabulary = 300, splits = ["train", "validation"], step = 1 }: Made = {},
) {
  const place = join(folder, name);
  const written = splits.map((split, s) => {
    const writer = new ShardWriter({
      ...{ folder: place, name: "set", split, format: "psionic", shardTokens: 900 },
      vocabularySize: vocabulary,
    });
    for (let i = 0; i < (split === "train" ? 60 : 20); i++) {
      writer.add(
        Array.from({ length: 50 }, (_, t) =>
          t === 0 ? 1 : 2 + ((7 * i + s + t * step * (1 + (i % 3))) % 290),
        ),
      );
    }
    return { split, shards: writer.finish() };
  });
  const sum = (list: readonly { readonly token_count: number }[]) =>
    list.reduce((all, { token_count }) => all + token_count, 0);
  writeRecord(
    join(place, manifestName),
    sealed(datasetKind, {
      abi_version: "psionic.dataset.v1",
      ...{ key: { dataset_ref: "counting", version: "v1" }, display_name: "counting" },
      ...{ record_encoding: "token_ids_le_u16", shard_format: "psionic", context_window_tokens: null },
      tokenizer: { family: "byte_pair_encoding", tokenizer_digest: "0", vocab_size: vocabulary },
      ...{ bos: 1, eos: null },
      splits: written.map(({ split, shards }) => ({
        ...{ split_name: split, kind: split === "train" ? "train" : "validation", shards },
        ...{ token_count: sum(shards), sequence_count: shards.reduce((n, s) => n + s.sequence_count, 0) },
      })),
      manifest_digest: "",
    } satisfies Dataset),
  );
  return place;
}

const git: GitState = {
  ...{ selected_git_ref: "refs/heads/main", git_commit_sha: "0".repeat(40) },
  ...{ dirty_tree_admission: "refuse_by_default", workspace_status_sha256: null },
};
const options: RunOptions = { threads: 1, dryRun: false, watcher: {}, stopping: () => false };
const short = {
  ...{ model: "tiny", length: 32, sequences: 3, accumulation: 2, learning_rate: 3e-3 },
  ...{ max_steps: 12, steps_per_window: 4, held_out_windows: 8 },
} as const;

function runOf(name: string, dataset: string, changed: Partial<RunSettings> = {}): Run {
  const asked = { ...short, ...changed, dataset };
  const settings = lane.begun!(checkedSettings("test", lane, { ...lane.defaults, ...asked }), asked);
  return { root: join(folder, name), runId: "run", lane, git, settings };
}
const json = (run: Run, path: string) => JSON.parse(readFileSync(join(run.root, path), "utf8"));

type Ended = { readonly code: number; readonly out: string; readonly err: string };
function psionic(words: readonly string[], env: Record<string, string> = {}): Ended {
  const done = Bun.spawnSync(
    words[0] === "TRAIN" ? ["bash", script, ...words.slice(1)] : [process.execPath, main, "train", ...words],
    {
      ...{ cwd: join(import.meta.dir, "..", "..", ".."), stdout: "pipe", stderr: "pipe" },
      env: { ...process.env, PSIONIC_FROM_SOURCE: "1", ...env },
    },
  );
  return { code: done.exitCode, out: String(done.stdout), err: String(done.stderr) };
}
/** Options of a start of the lane; what is given replaces what is usual here. */
function words(name: string, given: Readonly<Record<string, string>>): string[] {
  const usual = {
    ...{ lane: "actual_pretraining", model: "tiny", length: "32", sequences: "3", "max-steps": "6" },
    ...{ "steps-per-window": "3", "learning-rate": "3e-3", "held-out-windows": "4", threads: "1" },
  };
  const all = { ...usual, "output-root": join(folder, name), ...given };
  return ["--allow-dirty-tree", ...Object.entries(all).flatMap(([key, value]) => [`--${key}`, value])];
}

test("models are those of the lane: sizes, names, context", () => {
  const counts = lane.models.map((model) => {
    const settings = { ...lane.defaults, model, length: 32, sequences: 1, dataset: makeDataset("models") };
    const made = lane.parts(settings).model;
    return [made.id, made.vocabularySize, made.contextLength, parameterCount(made)];
  });
  expect(counts.slice(0, 3)).toEqual([
    ["psion-compact-decoder-internal-v1", 32768, 8192, 144_894_464],
    ["psion-compact-decoder-pilot-v1", 32768, 4096, 33_115_904],
    ["psion-moe-decoder-internal-v1", 32768, 8192, 409_578_576],
  ]);
});

describe("a run", () => {
  test("learns from a data set, and its receipts name it", async () => {
    const place = makeDataset("learnt");
    const run = runOf("learnt-run", place, { max_steps: 60, steps_per_window: 30, learning_rate: 1e-2 });
    const outcome = await startRun(run, options);
    expect(outcome.finalLoss!).toBeLessThan(outcome.initialLoss! - 1.5);
    expect(outcome.finalValidationLoss!).toBeLessThan(outcome.initialValidationLoss! - 1.5);
    const { steps } = measuredIn(run.root);
    // six steps of warm-up, then a cosine to a tenth
    expect([steps[0]!.learningRate, steps[5]!.learningRate]).toEqual([1e-2 / 6, 1e-2]);
    expect(steps[59]!.learningRate).toBeCloseTo(1e-3, 9);
    for (const s of steps) {
      // what a busy machine makes of them is its own; they are counted
      expect(Number.isInteger(s.stalls)).toBeTrue();
      expect(s.waitedMs!).toBeGreaterThanOrEqual(0);
      expect(s.memoryBytes!).toBeGreaterThan(2 ** 20);
    }
    const { manifest_digest: digest } = JSON.parse(readFileSync(join(place, manifestName), "utf8"));
    expect(json(run, "checkpoints/step-60/trainer_state.json")).toMatchObject({
      ...{ dataset_identity: "counting@v1", dataset_digest: digest },
      loader: { dataset_digest: digest, cursor: { emitted_batches: 120 } },
    });
    expect(json(run, "checkpoints/step-60/checkpoint_manifest.json").dataset_identity).toBe("counting@v1");
    const shape = json(run, retainedPaths.run_shape_qualification_path);
    expect(shape).toMatchObject({
      required_dataset_identity: "counting@v1",
      data_bundle: { path: ownPaths.dataset },
      dataloader_probe: { deterministic_replay_observed: true, observed_stall_count: 0 },
    });
    expect(shape.throughput_probe.observed_tokens_per_second).toBeGreaterThan(0);
    expect(shape.throughput_probe.observed_step_latency_ms).toBeGreaterThan(0);
    expect(json(run, ownPaths.dataset).manifest_digest).toBe(digest);
    const judged = recordCheckpoint(run, { threads: 1, injectUnavailable: false }).judged!;
    expect(judged.gates.map((g) => g.id)).toEqual(["validation"]);
    expect(judged.state).toBe("continue");
    expect(decideContinueRestart(run).rows.at(-1)).toMatchObject({
      ...{ row_id: "dataloader_stall_count", observed_value: "0", status: "green" },
    });
  }, 30_000);

  test.each(["tiny", "tiny_moe"])(
    "of %s goes on bit for bit, from a data set that was moved",
    async (model) => {
      const place = makeDataset(`whole-${model}`);
      const whole = runOf(`whole-run-${model}`, place, { model });
      const straight = await startRun(whole, options);
      const parted = runOf(`parted-run-${model}`, place, { model });
      let done = 0;
      const watcher = { step: ({ step }: { step: number }) => (done = step) };
      await startRun(parted, { ...options, watcher, stopping: () => done >= 5 });
      const moved = join(folder, `moved-${model}`);
      cpSync(place, moved, { recursive: true });
      rmSync(place, { recursive: true });
      const settings = { ...parted.settings, dataset: moved };
      const resumed = await resumeRun({ ...parted, settings }, options);
      expect(resumed.checkpointDigest).toBe(straight.checkpointDigest);
      const losses = (run: Run) => measuredIn(run.root).steps.map((s) => s.loss);
      expect(losses(parted)).toEqual(losses(whole));
    },
    30_000,
  );

  test("is rehearsed as a process: killed, resumed, compared, closed out", () => {
    const place = makeDataset("rehearsed");
    const longer = { "max-steps": "40", "steps-per-window": "10", "learning-rate": "1e-2", dataset: place };
    const done = psionic(["rehearse-base-lane", ...words("rehearsal", longer)]);
    expect(done.err).not.toContain("psionic:");
    expect(done.out).toContain("status=base_lane_rehearsal_complete");
    expect(done.out).toContain("bit_equal_to_uninterrupted_run=true");
  }, 60_000);

  test("is planned by scripts/TRAIN without a word, the data set named by the environment", () => {
    const place = makeDataset("planned");
    const environment = { PSION_ACTUAL_PRETRAINING_DATASET: place };
    const small = ["--model", "tiny", "--length", "32", "--allow-dirty-tree", "--threads", "1"];
    const root = join(folder, "planned-run");
    const done = psionic(["TRAIN", "--dry-run", "--output-root", root, ...small], environment);
    expect(done.out).toContain("status=dry_run_planned\nsurface_id=psion_actual_pretraining.start");
    expect(done.code).toBe(0);
    expect(readdirSync(root)).not.toContain("metrics");
    const bare = psionic(["TRAIN", "--dry-run", ...small]);
    expect([bare.code, bare.err]).toEqual([
      1,
      expect.stringMatching(/^error: expected a data set, got none\. .*PSION_ACTUAL_PRETRAINING_DATASET\n$/m),
    ]);
  }, 30_000);
});

describe("what is refused", () => {
  test("another data set on resume, a damaged shard, another vocabulary, no held-out text", () => {
    const place = makeDataset("mine");
    expect(psionic(["start", ...words("refused", { dataset: place, "max-steps": "3" })]).code).toBe(0);
    const root = ["--run-root", join(folder, "refused"), "--allow-dirty-tree", "--threads", "1"];
    const other = psionic(["resume", ...root, "--dataset", makeDataset("other", { step: 5 })]);
    expect([other.code, other.err]).toEqual([
      4,
      expect.stringContaining("expected data set counting@v1 of digest"),
    ]);
    const fewer = psionic(["resume", ...root, "--max-steps", "9"]);
    expect([fewer.code, fewer.err]).toEqual([2, expect.stringContaining("goes on with the max_steps")]);
    const shard = join(place, "set_train_000001.bin");
    const bytes = readFileSync(shard);
    bytes[bytes.length - 20]! ^= 1;
    writeFileSync(shard, bytes);
    const damaged = psionic(["resume", ...root]);
    expect([damaged.code, damaged.err]).toEqual([
      4,
      expect.stringMatching(/set_train_000001\.bin\] expected SHA-256/),
    ]);
    const large = psionic([
      "start",
      ...words("large-run", { dataset: makeDataset("large", { vocabulary: 2000 }) }),
    ]);
    expect(large.code).toBe(1);
    expect(large.err).toContain(
      "expected a tokenizer of at most 1024 tokens, as model tiny has, got one of 2000",
    );
    const single = makeDataset("single", { splits: ["train"] });
    expect(psionic(["start", ...words("single-run", { dataset: single })]).err).toContain(
      "a split besides train",
    );
    expect(psionic(["start", ...words("nothing", { dataset: join(folder, "nowhere") })]).code).toBe(1);
    const foreign = psionic(["start", "--dataset", place, "--model", "tiny", "--allow-dirty-tree"]);
    expect([foreign.code, foreign.err]).toEqual([
      2,
      expect.stringContaining("--dataset means nothing to lane reference_pilot"),
    ]);
  }, 60_000);

  test("a loss that is no number: step and tensor are named, the last checkpoint stays", async () => {
    const run = runOf("diverged", makeDataset("diverging"), {
      learning_rate: 1e25,
      warmup_steps: 0,
      steps_per_window: 1,
    });
    await expect(startRun(run, options)).rejects.toThrow(
      /finite numbers at step \d+, got .* in (parameter|gradient) \S+\./,
    );
    expect(json(run, retainedPaths.current_status_path).phase).toBe("training_stopped_not_finite");
    expect(json(run, retainedPaths.active_alert_feed_path).active_alerts[0].alert_kind).toBe(
      "loss_not_finite",
    );
    expect(json(run, retainedPaths.latest_checkpoint_pointer_path).pointer_state).toBe("accepted");
  }, 30_000);

  test("a machine of too little memory: the plan is told, then the refusal; no run has begun, and another may begin there", () => {
    const place = makeDataset("big");
    const huge = { dataset: place, model: "pilot", length: "128", sequences: "8192" };
    const done = psionic(["start", ...words("big-run", huge)]);
    expect(done.err).toMatch(
      /parameters, .* of state, .* for a step[\s\S]*bytes of memory, got \d+ available/,
    );
    expect(done.code).toBe(1);
    const log = readFileSync(join(folder, "big-run", retainedPaths.launcher_log_path), "utf8");
    expect(log).toContain("phase=launch_refused_preflight");
    expect(log).not.toContain("phase=launch_staged");
    const status = psionic(["status", "--run-root", join(folder, "big-run")]);
    expect(status.out).toContain("phase=launch_refused_preflight");
    const kept = (path: string) => JSON.parse(readFileSync(join(folder, "big-run", path), "utf8"));
    expect(kept(retainedPaths.current_status_path).detail).toContain("bytes of memory");
    expect(kept(retainedPaths.current_dashboard_path).current_phase).toBe("launch_refused_preflight");

    const small = psionic(["start", ...words("big-run", { ...huge, model: "tiny", sequences: "1" })]);
    expect([small.code, small.err]).toEqual([0, expect.stringContaining("checkpoint of step")]);
    expect(kept(retainedPaths.current_status_path).phase).toBe("training_complete");
    const again = psionic(["start", ...words("big-run", { ...huge, sequences: "1" })]);
    expect([again.code, again.err]).toEqual([1, expect.stringContaining("an empty folder as run root")]);
  }, 60_000);

  test("a start that cannot be planned leaves nothing behind, and one without its device no run", () => {
    const place = makeDataset("unplanned");
    const pilot = ["--allow-dirty-tree", "--output-root", join(folder, "unplanned-run"), "--length", "2048"];
    const long = psionic(["start", ...pilot]);
    expect([long.code, long.err]).toEqual([
      1,
      expect.stringContaining("a document of more than 2048 tokens"),
    ]);
    expect(existsSync(join(folder, "unplanned-run"))).toBe(false);
    const lacking = psionic(["start", ...words("unplanned-run", { dataset: place }), "--backend", "metal"]);
    if (process.platform !== "darwin") {
      expect(lacking.code).not.toBe(0);
      expect(existsSync(join(folder, "unplanned-run", ownPaths.settings))).toBe(false);
    }
    const done = psionic(["start", ...words("unplanned-run", { dataset: place })]);
    expect([done.code, done.err]).toEqual([0, expect.stringContaining("checkpoint of step")]);
  }, 60_000);
});
