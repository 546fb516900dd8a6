/** Runs of the golf lane on a small data set: what they leave behind, that they go on bit for bit, and what is refused. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import type { GitState } from "../git_state.ts";
import { scoreArtifact } from "./artifact_score.ts";
import type { GolfReport } from "./report.ts";
import { resumeGolf, startGolf } from "./run.ts";
import { type GolfOptions, type GolfRun, golfPaths, openGolfRun } from "./run_root.ts";
import { checkedGolfSettings, type GolfSettings } from "./settings.ts";
import { mostBytes, packSubmission } from "./submission.ts";
import { writeGolfData } from "./testing/data.ts";

setDefaultTimeout(120_000);

const main = join(import.meta.dir, "..", "..", "main.ts");
let folder: string;
let heldOutBytes: number;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-golf-"));
  heldOutBytes = writeGolfData(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const git: GitState = {
  ...{ selected_git_ref: "test", git_commit_sha: "0".repeat(40) },
  ...{ dirty_tree_admission: "refuse_by_default", workspace_status_sha256: null },
};

const small = {
  ...{ model: "tiny", sequences: 2, accumulation: 2, length: 16, precision: "f32", max_steps: 6 },
  ...{ time_budget_seconds: 0, warmup_steps: 0, validation_every: 0, checkpoint_every: 2, log_every: 1 },
  warm_down_steps: 12,
} as const satisfies Partial<GolfSettings>;

function runOf(name: string, change: Partial<GolfSettings> = {}): GolfRun {
  const places = { dataset: join(folder, "dataset"), tokenizer: join(folder, "tokenizer") };
  const settings = checkedGolfSettings("test", { ...places, ...small, ...change });
  return { root: join(folder, name), runId: name, backend: "cpu", git, settings };
}

const options: GolfOptions = { threads: 1, stopping: () => false, watcher: {} };

const digestOf = (root: string, step: number): string =>
  ["model", "optimizer"]
    .map((file) => sha256(readFileSync(join(root, "checkpoints", `step-${step}`, `${file}.safetensors`))))
    .join(" ");

describe("a run", () => {
  let report: GolfReport;
  let root: string;

  beforeAll(async () => {
    const run = runOf("whole", { validation_every: 3 });
    root = run.root;
    report = await startGolf(run, options);
  });

  test("reports every step, score and byte as measured", () => {
    expect(report.disposition).toBe("training_executed");
    expect(report.stop_reason).toBe("step_budget_reached");
    expect(report.step_metrics.map((s) => s.global_step)).toEqual([1, 2, 3, 4, 5, 6]);
    const [first, last] = [report.step_metrics[0]!, report.step_metrics.at(-1)!];
    expect(first.mean_microbatch_loss).toBeCloseTo(Math.log(400), 1);
    expect(last.mean_microbatch_loss).toBeLessThan(first.mean_microbatch_loss);
    expect(first.train_window_ids).toEqual(["train:0", "train:1"]);
    expect(first.learning_rate_multiplier).toBeCloseTo(6 / 12, 12);
    expect(first.effective_learning_rate.matrices).toBeCloseTo((0.04 * 6) / 12, 12);
    expect(first.tokens).toBe(64);
    expect(first.parameter_norm_after_step).toBeGreaterThan(0);
    const stages = report.validation_checkpoints.map((v) => `${v.stage_label} ${v.trigger_step}`);
    expect(stages).toEqual(["initial 0", "periodic 3", "final 6"]);
    const trip = report.roundtrip_receipt!;
    expect(trip.validation!.bits_per_byte).toBeCloseTo(report.final_validation!.bits_per_byte, 2);
    const file = readFileSync(join(root, trip.compressed_model_artifact_ref));
    expect(file.length).toBe(trip.compressed_model_bytes);
    expect(sha256(file)).toBe(trip.compressed_model_artifact_digest);
    expect(Object.keys(trip.compressed_bytes_by_compression)).toEqual(["zlib", "zstd"]);
    expect(JSON.parse(readFileSync(join(root, golfPaths.report), "utf8"))).toEqual(report);
    const log = readFileSync(join(root, "train.log"), "utf8");
    expect(log).toMatch(/^step:6\/6 train_loss:\d/m);
    expect(log).toMatch(/^final_int8_zlib_roundtrip val_loss:/m);
    expect(readFileSync(join(root, golfPaths.curves), "utf8")).toStartWith("<svg");
    expect(readFileSync(join(root, golfPaths.picture)).subarray(1, 4).toString()).toBe("PNG");
  });

  test("counts the bytes of the text, but for what the last window leaves out", () => {
    const { evaluated_byte_count: bytes, evaluated_token_count: tokens } = report.final_validation!;
    const left = report.dataset.validation_token_count - 1 - tokens;
    expect(left).toBeLessThan(16);
    // a blank that SentencePiece puts before a document counts nothing
    expect(bytes).toBeLessThanOrEqual(heldOutBytes);
    expect(bytes).toBeGreaterThan(heldOutBytes - 8 * (left + 1));
  });

  test("its artifact alone has the score of the round trip, by either compression", async () => {
    const { settings } = runOf("whole");
    for (const name of ["final_model.int8.ptz", "final_model.int8.zst"]) {
      const found = await scoreArtifact(join(root, golfPaths.artifact, name), settings, {
        ...{ backend: "cpu", threads: 1, onWindow() {} },
      });
      expect(found.bits_per_byte).toBe(report.roundtrip_receipt!.validation!.bits_per_byte);
    }
  });

  test("packs a submission that counts its bytes and claims no more than is so", () => {
    const made = packSubmission(root, { author: "Ada", github_id: "ada" });
    expect(made.claim_label).toBe("research");
    const place = join(root, golfPaths.submission);
    expect(readdirSync(place).sort()).toEqual(
      ["README.md", "final_model.int8.ptz", "submission.json", "train.log", "train_gpt.py"].sort(),
    );
    const bytes = (name: string): number => readFileSync(join(place, name)).length;
    expect(made.bytes_code).toBe(bytes("train_gpt.py"));
    expect(made.bytes_total).toBe(bytes("train_gpt.py") + bytes("final_model.int8.ptz"));
    expect(made.within_limit).toBe(made.bytes_total <= mostBytes);
    expect(JSON.parse(readFileSync(join(place, "submission.json"), "utf8"))).toEqual(made);
    expect(made.val_bpb).toBe(report.roundtrip_receipt!.validation!.bits_per_byte);
    writeFileSync(join(root, golfPaths.artifact, "final_model.int8.ptz"), "other");
    expect(() => packSubmission(root, { author: "", github_id: "" })).toThrow("final_model.int8.ptz");
  });

  test("a warm-up leaves no trace, and bits do not depend on when checkpoints are written", async () => {
    const other = runOf("warmed", { warmup_steps: 2, checkpoint_every: 5 });
    await startGolf(other, options);
    expect(digestOf(other.root, 6)).toBe(digestOf(root, 6));
  });

  test("a run that is stopped after its step goes on with the same bits", async () => {
    const run = runOf("stopped");
    let steps = 0;
    const stopped = startGolf(run, {
      ...options,
      stopping: () => steps === 3,
      watcher: { step: () => steps++ },
    });
    expect(stopped).rejects.toMatchObject({ code: "cancelled" });
    await stopped.catch(() => {});
    expect(readdirSync(join(run.root, "checkpoints"))).toContain("step-3");
    const resumed = await resumeGolf(openGolfRun(run.root, git), options);
    expect(digestOf(run.root, 6)).toBe(digestOf(root, 6));
    expect(resumed.step_metrics.map((s) => s.mean_microbatch_loss)).toEqual(
      report.step_metrics.map((s) => s.mean_microbatch_loss),
    );
  });
});

test("steps end when their time is up, and the multiplier has fallen by then", async () => {
  // a clock that each look moves on: a step takes the same however busy the machine is
  let time = 0;
  const clock = spyOn(performance, "now").mockImplementation(() => (time += 50));
  const report = await startGolf(
    runOf("timed", {
      ...{ max_steps: 100_000, time_budget_seconds: 1, warmup_steps: 2, warm_down_steps: 1200 },
      final_validation: "artifact_only",
    }),
    options,
  ).finally(() => clock.mockRestore());
  expect(report.stop_reason).toBe("wallclock_cap_reached");
  expect(report.observed_training_time_ms).toBeGreaterThanOrEqual(1000);
  const rates = report.step_metrics.map((s) => s.learning_rate_multiplier);
  expect(rates[0]).toBe(1);
  expect(rates.length).toBeGreaterThan(2);
  expect(rates.at(-1)!).toBeLessThan(rates[1]!);
  expect(report.final_validation).toBeNull();
  expect(report.roundtrip_receipt!.metric_source).toBe("not_scored");
});

describe("refused", () => {
  const refusal = (run: GolfRun): Promise<GolfReport> => startGolf(run, options);

  /** The data with one file changed. */
  function copied(name: string, file: string, change: (bytes: Uint8Array) => Uint8Array): string {
    const place = join(folder, name);
    cpSync(join(folder, "dataset"), place, { recursive: true });
    writeFileSync(join(place, file), change(readFileSync(join(place, file))));
    return place;
  }

  test("a shard whose bytes are others, and one that is cut off", async () => {
    const flipped = copied("flipped", "small_train_000000.bin", (b) =>
      b.map((v, i) => (i === 1030 ? v ^ 1 : v)),
    );
    await expect(refusal(runOf("r1", { dataset: flipped }))).rejects.toThrow("expected SHA-256");
    const cut = copied("cut", "small_train_000001.bin", (b) => b.subarray(0, b.length - 2));
    expect(refusal(runOf("r2", { dataset: cut }))).rejects.toMatchObject({ code: "file_malformed" });
    expect(existsSync(join(folder, "r2", golfPaths.settings))).toBe(false);
  });

  test("another tokenizer than that of the shards, and one that does not fit the baseline", async () => {
    const other = mkdtempSync(join(folder, "other-"));
    writeGolfData(other, 380);
    const tokenizer = join(other, "tokenizer");
    await expect(refusal(runOf("r3", { tokenizer }))).rejects.toThrow("expected the tokenizer of the shards");
    expect(refusal(runOf("r4", { model: "baseline_sp1024_9x512" }))).rejects.toThrow("1024 pieces, got 400");
    // shards without a manifest do not name theirs
    const bare = join(folder, "bare");
    cpSync(join(folder, "dataset"), bare, { recursive: true });
    rmSync(join(bare, "manifest.json"));
    const foreign = join(mkdtempSync(join(folder, "foreign-")), "tokenizer");
    writeGolfData(join(foreign, ".."), 400, "reversed");
    const wrong = runOf("r7", { dataset: bare, tokenizer: foreign, max_steps: 1 });
    await expect(refusal(wrong)).rejects.toMatchObject({
      code: "digest_mismatch",
      message: expect.stringContaining("expected the tokenizer that made the shards"),
    });
    const right = runOf("r8", { dataset: bare, max_steps: 1, final_validation: "live_only" });
    expect((await startGolf(right, options)).executed_steps).toBe(1);
  });

  test("a machine that the profile does not allow, with a report that says so", async () => {
    const run = runOf("r5", { machine_profile: "single_h100" });
    expect(refusal(run)).rejects.toMatchObject({ code: "admission_refused" });
    await refusal(run).catch(() => {});
    const report = JSON.parse(readFileSync(join(run.root, golfPaths.report), "utf8")) as GolfReport;
    expect([report.disposition, report.executed_steps]).toEqual(["refused_machine_contract", 0]);
  });

  test("a start that fails before its first step leaves the run root to the next one", async () => {
    const run = runOf("r9", { max_steps: 1, final_validation: "live_only" });
    const plan = () => {
      throw new RangeError("no such device");
    };
    await expect(startGolf(run, { ...options, watcher: { plan } })).rejects.toThrow("no such device");
    expect(readdirSync(run.root).filter((name) => name !== golfPaths.lock)).toEqual([]);
    expect((await startGolf(run, options)).executed_steps).toBe(1);
  });

  test("a run root that holds a run, a resume with other steps, and one whose checkpoint is damaged", async () => {
    const run = runOf("r6", { max_steps: 2, final_validation: "live_only" });
    // what a start left that died while it wrote its settings is no run
    mkdirSync(run.root);
    const part = join(run.root, `${golfPaths.settings}.123.part`);
    writeFileSync(part, "{");
    await startGolf(run, options);
    expect(existsSync(part)).toBe(false);
    expect(refusal(run)).rejects.toThrow("expected an empty folder as run root");
    const seeded = { ...run, settings: { ...run.settings, seed: 1 } };
    expect(resumeGolf(seeded, options)).rejects.toThrow("settings_digest");
    const path = join(run.root, "checkpoints", "step-2", "model.safetensors");
    writeFileSync(
      path,
      readFileSync(path).map((v, i) => (i === 5000 ? v ^ 1 : v)),
    );
    await expect(resumeGolf(run, options)).rejects.toThrow("expected SHA-256");
  });
});

describe("the command line", () => {
  function words(root: string, ...more: readonly string[]): string[] {
    const places = ["--dataset", join(folder, "dataset"), "--tokenizer", join(folder, "tokenizer")];
    const sizes = ["--model", "tiny", "--sequences", "2", "--accumulation", "2", "--length", "16"];
    return [...places, ...sizes, "--precision", "f32", "--run-root", root, "--allow-dirty-tree", ...more];
  }

  const spawned = (list: readonly string[]) =>
    Bun.spawn([process.execPath, main, "train", "golf", ...list], {
      stdout: "pipe",
      stderr: "pipe",
      cwd: folder,
    });

  async function ended(list: readonly string[]): Promise<{ code: number; out: string; err: string }> {
    const child = spawned(list);
    const [out, err] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    return { code: await child.exited, out, err };
  }

  test("a run that is killed goes on from its last checkpoint with the bits of one that was not", async () => {
    const [killed, whole] = [join(folder, "killed"), join(folder, "undisturbed")];
    const steps = ["--max-steps", "200", "--checkpoint-every", "20", "--final-validation", "artifact_only"];
    const child = spawned([...words(killed, ...steps), "--threads", "1"]);
    while (!existsSync(join(killed, "checkpoints", "step-40"))) await Bun.sleep(5);
    child.kill("SIGKILL");
    await child.exited;
    expect(existsSync(join(killed, golfPaths.report))).toBe(false);
    const resumed = await ended(["resume", "--run-root", killed, "--allow-dirty-tree", "--json"]);
    expect(resumed).toMatchObject({ code: 0 });
    expect(JSON.parse(resumed.out)).toMatchObject({
      executed_steps: 200,
      stop_reason: "step_budget_reached",
    });
    const undisturbed = await ended([...words(whole, ...steps), "--threads", "1"]);
    expect(undisturbed.out).toContain("executed_steps=200\n");
    expect(digestOf(killed, 200)).toBe(digestOf(whole, 200));
  });

  test("more steps where the rate stays; a refused resume leaves the run as it was", async () => {
    const root = join(folder, "longer");
    const own = { warm_down_steps: 0, max_steps: 2, final_validation: "live_only" } as const;
    await startGolf({ ...runOf("longer", own), root }, options);
    const before = readFileSync(join(root, golfPaths.settings), "utf8");
    const others = runOf("longer", { ...own, seed: 2, max_steps: 3 });
    await expect(resumeGolf(others, options)).rejects.toThrow("expected settings_digest");
    // without its manifest a data set is another one
    const dataset = join(folder, "other");
    cpSync(join(folder, "dataset"), dataset, { recursive: true });
    rmSync(join(dataset, "manifest.json"));
    const other = await ended(["resume", "--run-root", root, "--dataset", dataset, "--allow-dirty-tree"]);
    expect(other).toMatchObject({ code: 4, out: "" });
    expect(other.err).toContain("expected dataset_");
    expect(readFileSync(join(root, golfPaths.settings), "utf8")).toBe(before);
    const resumed = await ended(["resume", "--run-root", root, "--max-steps", "3", "--allow-dirty-tree"]);
    expect(resumed).toMatchObject({ code: 0 });
    expect(resumed.out).toContain("executed_steps=3\n");
  });

  test("a second process is refused for as long as the first one trains", async () => {
    const root = join(folder, "taken");
    const child = spawned([
      ...words(root, "--max-steps", "100000", "--checkpoint-every", "20"),
      "--threads",
      "1",
    ]);
    while (!existsSync(join(root, golfPaths.steps))) await Bun.sleep(5);
    const second = await ended(["resume", "--run-root", root, "--allow-dirty-tree"]);
    child.kill("SIGKILL");
    await child.exited;
    expect(second).toMatchObject({ code: 8, out: "" });
    expect(second.err).toContain("a folder that no other process is at");
  });

  test("a disk that any write finds full ends it with exit code 7", async () => {
    if (!existsSync("/dev/full")) return;
    const root = join(folder, "full");
    await startGolf(runOf("full", { final_validation: "live_only" }), options);
    rmSync(join(root, "checkpoints"), { recursive: true });
    rmSync(join(root, "train.log"));
    symlinkSync("/dev/full", join(root, "train.log"));
    const found = await ended(["resume", "--run-root", root, "--allow-dirty-tree"]);
    expect(found).toMatchObject({ code: 7 });
    expect(found.err).toContain("ENOSPC");
  });

  test("exit codes", async () => {
    const bad: readonly (readonly [readonly string[], number, string])[] = [
      [["dance"], 2, "expected start, resume, score, package, got dance"],
      [["--dataset", "x"], 2, "missing --tokenizer"],
      [["package", "--run-root", folder, "--seed", "1"], 2, "--seed means nothing to package"],
      [["package", "--run-root", folder, "--author", "Ada"], 2, "expected --github-id for package"],
      [["resume", "--run-root", join(folder, "nowhere")], 1, "expected a run root"],
      [words(join(folder, "e1"), "--eval-mode", "sliding_window:99"), 1, "STRIDE of 1 to 16"],
      [["resume", "--run-root", folder, "--allow-dirty-tree"], 1, "golf_settings.json"],
    ];
    for (const [list, code, message] of bad) {
      const found = await ended(list);
      expect({ list, code: found.code }).toEqual({ list, code });
      expect(found.err).toContain(message);
    }
  });
});
