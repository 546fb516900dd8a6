/** The steps of a run in one process, with their log, checkpoints and validations. */
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { PsionicError, unexpected } from "../../core/error.ts";
import type { HostBatch } from "../../data/batches.ts";
import { loaderState, streamCursor } from "../../data/loader/contract.ts";
import { BatchLoader } from "../../data/loader/loader.ts";
import { fill } from "../../runtime/training.ts";
import { type RunIdentity, removeOldCheckpoints, saveCheckpoint } from "../checkpoint.ts";
import { curvesOf, writeDrawing } from "../curves.ts";
import { writeWhole } from "../durable.ts";
import type { TrainedModel } from "../model.ts";
import { keepSteps, type Live } from "../run.ts";
import type { Trainer } from "../trainer.ts";
import { type GolfData, golfContract } from "./data.ts";
import {
  type MachineObservation,
  type StepMetrics,
  stepMetrics,
  type ValidationCheckpoint,
} from "./report.ts";
import { type GolfOptions, type GolfRun, golfPaths, lastCheckpoint } from "./run_root.ts";
import { type Score, score } from "./score.ts";
import { type GolfSettings, settingsDigest } from "./settings.ts";
import { TrainLog } from "./train_log.ts";

export const identityOf = (settings: GolfSettings, data: GolfData, model: TrainedModel): RunIdentity => ({
  model_id: model.id,
  dataset_identity: data.identity,
  dataset_digest: data.dataset.manifest_digest,
  settings_digest: settingsDigest(settings),
});

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
    const drawing = curvesOf(this.#run.runId, steps, heldOut);
    writeDrawing(drawing, this.#run.root, golfPaths.curves, golfPaths.picture);
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
