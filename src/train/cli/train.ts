import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { basename, join, resolve } from "node:path";
import { type ErrorCode, PsionicError, unexpected } from "../../core/error.ts";
import { ownProgram } from "../../core/own_program.ts";
import type { Json } from "../../models/files/strict_json.ts";
import { command, decimalNumber, ExitError, list, UsageError, wholeNumber } from "../../terminal/command.ts";
import { stopped } from "../../terminal/live_page.ts";
import { print } from "../../terminal/output.ts";
import { readableBytes, readableCount } from "../../terminal/table.ts";
import { dashboardSnapshot, serveDashboard } from "../dashboard_page.ts";
import { decideContinueRestart } from "../decision.ts";
import { asFileFailure } from "../durable.ts";
import { gitState } from "../git_state.ts";
import { laneOf } from "../lanes/index.ts";
import type { Lane } from "../lanes/lane.ts";
import { readObservations } from "../observations.ts";
import { type TrainingBackend, trainingBackends } from "../plan.ts";
import { recordCheckpoint } from "../record_checkpoint.ts";
import { interruptionStepOf, rehearseBaseLane } from "../rehearsal.ts";
import { backUpRun, type RunOptions, type RunOutcome, resumeRun, startRun } from "../run.ts";
import { ownPaths, type Run, readDocument, retainedPaths, surfaces } from "../run_root.ts";
import { checkedSettings, storedBackend } from "../settings.ts";
import { verifyRun } from "../verify.ts";
import { TrainingBar } from "./bar.ts";
import {
  dashboard,
  decidedLines,
  type Given,
  printLines,
  recordedLines,
  rehearsedLines,
  report,
  status,
} from "./shown.ts";

/** Exit codes by what went wrong; docs/training.md lists them. Everything else is 1. */
const exitCodes: Partial<Readonly<Record<ErrorCode, number>>> = {
  not_finite: 3,
  digest_mismatch: 4,
  file_malformed: 4,
  disk_full: 7,
  locked: 8,
};

const value = (hint: string, description: string) =>
  ({ type: "string", valueHint: hint, description }) as const;

const text = (given: Given, name: string): string | undefined => {
  const found = given[name];
  return typeof found === "string" ? found : undefined;
};

export const train = command({
  meta: {
    name: "train",
    description: "Train a model in a run root, go on with a run, or show how it stands",
  },
  args: {
    action: {
      type: "positional",
      required: true,
      description:
        "start, resume, status, dashboard, record-checkpoint, backup, decide-continue-restart, rehearse-base-lane, verify",
      valueHint: "ACTION",
    },
    lane: value(
      "NAME",
      "start: what is trained, reference_pilot where nothing is named; else that of the run",
    ),
    "output-root": value("FOLDER", "start: the run root itself; default ~/scratch/<lane>_runs/<run id>"),
    "run-root": value("FOLDER", "all but start: the run root"),
    to: value("PLACE", "backup: a folder or s3://bucket/prefix; default checkpoints/backups of the run root"),
    "run-id": value("ID", "start: name of the run; default the lane's with the time"),
    model: value(
      "NAME",
      "pilot, or a small one: tiny, tiny_gpt2, tiny_gpt_oss; actual_pretraining: internal, pilot, moe, tiny, tiny_moe",
    ),
    dataset: value(
      "FOLDER",
      "actual_pretraining: what data pack made; resume: where it lies now; default PSION_ACTUAL_PRETRAINING_DATASET",
    ),
    "warmup-steps": value(
      "N",
      "actual_pretraining: steps over which the rate rises, then a cosine; default 100 or a tenth of the run, 0: neither",
    ),
    "held-out-windows": value(
      "N",
      "actual_pretraining: sequences of each held-out split that are evaluated; default 64",
    ),
    "max-steps": value("N", "Optimiser steps in all; resume may raise it"),
    "steps-per-window": value("N", "A checkpoint every N steps"),
    "windows-per-cadence": value("N", "Windows of a cadence, for receipts"),
    sequences: value("N", "Sequences of a microbatch"),
    accumulation: value("N", "Microbatches of a step"),
    length: value("TOKENS", "Tokens of a sequence"),
    "learning-rate": value("RATE", "Learning rate"),
    optimizer: { type: "enum", options: list("adam_w", "muon"), description: "Optimiser of the matrices" },
    "warm-down-steps": value(
      "N",
      "The learning rate falls to 0 over the last N steps, or as long as they take of the time budget",
    ),
    "time-budget-seconds": value("SECONDS", "Steps end when they have taken this long; default no limit"),
    "momentum-warmup-steps": value("N", "Muon's momentum rises from 0.85 over the first N steps"),
    precision: { type: "enum", options: list("f32", "bf16"), description: "Type of the matrices in a step" },
    recompute: {
      type: "boolean",
      description: "Run blocks again in the backward pass: less memory, more time",
    },
    seed: value("N", "Seed of initial values and of the order of data"),
    backend: {
      type: "enum",
      options: list(...trainingBackends),
      description:
        "Where to compute; default cpu, for a run that exists its own: its bits are those of its backend",
    },
    threads: value("N", "Threads of the CPU; 0: one per core"),
    mode: { type: "enum", options: list("auto", "local_reference"), description: "Where: this host" },
    "remote-host": value("HOST", "Not in this version"),
    "checkpoint-label": value("LABEL", "record-checkpoint: its name; default the accepted one's"),
    "optimizer-step": value(
      "N",
      "record-checkpoint: the kept checkpoint of step N; default the accepted one",
    ),
    "checkpoint-ref": value("REF", "record-checkpoint: what receipts call it; default the accepted one's"),
    "checkpoint-object-digest": value("SHA256", "record-checkpoint: refuse a checkpoint of another digest"),
    "checkpoint-total-bytes": value("N", "record-checkpoint: refuse a checkpoint of another size"),
    "inject-eval-worker-unavailable": {
      type: "boolean",
      description: "record-checkpoint: record that nothing could evaluate, as a drill",
    },
    "planned-interruption-step": value(
      "N",
      "rehearse-base-lane: the process is killed after step N, in the middle by default; start: kills itself",
    ),
    "inject-failed-upload": { type: "boolean", description: "backup: record a refused copy, as a drill" },
    "hardware-observation": value(
      "FILE",
      "start, resume: what was observed of the machine, judged with the probe",
    ),
    "run-shape-observation": value("FILE", "start, resume: speed, disk and loader as they were observed"),
    "git-ref": value("REF", "The source that receipts name"),
    "allow-dirty-tree": { type: "boolean", description: "Train from a checkout with uncommitted changes" },
    "dry-run": { type: "boolean", description: "Plan and write the preflight, train nothing" },
    web: { type: "boolean", description: "dashboard: serve it as a page on 127.0.0.1 until stopped" },
    port: value("N", "dashboard --web: its port; default any that is free"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: [
    "psionic train start --lane reference_pilot",
    "psionic train start --model tiny --max-steps 200 --output-root run --json",
    "psionic train resume --run-root run --max-steps 400",
    "psionic train status --run-root run",
    "psionic train dashboard --run-root run",
    "psionic train dashboard --run-root run --web --port 8090",
    "psionic train record-checkpoint --run-root run",
    "psionic train backup --run-root run --to /mnt/second/run",
    "psionic train backup --run-root run --to s3://bucket/runs/run",
    "psionic train decide-continue-restart --run-root run",
    "psionic train rehearse-base-lane --output-root rehearsal",
    "psionic train start --lane cs336_a1_demo --output-root demo",
    "psionic train verify --run-root demo",
  ],
  async run({ args }) {
    const given = args as Given;
    const action = text(given, "action") ?? "";
    const act = actions[action];
    if (!act) throw new UsageError(`expected ${Object.keys(actions).join(", ")}, got ${action}`);
    refuseIgnored(given, action, act.options);
    try {
      await act.run(given);
    } catch (cause) {
      const error = asFileFailure(cause, "train");
      const code = error instanceof PsionicError ? exitCodes[error.code] : undefined;
      if (error instanceof PsionicError && code !== undefined) throw new ExitError(code, error);
      throw error;
    }
  },
});

type Action = { readonly options: readonly string[]; run(given: Given): Promise<void> };

const always = ["run-root", "lane", "json"];
const running = ["backend", "threads", "mode", "remote-host", "git-ref", "allow-dirty-tree", "max-steps"];
const resumable = [
  "hardware-observation",
  "run-shape-observation",
  "dataset",
  "steps-per-window",
  "windows-per-cadence",
  "recompute",
];

const fixed = [
  "model",
  "warmup-steps",
  "held-out-windows",
  "sequences",
  "accumulation",
  "length",
  "warm-down-steps",
  "time-budget-seconds",
  "momentum-warmup-steps",
  "learning-rate",
  "optimizer",
  "precision",
  "seed",
];
const starting = ["output-root", "run-id", "lane", "json", "planned-interruption-step"].concat(
  running,
  resumable,
  fixed,
);

/** What each action does and the options that mean something to it. */
const actions: Readonly<Record<string, Action>> = {
  start: { options: [...starting, "dry-run"], run: start },
  // settings of the run may be given again, as they are
  resume: {
    options: [...always, ...running, "dry-run", ...resumable, ...fixed],
    run: resume,
  },
  status: { options: always, run: (given) => status(given, runRoot(given)) },
  dashboard: { options: [...always, "web", "port"], run: showDashboard },
  "record-checkpoint": {
    options: [...always, "git-ref", "allow-dirty-tree", "backend", "threads", "dataset"].concat([
      "checkpoint-label",
      "optimizer-step",
      "checkpoint-ref",
      "checkpoint-object-digest",
      "checkpoint-total-bytes",
      "inject-eval-worker-unavailable",
    ]),
    run: record,
  },
  backup: { options: [...always, "to", "git-ref", "allow-dirty-tree", "inject-failed-upload"], run: backup },
  "rehearse-base-lane": { options: starting, run: rehearse },
  "decide-continue-restart": { options: [...always, "git-ref", "allow-dirty-tree"], run: decide },
  verify: { options: always, run: verify },
};

function refuseIgnored(given: Given, action: string, known: readonly string[]): void {
  for (const name of Object.keys(train.args)) {
    if (name === "action" || given[name] === undefined || known.includes(name)) continue;
    throw new UsageError(`--${name} means nothing to ${action}`);
  }
}

/** Options that are settings of a run, as the command line spells them, with the reader of each. */
const settingOptions: Readonly<Record<string, (given: Given, name: string) => Json | undefined>> = {
  model: text,
  dataset: text,
  optimizer: text,
  precision: text,
  recompute: (given, name) => (typeof given[name] === "boolean" ? given[name] : undefined),
  "learning-rate": (given, name) => decimalNumber(text(given, name), `--${name}`, 1e-12, 1e30),
  ...Object.fromEntries(
    [
      "held-out-windows",
      "max-steps",
      "steps-per-window",
      "windows-per-cadence",
      "sequences",
      "accumulation",
      "length",
    ].map((name) => [name, (given: Given) => wholeNumber(text(given, name), `--${name}`, 1)]),
  ),
  seed: (given, name) => wholeNumber(text(given, name), `--${name}`, 0, 2 ** 32 - 1),
  ...Object.fromEntries(
    ["warmup-steps", "warm-down-steps", "time-budget-seconds", "momentum-warmup-steps"].map((name) => [
      name,
      (given: Given) => wholeNumber(text(given, name), `--${name}`, 0),
    ]),
  ),
};

const threadsOf = (given: Given): number => wholeNumber(text(given, "threads"), "--threads", 0, 1024) ?? 0;

const backendOf = (given: Given): TrainingBackend | undefined => given.backend as TrainingBackend | undefined;

function givenSettings(given: Given): Record<string, Json> {
  const settings: Record<string, Json> = {};
  for (const [option, read] of Object.entries(settingOptions)) {
    const found = read(given, option);
    if (found !== undefined) settings[option.replaceAll("-", "_")] = found;
  }
  return settings;
}

function refuseRemote(given: Given): void {
  if (text(given, "remote-host") === undefined) return;
  throw new PsionicError(
    "unsupported",
    "[train] expected a run on this host, got --remote-host. Leave it out",
  );
}

async function start(given: Given): Promise<void> {
  const run = stagedRun(given, "train start");
  const kill = plannedStep(given, run);
  await watched(given, run, surfaces(run.lane).start_surface_id, retainedPaths.launch_manifest_path, (r, o) =>
    startRun(r, kill === undefined ? o : killedAfter(kill, o)),
  );
}

/** The run that start and rehearse-base-lane begin. */
function stagedRun(given: Given, where: string): Run {
  refuseRemote(given);
  if (text(given, "run-root") !== undefined)
    throw new UsageError("start takes --output-root, resume --run-root");
  const lane = laneOf(text(given, "lane") ?? "reference_pilot");
  const asked = givenSettings(given);
  refuseForeign(lane, asked);
  const checked = checkedSettings(where, lane, { ...lane.defaults, ...asked });
  const settings = lane.begun?.(checked, asked) ?? checked;
  const stamp = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
  const runId = text(given, "run-id") ?? `${lane.runPrefix}-${stamp}`;
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(runId)) {
    throw new UsageError(`--run-id takes letters, digits, dots and dashes, got ${runId}`);
  }
  const root = resolve(text(given, "output-root") ?? join(homedir(), "scratch", lane.runFolder, runId));
  const git = gitState(process.cwd(), text(given, "git-ref"), given["allow-dirty-tree"] === true);
  const observations = observationsOf(given, lane);
  return { root, runId, lane, git, settings, backend: backendOf(given) ?? "cpu", observations };
}

const observationsOf = (given: Given, lane: Lane) =>
  readObservations(lane.id, text(given, "hardware-observation"), text(given, "run-shape-observation"));

/** Settings of other lanes mean nothing to this one. */
function refuseForeign(lane: Lane, asked: Readonly<Record<string, Json>>): void {
  const foreign = Object.keys(asked).find((key) => !(key in lane.defaults));
  if (foreign !== undefined)
    throw new UsageError(`--${foreign.replaceAll("_", "-")} means nothing to lane ${lane.name}`);
}

function plannedStep(given: Given, { settings }: Run): number | undefined {
  const option = "--planned-interruption-step";
  return wholeNumber(text(given, option.slice(2)), option, 1, settings.max_steps - 1);
}

/** Kills this process as a crash would, once the step's figures are written and before any checkpoint of it. */
const killedAfter = (step: number, options: RunOptions): RunOptions => ({
  ...options,
  watcher: {
    ...options.watcher,
    step: (record, live) => {
      options.watcher.step?.(record, live);
      if (record.step === step) process.kill(process.pid, "SIGKILL");
    },
  },
});

async function rehearse(given: Given): Promise<void> {
  const run = stagedRun(given, "train rehearse-base-lane");
  const interruptionStep = plannedStep(given, run) ?? interruptionStepOf(run.settings);
  const done = await heard(given, run, (options, bar) =>
    rehearseBaseLane(run, {
      ...options,
      interruptionStep,
      part: (name) => bar.line(`rehearsal: ${name}`),
      async startAndKill() {
        const words = startWords(given, run, interruptionStep);
        const child = Bun.spawn([...ownProgram(), ...words], { stdout: "ignore", stderr: "inherit" });
        await child.exited;
        return typeof child.signalCode === "string" ? child.signalCode : null;
      },
    }),
  );
  await printLines(given, rehearsedLines(run, done));
}

/** The words that start a run of the same settings in another process. */
function startWords(given: Given, run: Run, interruptionStep: number): string[] {
  const settings = Object.keys(settingOptions).flatMap((option) => {
    const set = run.settings[option.replaceAll("-", "_") as keyof Run["settings"]];
    return set === true
      ? [`--${option}`]
      : set === false || set === undefined
        ? []
        : [`--${option}`, String(set)];
  });
  const ref = text(given, "git-ref");
  const observed = ["hardware-observation", "run-shape-observation"].flatMap((option) => {
    const file = text(given, option);
    return file === undefined ? [] : [`--${option}`, resolve(file)];
  });
  return [
    ...["train", "start", "--lane", run.lane.name, "--run-id", run.runId, "--output-root", run.root],
    ...["--planned-interruption-step", String(interruptionStep)],
    ...["--backend", run.backend ?? "cpu", "--threads", String(threadsOf(given))],
    ...settings,
    ...observed,
    ...(ref === undefined ? [] : ["--git-ref", ref]),
    ...(given["allow-dirty-tree"] === true ? ["--allow-dirty-tree"] : []),
  ];
}

/** The run of a run root, with the settings that it was begun with and what may be changed of them. */
function openedRun(given: Given, where: string): Run {
  const root = runRoot(given);
  const { run_id, lane: name, backend: begunWith, ...stored } = readDocument(root, ownPaths.settings);
  const lane = laneOf(String(name));
  const kept = checkedSettings(join(root, ownPaths.settings), lane, { ...stored, lane: lane.name });
  const backend = storedBackend(join(root, ownPaths.settings), begunWith);
  const changed = givenSettings(given);
  refuseForeign(lane, changed);
  if (typeof changed.dataset === "string") changed.dataset = resolve(changed.dataset);
  const free = ["dataset", "max_steps", "steps_per_window", "windows_per_cadence", "recompute"];
  for (const key of Object.keys(changed)) {
    if (free.includes(key) || changed[key] === kept[key as keyof typeof kept]) continue;
    throw new UsageError(`a run goes on with the ${key} it began with, ${kept[key as keyof typeof kept]}`);
  }
  const settings = checkedSettings(where, lane, { ...kept, ...changed });
  const bySteps =
    (kept.warm_down_steps > 0 && kept.time_budget_seconds === 0) || (kept.warmup_steps ?? 0) > 0;
  if (bySteps && settings.max_steps !== kept.max_steps) {
    throw new UsageError(
      `a run whose learning rate comes down goes on with the max_steps it began with, ${kept.max_steps}`,
    );
  }
  const git = gitState(process.cwd(), text(given, "git-ref"), given["allow-dirty-tree"] === true);
  const observations = observationsOf(given, lane);
  return { root, runId: String(run_id ?? basename(root)), lane, git, settings, backend, observations };
}

async function resume(given: Given): Promise<void> {
  refuseRemote(given);
  const run = openedRun(given, "train resume");
  const backend = backendOf(given) ?? run.backend;
  if (backend !== run.backend) {
    throw new UsageError(`a run goes on with the backend it began with, ${run.backend}, got ${backend}`);
  }
  const surface = surfaces(run.lane).resume_surface_id;
  await watched(given, run, surface, retainedPaths.resume_manifest_path, resumeRun);
}

/** The figures once, or as a page until the process is told to end. */
async function showDashboard(given: Given): Promise<void> {
  const root = runRoot(given);
  const port = wholeNumber(text(given, "port"), "--port", 0, 65535);
  if (given.web !== true) {
    if (port !== undefined) throw new UsageError("--port belongs to --web");
    return dashboard(given, root);
  }
  if (given.json === true) throw new UsageError("--web goes with --port alone");
  dashboardSnapshot(root);
  const server = serveDashboard(root, port ?? 0);
  await print(`psionic train dashboard http://127.0.0.1:${server.port}/ run_root=${root}`);
  await stopped();
  await server.stop(true);
}

async function backup(given: Given): Promise<void> {
  const run = openedRun(given, "train backup");
  const refused = given["inject-failed-upload"] === true;
  const { label, digest } = await backUpRun(run, text(given, "to"), refused);
  await printLines(given, {
    status: refused ? "checkpoint_backup_refused" : "checkpoint_backed_up",
    run_id: run.runId,
    run_root: run.root,
    checkpoint_label: label,
    checkpoint_object_digest: digest,
    backup_receipt: retainedPaths.latest_checkpoint_backup_receipt_path,
  });
}

/** Lines of what was checked; exit code 1 where something did not hold. */
async function verify(given: Given): Promise<void> {
  const run = openedRun({ ...given, "allow-dirty-tree": true }, "train verify");
  const checks = verifyRun(run);
  const failed = checks.filter((c) => !c.passed).map((c) => c.id);
  const lines = checks.map((c) => [c.id, c.passed ? "passed" : `failed: ${c.detail}`]);
  await printLines(given, {
    status: failed.length === 0 ? "verified" : "not_verified",
    run_id: run.runId,
    run_root: run.root,
    ...Object.fromEntries(lines),
  });
  if (failed.length > 0)
    throw unexpected("invalid_request", "train verify", "every check to pass", `${failed.join(", ")} failed`);
}

async function record(given: Given): Promise<void> {
  const where = "train record-checkpoint";
  const run = openedRun(given, where);
  const name = (option: string): string | undefined => {
    const found = text(given, option);
    if (found === undefined || /^[\w.:/@#+-]{1,256}$/.test(found)) return found;
    throw new UsageError(`--${option} takes letters, digits and .:/@#+-, got ${found}`);
  };
  const recorded = recordCheckpoint(run, {
    step: wholeNumber(text(given, "optimizer-step"), "--optimizer-step", 1),
    label: name("checkpoint-label"),
    ref: name("checkpoint-ref"),
    digest: name("checkpoint-object-digest"),
    bytes: wholeNumber(text(given, "checkpoint-total-bytes"), "--checkpoint-total-bytes", 1),
    threads: threadsOf(given),
    ...(given.backend !== undefined && { backend: backendOf(given) }),
    injectUnavailable: given["inject-eval-worker-unavailable"] === true,
  });
  await printLines(given, recordedLines(run, recorded));
}

async function decide(given: Given): Promise<void> {
  const run = openedRun(given, "train decide-continue-restart");
  await printLines(given, decidedLines(run, decideContinueRestart(run)));
}

/** The folder of a run, which must be of the lane that was named, if one was. */
function runRoot(given: Given): string {
  const root = text(given, "run-root");
  if (root === undefined) throw new UsageError("missing --run-root");
  if (!existsSync(root)) {
    throw new PsionicError("file_not_found", `[train] expected a run root at ${root}, got nothing`);
  }
  const lane = text(given, "lane");
  const own = readDocument(root, ownPaths.settings).lane;
  if (lane !== undefined && lane !== own)
    throw new UsageError(`the run in ${root} is of lane ${own}, not ${lane}`);
  return resolve(root);
}

/** Runs with a bar on stderr and the outcome on stdout. */
async function watched(
  given: Given,
  run: Run,
  surface: string,
  manifest: string,
  go: (run: Run, options: RunOptions) => Promise<RunOutcome>,
): Promise<void> {
  const outcome = await heard(given, run, (options) => go(run, options));
  await report(given, run, surface, manifest, outcome);
  if (outcome.phase === "training_interrupted") {
    const after = `after step ${outcome.completedSteps}; resume with --run-root ${run.root}`;
    throw new PsionicError("cancelled", `[train] ended by a signal ${after}`);
  }
}

/** Shows a bar meanwhile; the first signal ends a run after its step, with a checkpoint, a second one the process. */
async function heard<T>(
  given: Given,
  run: Run,
  go: (options: RunOptions, bar: TrainingBar) => Promise<T>,
): Promise<T> {
  const bar = new TrainingBar();
  let stop: NodeJS.Signals | undefined;
  const hear = (signal: NodeJS.Signals): void => {
    if (stop !== undefined) process.exit(130);
    stop = signal;
    bar.line(`${signal}: ending after this step, with a checkpoint`);
  };
  process.on("SIGINT", hear).on("SIGTERM", hear);
  const options: RunOptions = {
    threads: threadsOf(given),
    dryRun: given["dry-run"] === true,
    stopping: () => stop !== undefined,
    watcher: {
      plan: (p) =>
        bar.line(
          `${run.lane.name}: ${readableCount(p.parameters)} parameters, ${readableBytes(p.stateBytes)} of state, ${readableBytes(p.stepBytes)} for a step; run root ${run.root}`,
        ),
      step: (record, live) => bar.step(record, live),
      checkpoint: (saved, ms) =>
        bar.line(`checkpoint of step ${saved.step}: ${readableBytes(saved.bytes)} in ${Math.round(ms)} ms`),
    },
  };
  try {
    return await go(options, bar);
  } finally {
    bar.end();
    process.off("SIGINT", hear).off("SIGTERM", hear);
  }
}
