import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { type ErrorCode, PsionicError } from "../../core/error.ts";
import type { Json } from "../../models/files/strict_json.ts";
import { command, decimalNumber, ExitError, list, UsageError, wholeNumber } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { readableBytes, readableCount } from "../../terminal/table.ts";
import { asFileFailure } from "../durable.ts";
import { gitState } from "../git_state.ts";
import { scoreArtifact } from "../golf/artifact_score.ts";
import type { GolfReport } from "../golf/report.ts";
import { resumeGolf, startGolf } from "../golf/run.ts";
import { type GolfOptions, type GolfRun, golfPaths, openGolfRun } from "../golf/run_root.ts";
import {
  checkedGolfSettings,
  compressions,
  fallsBySteps,
  finalValidations,
  freeSettings,
  type GolfSettings,
  golfDefaults,
  golfModels,
  machineProfiles,
  proofRun,
  quantizations,
} from "../golf/settings.ts";
import { packSubmission } from "../golf/submission.ts";
import { type TrainingBackend, trainingBackends } from "../plan.ts";
import { shareText, TrainingBar } from "./bar.ts";
import type { Given } from "./shown.ts";

/** Exit codes by what went wrong, those of `psionic train`. */
const exitCodes: Partial<Readonly<Record<ErrorCode, number>>> = {
  ...{ not_finite: 3, digest_mismatch: 4, file_malformed: 4, disk_full: 7, locked: 8 },
};

const value = (hint: string, description: string) =>
  ({ type: "string", valueHint: hint, description }) as const;

const actions: Readonly<Record<string, (given: Given) => Promise<void>>> = {
  ...{ start, resume, score: scored, package: packed },
};

export const golf = command({
  meta: {
    name: "train golf",
    description:
      "Train Parameter Golf's baseline on one device, score it in bits per byte, quantise and pack it",
  },
  args: {
    action: {
      ...{ type: "positional", required: false, valueHint: "ACTION" },
      description: "start (where nothing is named), resume, score, package",
    },
    dataset: value("FOLDER", "u16 shards with magic 20240520, of psionic data pack --format golf"),
    tokenizer: value("PATH", "Their SentencePiece tokenizer.model, or its folder"),
    "run-root": value("FOLDER", "The run's folder; start: default ~/scratch/parameter_golf_runs/<run id>"),
    "run-id": value("ID", "start: name of the run; default parameter-golf with the time"),
    model: {
      ...{ type: "enum", options: list(...golfModels) },
      description: "The baseline (default), or a small one to try a run out",
    },
    "max-steps": value(
      "N",
      "Optimiser steps at most, default 20000; alone: a proof run without warm-up and time budget",
    ),
    "time-budget-seconds": value(
      "SECONDS",
      "Steps end when they have taken this long; default 600, 0: no limit",
    ),
    "warm-down-steps": value(
      "N",
      "The learning rate falls to 0 over the last N steps, or their time; default 1200",
    ),
    "warmup-steps": value("N", "Steps before the first, whose effect is wiped out; default 20"),
    "momentum-warmup-steps": value(
      "N",
      "Muon's momentum rises from 0.85 over the first N steps; default 500",
    ),
    sequences: value("N", "Sequences of a microbatch; default 64"),
    accumulation: value("N", "Microbatches of a step; default 8"),
    length: value("TOKENS", "Tokens of a sequence; default 1024"),
    precision: {
      ...{ type: "enum", options: list("f32", "bf16") },
      description: "Type that a step computes in; default bf16",
    },
    recompute: {
      type: "boolean",
      description: "Run blocks again in the backward pass: less memory, more time",
    },
    seed: value("N", "Seed of the initial values; default 1337"),
    "validation-every": value("N", "Steps between validations; default 1000, 0: at the end alone"),
    "checkpoint-every": value("N", "Steps between checkpoints; default 1000, 0: at the end alone"),
    "log-every": value("N", "Steps between lines of train.log; default 200"),
    "final-validation": {
      ...{ type: "enum", options: list(...finalValidations) },
      description:
        "What is scored at the end: the model, its artifact, both (default), or none but the artifact made",
    },
    "eval-mode": value("MODE", "non_overlapping (default), or sliding_window:STRIDE"),
    quantization: {
      ...{ type: "enum", options: list(...quantizations) },
      description:
        "int8 by rows; v1 (default) has the upstream script's least scale of 1/127, the other is finer and larger",
    },
    compression: {
      type: "enum",
      options: list(...compressions),
      description: "Of the artifact; default zlib",
    },
    "machine-profile": {
      ...{ type: "enum", options: list(...machineProfiles) },
      description: "single_h100 refuses other machines; default local",
    },
    backend: {
      type: "enum",
      options: list(...trainingBackends),
      description: "Where to compute; default cpu",
    },
    threads: value("N", "Threads of the CPU; 0: one per core"),
    artifact: value("FILE", "score: a compressed model"),
    author: value("NAME", "package, needed: who submits"),
    "github-id": value("ID", "package, needed: who submits, on GitHub"),
    name: value("TEXT", "package: name of the submission; default the run's id"),
    blurb: value("TEXT", "package: a sentence on it"),
    "git-ref": value("REF", "The source that the report names"),
    "allow-dirty-tree": { type: "boolean", description: "Train from a checkout with uncommitted changes" },
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: [
    "psionic train golf --dataset dataset --tokenizer tokenizer --backend cuda --run-root golf",
    "psionic train golf --dataset dataset --tokenizer tokenizer --max-steps 381 --backend cuda",
    "psionic train golf --dataset dataset --tokenizer tokenizer --model tiny --sequences 2 --accumulation 1 --length 64 --max-steps 20",
    "psionic train golf resume --run-root golf",
    "psionic train golf score --artifact golf/artifact/final_model.int8.ptz --dataset dataset --tokenizer tokenizer --eval-mode sliding_window:64",
    "psionic train golf package --run-root golf --author Ada --github-id ada",
  ],
  async run({ args }) {
    const given = args as Given;
    const name = text(given, "action") ?? "start";
    const act = actions[name];
    if (!act) throw new UsageError(`expected ${Object.keys(actions).join(", ")}, got ${name}`);
    for (const option of Object.keys(golf.args))
      if (option !== "action" && given[option] !== undefined && !known[name]!.includes(option))
        throw new UsageError(`--${option} means nothing to ${name}`);
    try {
      await act(given);
    } catch (cause) {
      const error = asFileFailure(cause, "train golf");
      const code = error instanceof PsionicError ? exitCodes[error.code] : undefined;
      if (error instanceof PsionicError && code !== undefined) throw new ExitError(code, error);
      throw error;
    }
  },
});

const running = ["threads", "json", "git-ref", "allow-dirty-tree"];
const free = freeSettings.map((key) => key.replaceAll("_", "-"));
const settingNames = ["dataset", "tokenizer", ...Object.keys(golfDefaults)].map((key) =>
  key.replaceAll("_", "-"),
);

/** Options that mean something to each action. */
const known: Readonly<Record<string, readonly string[]>> = {
  start: [...settingNames, ...running, "run-root", "run-id", "backend"],
  resume: [...free, ...running, "run-root", "max-steps", "dataset", "tokenizer"],
  score: [
    "artifact",
    "dataset",
    "tokenizer",
    "model",
    "length",
    "sequences",
    "precision",
    "eval-mode",
  ].concat(["backend", "threads", "json"]),
  package: ["run-root", "author", "github-id", "name", "blurb", "json"],
};

const text = (given: Given, name: string): string | undefined => {
  const found = given[name];
  return typeof found === "string" ? found : undefined;
};

function needed(given: Given, name: string): string {
  const found = text(given, name);
  if (found === undefined || found === "") throw new UsageError(`missing --${name}`);
  return found;
}

/** Settings of the command line, by their names in files. */
function givenSettings(given: Given): Record<string, Json> {
  const settings: Record<string, Json> = {};
  for (const [key, usual] of Object.entries({ dataset: "", tokenizer: "", ...golfDefaults })) {
    const option = key.replaceAll("_", "-");
    const found = given[option];
    if (found === undefined) continue;
    if (key === "time_budget_seconds") settings[key] = decimalNumber(String(found), `--${option}`, 0, 1e9)!;
    else if (typeof usual === "number") settings[key] = wholeNumber(String(found), `--${option}`, 0)!;
    else if (key === "dataset" || key === "tokenizer") settings[key] = resolve(String(found));
    else settings[key] = found;
  }
  return settings;
}

/** Steps alone make a proof run; what is given besides holds. */
function settingsOf(given: Given): GolfSettings {
  const own = givenSettings(given);
  const proof = own.max_steps !== undefined && own.time_budget_seconds === undefined ? proofRun : {};
  return checkedGolfSettings("train golf", { ...proof, ...own });
}

const sourceOf = (given: Given) =>
  gitState(process.cwd(), text(given, "git-ref"), given["allow-dirty-tree"] === true);

async function start(given: Given): Promise<void> {
  needed(given, "dataset");
  needed(given, "tokenizer");
  const settings = settingsOf(given);
  const stamp = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
  const runId = text(given, "run-id") ?? `parameter-golf-${stamp}`;
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(runId))
    throw new UsageError(`--run-id takes letters, digits, dots and dashes, got ${runId}`);
  const root = resolve(text(given, "run-root") ?? join(homedir(), "scratch", "parameter_golf_runs", runId));
  const backend = (given.backend as TrainingBackend | undefined) ?? "cpu";
  await watched(given, { root, runId, backend, git: sourceOf(given), settings }, startGolf);
}

function rootOf(given: Given): string {
  const root = resolve(needed(given, "run-root"));
  if (existsSync(root)) return root;
  throw new PsionicError("file_not_found", `[train golf] expected a run root at ${root}, got nothing`);
}

async function resume(given: Given): Promise<void> {
  const kept = openGolfRun(rootOf(given), sourceOf(given));
  const settings = checkedGolfSettings("train golf resume", { ...kept.settings, ...givenSettings(given) });
  if (fallsBySteps(settings) && settings.max_steps !== kept.settings.max_steps)
    throw new UsageError(
      `a run that warms down by its steps goes on with the max_steps it began with, ${kept.settings.max_steps}`,
    );
  await watched(given, { ...kept, settings }, resumeGolf);
}

const threadsOf = (given: Given): number => wholeNumber(text(given, "threads"), "--threads", 0, 1024) ?? 0;

/** Runs with a bar on stderr and the outcome on stdout; the first signal ends it after its step, a second one the process. */
async function watched(
  given: Given,
  run: GolfRun,
  go: (run: GolfRun, options: GolfOptions) => Promise<GolfReport>,
): Promise<void> {
  const bar = new TrainingBar();
  const progress = new Progress();
  let stop = false;
  const hear = (signal: NodeJS.Signals): void => {
    if (stop) process.exit(130);
    stop = true;
    bar.line(`${signal}: ending after this step, with a checkpoint`);
  };
  process.on("SIGINT", hear).on("SIGTERM", hear);
  try {
    const report = await go(run, {
      threads: threadsOf(given),
      stopping: () => stop,
      watcher: {
        shards: (done, total) => progress.update("shards", done, total),
        plan: (p) => {
          progress.end();
          bar.line(
            `golf: ${readableCount(p.parameters)} parameters, ${readableBytes(p.stateBytes)} of state, ${readableBytes(p.stepBytes)} for a step; run root ${run.root}`,
          );
        },
        step: (record, live) => bar.step(record, live),
        scored: (stage, s, ms) =>
          bar.line(
            `${stage}: ${s.mean_loss.toFixed(4)} nats a token, ${s.bits_per_byte.toFixed(4)} bits a byte, in ${Math.round(ms)} ms`,
          ),
        note: (line) => bar.line(line),
      },
    });
    bar.end();
    await shown(given, run, report);
  } finally {
    bar.end();
    progress.end();
    process.off("SIGINT", hear).off("SIGTERM", hear);
  }
}

async function shown(given: Given, run: GolfRun, report: GolfReport): Promise<void> {
  const { step_metrics: steps, final_validation: final, roundtrip_receipt: trip } = report;
  const bpb = (s: { readonly bits_per_byte: number } | null | undefined): string =>
    s ? s.bits_per_byte.toFixed(4) : "not_scored";
  const lines = {
    run_id: report.run_id,
    run_root: run.root,
    report: golfPaths.report,
    disposition: report.disposition,
    stop_reason: report.stop_reason ?? "none",
    executed_steps: report.executed_steps,
    training_time_ms: Math.round(report.observed_training_time_ms),
    median_step_ms: report.median_step_ms?.toFixed(1) ?? "not_measured",
    tokens_per_second: Math.round(report.tokens_per_second ?? 0),
    mfu_percent: shareText(report.model_flops_utilization),
    final_loss: steps.at(-1)?.mean_microbatch_loss.toFixed(4) ?? "none",
    val_bpb: bpb(final),
    roundtrip_val_bpb: bpb(trip?.validation),
    artifact: trip?.compressed_model_artifact_ref ?? "none",
    artifact_bytes: trip?.compressed_model_bytes ?? 0,
    report_digest: report.report_digest,
  };
  if (given.json === true) {
    const { step_metrics: _steps, ...rest } = report;
    await printJson({ run_root: run.root, final_loss: steps.at(-1)?.mean_microbatch_loss ?? null, ...rest });
    return;
  }
  await print(
    Object.entries(lines)
      .map(([key, v]) => `${key}=${v}`)
      .join("\n"),
  );
}

async function scored(given: Given): Promise<void> {
  const settings = checkedGolfSettings("train golf score", {
    ...givenSettings(given),
    dataset: resolve(needed(given, "dataset")),
    tokenizer: resolve(needed(given, "tokenizer")),
  });
  const progress = new Progress({ format: String });
  const found = await scoreArtifact(resolve(needed(given, "artifact")), settings, {
    backend: (given.backend as TrainingBackend | undefined) ?? "cpu",
    threads: threadsOf(given),
    onWindow: (done, total) => progress.update("windows", done, total),
  });
  progress.end();
  if (given.json === true) return printJson(found);
  await print(
    Object.entries(found)
      .map(([key, v]) => `${key}=${v}`)
      .join("\n"),
  );
}

/** A submission names who makes it. */
function submitter(given: Given, name: "author" | "github-id"): string {
  const value = text(given, name);
  if (!value?.trim()) throw new UsageError(`expected --${name} for package, got none`);
  return value;
}

async function packed(given: Given): Promise<void> {
  const root = rootOf(given);
  const made = packSubmission(root, {
    author: submitter(given, "author"),
    github_id: submitter(given, "github-id"),
    ...(text(given, "name") !== undefined && { name: text(given, "name")! }),
    ...(text(given, "blurb") !== undefined && { blurb: text(given, "blurb")! }),
  });
  if (given.json === true) return printJson({ run_root: root, ...made });
  const { counted_components: parts, ...rest } = made;
  await print(
    [...Object.entries({ folder: join(root, golfPaths.submission), ...rest }), ...Object.entries(parts)]
      .map(([key, v]) => `${key}=${v}`)
      .join("\n"),
  );
}
