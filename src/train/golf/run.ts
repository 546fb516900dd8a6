/** A Parameter Golf run from its first step, or from its last checkpoint, to its report. */
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { measureRoofline, measureTensorCores, openDevice } from "../../backends/index.ts";
import { PsionicError, unexpected } from "../../core/error.ts";
import { lockFolder } from "../../core/folder_lock.ts";
import type { HostBatch } from "../../data/batches.ts";
import { loaderState, streamCursor } from "../../data/loader/contract.ts";
import { BatchLoader } from "../../data/loader/loader.ts";
import { fileError } from "../../models/files/bytes.ts";
import { isObject, parseJson } from "../../models/files/strict_json.ts";
import type { Device } from "../../runtime/device.ts";
import { fill } from "../../runtime/training.ts";
import { loadCheckpoint, type RunIdentity, removeOldCheckpoints, saveCheckpoint } from "../checkpoint.ts";
import { curvesSvg } from "../curves.ts";
import { writeJson, writeWhole } from "../durable.ts";
import type { GitState } from "../git_state.ts";
import type { TrainedModel } from "../model.ts";
import { checkMemory, type MemoryPlan, planMemory, type TrainingBackend } from "../plan.ts";
import { keepSteps, type Live } from "../run.ts";
import { storedBackend } from "../settings.ts";
import { type StepRecord, Trainer } from "../trainer.ts";
import { finish } from "./closing.ts";
import { type GolfData, golfContract, openGolfData } from "./data.ts";
import { golfModel, golfTrainerConfig, placeholderWindows } from "./recipe.ts";
import type { GolfReport, MachineObservation, StepMetrics, ValidationCheckpoint } from "./report.ts";
import { stepMetrics } from "./report.ts";
import { type Score, score } from "./score.ts";
import { checkedGolfSettings, type GolfSettings, settingsDigest } from "./settings.ts";
import { TrainLog } from "./train_log.ts";

const settingsSchema = "psionic.train.golf_settings.v1";

/** Files of a run root. */
export const golfPaths = {
  settings: "golf_settings.json",
  checkpoints: "checkpoints",
  steps: "metrics/steps.jsonl",
  validation: "metrics/validation.jsonl",
  curves: "training_curves.svg",
  report: "report.json",
  artifact: "artifact",
  submission: "submission",
  lock: "run.lock",
} as const;

export type GolfRun = {
  readonly root: string;
  readonly runId: string;
  readonly backend: TrainingBackend;
  readonly git: GitState;
  readonly settings: GolfSettings;
};

/** What a run tells whoever watches it. */
export type GolfWatcher = {
  shards?(done: number, total: number): void;
  plan?(plan: MemoryPlan): void;
  step?(record: StepRecord, live: Live): void;
  scored?(stage: string, score: Score, durationMs: number): void;
  note?(text: string): void;
};

export type GolfOptions = {
  readonly threads: number;
  readonly watcher: GolfWatcher;
  /** Asked between steps; a run that is to stop writes a checkpoint first. */
  readonly stopping: () => boolean;
};

/** The run of a run root, with the settings it was begun with. */
export function openGolfRun(root: string, git: GitState): GolfRun {
  const path = join(root, golfPaths.settings);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw fileError(path, cause);
  }
  const value = parseJson(text, path);
  if (!isObject(value) || value.schema_version !== settingsSchema)
    throw unexpected("file_malformed", path, `settings of ${settingsSchema}`, text.slice(0, 40));
  return {
    ...{
      root,
      git,
      runId: String(value.run_id ?? basename(root)),
      backend: storedBackend(path, value.backend),
    },
    settings: checkedGolfSettings(path, value),
  };
}

/** Begins a run in a root that holds none. */
export async function startGolf(run: GolfRun, options: GolfOptions): Promise<GolfReport> {
  if (existsSync(run.root) && readdirSync(run.root).some((name) => name !== golfPaths.lock))
    throw unexpected("invalid_request", "train golf", "an empty folder as run root", run.root, {
      fix: "psionic train golf resume --run-root goes on with a run",
    });
  mkdirSync(run.root, { recursive: true });
  using _lock = lockFolder(join(run.root, golfPaths.lock), run.root);
  const data = await openGolfData(run.settings, options.watcher.shards);
  writeSettings(run);
  return trained(run, data, options);
}

/** Goes on with a run from its last checkpoint, or from the beginning where there is none; settings may have changed. */
export async function resumeGolf(run: GolfRun, options: GolfOptions): Promise<GolfReport> {
  using _lock = lockFolder(join(run.root, golfPaths.lock), run.root);
  const data = await openGolfData(run.settings, options.watcher.shards);
  writeSettings(run);
  return trained(run, data, options);
}

function writeSettings({ root, runId, backend, settings }: GolfRun): void {
  const document = { schema_version: settingsSchema, run_id: runId, backend, ...settings };
  writeJson(join(root, golfPaths.settings), document);
}

/** The newest checkpoint's folder; undefined before the first. */
export function lastCheckpoint(root: string): string | undefined {
  const folder = join(root, golfPaths.checkpoints);
  const steps = (existsSync(folder) ? readdirSync(folder) : [])
    .flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number);
  return steps.length > 0 ? join(folder, `step-${Math.max(...steps)}`) : undefined;
}

export const identityOf = (settings: GolfSettings, data: GolfData, model: TrainedModel): RunIdentity => ({
  model_id: model.id,
  dataset_identity: data.identity,
  dataset_digest: data.dataset.manifest_digest,
  settings_digest: settingsDigest(settings),
});

async function trained(run: GolfRun, data: GolfData, options: GolfOptions): Promise<GolfReport> {
  const { settings, backend } = run;
  const model = golfModel(settings, data.vocabularySize);
  const config = golfTrainerConfig(settings);
  const windows = placeholderWindows(settings.length);
  const plan = planMemory({ model, train: windows, config }, backend);
  options.watcher.plan?.(plan);
  const device = backend === "cpu" ? openDevice("cpu", { threads: options.threads }) : openDevice(backend);
  try {
    const machine = observed(run, device, plan);
    checkMemory(plan, device.backend.memory?.().free);
    const checkpoint = lastCheckpoint(run.root);
    using trainer = new Trainer(device, model, windows, config, checkpoint ? "none" : "seed");
    if (checkpoint) loadCheckpoint(trainer, checkpoint, identityOf(settings, data, model));
    const course = new Course(run, data, options, trainer, machine);
    await course.steps();
    return finish(run, data, trainer, machine, course, options.watcher);
  } finally {
    device.close();
  }
}

/** What is measured of the machine; a profile that it does not fit is refused. */
function observed(run: GolfRun, device: Device, plan: MemoryPlan): MachineObservation {
  const { backend, settings } = run;
  const info = device.backend.info();
  const name = backend === "cpu" ? `cpu ${info.isa ?? ""} ${info.threads ?? ""} threads` : `${info.device}`;
  const { machine_profile: profile } = settings;
  if (profile === "single_h100" && (backend !== "cuda" || !name.includes("H100") || name.includes("MIG")))
    throw unexpected("admission_refused", "train golf", "one whole H100 for the profile single_h100", name, {
      fix: "Leave --machine-profile out to train on what there is",
      details: { disposition: "refused_machine_contract" },
    });
  const flops =
    backend === "cuda" && settings.precision === "bf16"
      ? measureTensorCores()
      : measureRoofline(backend, 16 * 2 ** 20).f32GflopPerSecond / 1000;
  return {
    ...{ backend, device: name, profile },
    total_memory_bytes: device.backend.memory?.().total ?? null,
    planned_memory_bytes: plan.totalBytes,
    measured_peak_tflops: flops > 0 ? flops : null,
  };
}

/** The steps of a run in this process. */
export class Course {
  readonly #run: GolfRun;
  readonly #data: GolfData;
  readonly #options: GolfOptions;
  readonly #trainer: Trainer;
  readonly #machine: MachineObservation;
  readonly #log: TrainLog;
  readonly metrics: StepMetrics[];
  readonly validations: ValidationCheckpoint[];
  #trainingMs: number;

  constructor(
    run: GolfRun,
    data: GolfData,
    options: GolfOptions,
    trainer: Trainer,
    machine: MachineObservation,
  ) {
    this.#run = run;
    this.#data = data;
    this.#options = options;
    this.#trainer = trainer;
    this.#machine = machine;
    this.#log = new TrainLog(run.root);
    const done = trainer.completedSteps;
    this.metrics = keepSteps(this.#path(golfPaths.steps), done, (line: StepMetrics) => line.global_step);
    this.validations = keptValidations(this.#path(golfPaths.validation), done);
    this.#trainingMs = this.metrics.reduce((sum, m) => sum + m.observed_wallclock_ms, 0);
  }

  #path(name: string): string {
    return join(this.#run.root, name);
  }

  get trainingMs(): number {
    return this.#trainingMs;
  }

  get log(): TrainLog {
    return this.#log;
  }

  /** Share of the measured peak over all steps; null where that was not measured. */
  get utilization(): number | null {
    const { measured_peak_tflops: peak } = this.#machine;
    if (peak === null || this.#trainingMs === 0) return null;
    const flops = this.#trainer.model.flopsPerToken(this.#run.settings.length) * this.#tokens;
    return flops / (peak * 1e12) / (this.#trainingMs / 1000);
  }

  get #tokens(): number {
    return this.metrics.length * this.#trainer.tokensPerStep;
  }

  async steps(): Promise<void> {
    const { settings } = this.#run;
    const trainer = this.#trainer;
    if (trainer.completedSteps === 0) {
      this.#warmUp();
      if (settings.validation_every > 0) this.validate("initial");
    }
    using loader = this.#loader(trainer.completedSteps);
    while (trainer.completedSteps < settings.max_steps && !trainer.timeIsUp) {
      // signals are heard between steps
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#options.stopping()) {
        this.#checkpoint();
        throw new PsionicError(
          "cancelled",
          `[train golf] ended by a signal after step ${trainer.completedSteps}; resume with --run-root ${this.#run.root}`,
        );
      }
      this.#step(loader);
    }
    const saved = lastCheckpoint(this.#run.root);
    if (saved === undefined || basename(saved) !== `step-${trainer.completedSteps}`) this.#checkpoint();
  }

  #loader(step: number): BatchLoader {
    const contract = golfContract(this.#run.settings);
    const { dataset } = this.#data;
    const cursor = streamCursor(dataset, contract, step * this.#run.settings.accumulation);
    return new BatchLoader(dataset, contract, loaderState(dataset, contract, cursor));
  }

  /** Steps whose traces are wiped out: they let the device record and load what it needs. */
  #warmUp(): void {
    const { warmup_steps: steps, accumulation, seed } = this.#run.settings;
    if (steps === 0) return;
    const trainer = this.#trainer;
    using loader = this.#loader(0);
    for (let i = 0; i < steps; i++) trainer.stepOn(microbatches(loader, accumulation));
    trainer.parameters.initialise(seed);
    fill(trainer.optimizer.first, 0);
    if (trainer.optimizer.second) fill(trainer.optimizer.second, 0);
    trainer.resumeAt(0);
  }

  #step(loader: BatchLoader): void {
    const { settings } = this.#run;
    const before = loader.waitedMs;
    const record = this.#trainer.stepOn(microbatches(loader, settings.accumulation));
    const metrics = stepMetrics(settings, record, loader.waitedMs - before);
    this.metrics.push(metrics);
    this.#trainingMs += record.durationMs;
    appendFileSync(this.#path(golfPaths.steps), `${JSON.stringify(metrics)}\n`);
    this.#options.watcher.step?.(record, this.#live());
    const { step } = record;
    const due = (every: number): boolean => every > 0 && step % every === 0;
    if (due(settings.log_every) || step <= 10)
      this.#log.step(step, settings.max_steps, record.loss, this.#trainingMs);
    const more = step < settings.max_steps && !this.#trainer.timeIsUp;
    if (more && due(settings.checkpoint_every)) this.#checkpoint();
    if (more && due(settings.validation_every)) this.validate("periodic");
  }

  #live(): Live {
    const { settings } = this.#run;
    const meanMs = this.#trainingMs / Math.max(this.metrics.length, 1);
    const bySteps = (settings.max_steps - this.#trainer.completedSteps) * meanMs;
    const byTime = 1000 * settings.time_budget_seconds - this.#trainingMs;
    return {
      lastStep: settings.max_steps,
      tokensPerSecond: (1000 * this.#tokens) / Math.max(this.#trainingMs, 1e-3),
      mfu: this.utilization,
      remainingMs: settings.time_budget_seconds > 0 ? Math.min(bySteps, Math.max(0, byTime)) : bySteps,
    };
  }

  #checkpoint(): void {
    const folder = this.#path(golfPaths.checkpoints);
    const begun = performance.now();
    const identity = identityOf(this.#run.settings, this.#data, this.#trainer.model);
    const saved = saveCheckpoint(this.#trainer, folder, identity);
    removeOldCheckpoints(folder, 2, [saved.step]);
    this.#options.watcher.note?.(
      `checkpoint of step ${saved.step} in ${Math.round(performance.now() - begun)} ms`,
    );
  }

  /** The score of the parameters as they are. */
  validate(stage: string): Score {
    const { settings } = this.#run;
    const begun = performance.now();
    const summary = score(
      (batch) => this.#trainer.lossOf(batch),
      this.#data.validation,
      this.#data.bytes,
      settings,
    );
    const took = performance.now() - begun;
    const step = this.#trainer.completedSteps;
    const line: ValidationCheckpoint = {
      ...{ stage_label: stage, trigger_step: step, observed_training_time_ms: this.#trainingMs },
      ...{ observed_validation_ms: took, summary },
    };
    this.validations.push(line);
    appendFileSync(this.#path(golfPaths.validation), `${JSON.stringify(line)}\n`);
    this.#log.validation(step, settings.max_steps, summary, this.#trainingMs);
    this.#options.watcher.scored?.(stage, summary, took);
    return summary;
  }

  /** Loss, learning rate and throughput, drawn. */
  drawCurves(): void {
    const steps = this.metrics.map((m) => ({
      ...{ step: m.global_step, loss: m.mean_microbatch_loss, gradientNorm: m.gradient_norm_after_clip },
      ...{ learningRate: m.learning_rate_multiplier, tokens: m.tokens, durationMs: m.observed_wallclock_ms },
    }));
    const heldOut = this.validations.map((v) => ({ step: v.trigger_step, loss: v.summary.mean_loss }));
    const svg = curvesSvg(this.#run.runId, steps, heldOut);
    if (svg !== undefined) writeWhole(this.#path(golfPaths.curves), [new TextEncoder().encode(svg)]);
  }
}

function microbatches(loader: BatchLoader, count: number): (() => HostBatch)[] {
  return Array.from({ length: count }, () => () => {
    const batch = loader.next();
    if (!batch) throw unexpected("internal", "train golf", "a stream that goes on", "its end");
    return batch;
  });
}

/** Validations up to a step; the final ones are made again. */
function keptValidations(path: string, step: number): ValidationCheckpoint[] {
  const kept: ValidationCheckpoint[] = [];
  for (const text of existsSync(path) ? readFileSync(path, "utf8").split("\n") : []) {
    try {
      const line = JSON.parse(text) as ValidationCheckpoint;
      if (line.trigger_step <= step && line.stage_label !== "final") kept.push(line);
    } catch {
      // the last line of a process that died may be a part of one
    }
  }
  const text = kept.map((line) => `${JSON.stringify(line)}\n`).join("");
  writeWhole(path, [new TextEncoder().encode(text)]);
  return kept;
}
