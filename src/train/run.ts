/** A run from its first step or from a checkpoint to its last: steps, trace, checkpoints, status. */
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { measureRoofline, measureTensorCores, openDevice } from "../backends/index.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import type { HostBatch } from "../data/batches.ts";
import type { LoaderState } from "../data/loader/contract.ts";
import { BatchLoader } from "../data/loader/loader.ts";
import { verifyDataset } from "../data/shards/dataset.ts";
import type { Device } from "../runtime/device.ts";
import { type Accepted, backUp, refuseBackup, writeDrill } from "./backup.ts";
import { type BackupStore, backupStore } from "./backup_store.ts";
import {
  loadCheckpoint,
  type RunIdentity,
  removeOldCheckpoints,
  type SavedCheckpoint,
  saveCheckpoint,
} from "./checkpoint.ts";
import { writeCloseout } from "./closeout.ts";
import { writeCurves } from "./curves.ts";
import { refreshDashboard, writeDashboard } from "./dashboard.ts";
import { writeJson, writeWhole } from "./durable.ts";
import { documentIf } from "./evidence.ts";
import type { RunParts } from "./lanes/lane.ts";
import { writeLaunchManifest, writeOperatorManifest, writeResumeManifest } from "./manifests.ts";
import { availableBytes, type MemoryPlan, memoryRefusal, planMemory, type TrainingBackend } from "./plan.ts";
import {
  type Admission,
  probeSpeed,
  writeHardwareQualification,
  writeRunShapeQualification,
} from "./preflight.ts";
import { chooseProducts, ProductShapes } from "./products.ts";
import { type StepReceipt, stepReceipt } from "./receipts.ts";
import { lookAtPointer, type Resolution, resolvePointer } from "./resume.ts";
import {
  acceptCheckpoint,
  labelOf,
  lockRun,
  log,
  ownPaths,
  type Phase,
  pendingLabel,
  type Run,
  retainedPaths,
  surfaces,
  write,
  writePendingPointer,
  writeStatus,
} from "./run_root.ts";
import { runIdentity, settingsDocument } from "./settings.ts";
import { telemetryOf } from "./telemetry.ts";
import { NotFiniteError, type StepRecord, type TracedStep, Trainer } from "./trainer.ts";

/** Checkpoints that stay: the last, and the one before it. */
const keptCheckpoints = 2;

/** What a run tells whoever watches it. */
export type Watcher = {
  plan?(plan: MemoryPlan): void;
  step?(record: StepRecord, live: Live): void;
  checkpoint?(saved: SavedCheckpoint, durationMs: number): void;
};

/** Measured while the run goes on; `mfu` is the share of this machine's measured peak, 0..1; null where none is measured (Metal). */
export type Live = {
  readonly lastStep: number;
  readonly tokensPerSecond: number;
  readonly mfu: number | null;
  readonly remainingMs: number;
};

export type RunOptions = {
  readonly threads: number;
  readonly dryRun: boolean;
  readonly watcher: Watcher;
  /** Asked between steps; a run that is to stop writes a checkpoint first. */
  readonly stopping: () => boolean;
};

export type RunOutcome = {
  readonly phase: Phase;
  readonly completedSteps: number;
  readonly hardware: Admission["state"];
  readonly runShape: Admission["state"];
  readonly initialLoss: number | null;
  readonly finalLoss: number | null;
  readonly initialValidationLoss: number | null;
  readonly finalValidationLoss: number | null;
  /** Null, as `mfu` is, where no step was run: of a plan, and of a run that was complete already. */
  readonly tokensPerSecond: number | null;
  readonly mfu: number | null;
  readonly checkpointDigest: string | null;
  readonly checkpointLabel: string;
};

/** Begins a run in a root that holds none, or one that was refused before its first step. */
export async function startRun(run: Run, options: RunOptions): Promise<RunOutcome> {
  // a start that died before it wrote its settings was no run yet; what it left is written again
  const leftovers = [ownPaths.lock, "checkpoints", "manifests"];
  const settled = existsSync(join(run.root, ownPaths.settings));
  const foreign = existsSync(run.root) && readdirSync(run.root).some((name) => !leftovers.includes(name));
  if ((settled || foreign) && !launchRefused(run.root)) {
    throw unexpected("invalid_request", "train start", "an empty folder as run root", run.root, {
      fix: "Use train resume --run-root to go on with a run, or another --output-root",
    });
  }
  // what cannot be trained at all is told before anything is written
  const parts = run.lane.parts(run.settings);
  mkdirSync(run.root, { recursive: true });
  using _lock = lockRun(run.root);
  const begin = (): void => {
    writePendingPointer(run);
    write(run, ownPaths.settings, settingsDocument(run));
  };
  return await prepared(run, parts, options, { step: 0 }, begin);
}

/** The latest that a start wrote here is that it was refused: no step was run. */
function launchRefused(root: string): boolean {
  const refused: Phase = "launch_refused_preflight";
  return documentIf(root, retainedPaths.current_status_path)?.phase === refused;
}

/** Goes on with a run from the checkpoint that its pointer names. */
export async function resumeRun(run: Run, options: RunOptions): Promise<RunOutcome> {
  using _lock = lockRun(run.root);
  const found: Resolution = await resolvePointer(run);
  if (found.state === "refused") {
    writeStatus(run, "resume_refused_auto_resume", { label: pendingLabel, step: 0 }, found.reason);
    log(run, "resume_refused_auto_resume", surfaces(run.lane).resume_surface_id);
    throw new PsionicError("digest_mismatch", `[train resume] ${found.reason}`, { run_root: run.root });
  }
  const from = found.state === "begin" ? { step: 0 } : found;
  return await prepared(run, run.lane.parts(run.settings), options, from);
}

/**
 * Copies the accepted checkpoint to a folder, by default one of the run root, or to a bucket. `injectFailure`: writes what a refused copy
 * leaves behind and copies nothing, to try out what follows from it.
 */
export async function backUpRun(run: Run, to: string | undefined, injectFailure = false): Promise<Accepted> {
  using _lock = lockRun(run.root);
  const looked = lookAtPointer(run);
  if (looked.state !== "accepted")
    throw new PsionicError("digest_mismatch", `[train backup] ${looked.reason}`);
  if (!looked.accepted) {
    throw unexpected("invalid_request", "train backup", "a run with a checkpoint", "one without");
  }
  const store = backupStore(to ?? join(run.root, "checkpoints", "backups"));
  const at = { label: looked.accepted.label, step: looked.accepted.step };
  if (injectFailure) {
    refuseBackup(run, looked.accepted, store, "The failure was asked for.");
    writeStatus(run, "checkpoint_backup_refused", at, "The accepted checkpoint has no backup.");
    refreshDashboard(run, "checkpoint_backup_refused");
    writeCloseout(run, "checkpoint_backup_refused");
    return looked.accepted;
  }
  try {
    await backUp(run, looked.accepted, store);
  } catch (error) {
    recordFailedBackup(run, looked.accepted, store, error);
    throw error;
  }
  writeStatus(run, "checkpoint_backed_up", at, "The accepted checkpoint has a second copy.");
  refreshDashboard(run, "checkpoint_backed_up");
  writeCloseout(run, "checkpoint_backed_up");
  return looked.accepted;
}

/** The receipt of an earlier checkpoint's good copy stays, since that copy can still be gone back to. */
function recordFailedBackup(run: Run, accepted: Accepted, store: BackupStore, error: unknown): void {
  const reason = error instanceof Error ? error.message : String(error);
  const { label, step } = accepted;
  try {
    const earlier = documentIf(run.root, retainedPaths.latest_checkpoint_backup_receipt_path);
    if (earlier?.backup_state === "backed_up") writeDrill(run, "failed_upload", step, reason);
    else refuseBackup(run, accepted, store, reason);
    writeStatus(run, "checkpoint_backup_refused", { label, step }, reason);
    refreshDashboard(run, "checkpoint_backup_refused");
  } catch {
    // a full disk may refuse these as well; the error of the copy is the one to be told
  }
}

type From = {
  readonly step: number;
  readonly label?: string;
  readonly ref?: string;
  readonly folder?: string;
  readonly digest?: string;
};

/** `begin` writes what makes the root a run, once the data is verified and the device open. */
async function prepared(
  run: Run,
  parts: RunParts,
  options: RunOptions,
  from: From,
  begin?: () => void,
): Promise<RunOutcome> {
  if (parts.feed) {
    const { folder: _folder, ...manifest } = parts.feed.dataset;
    await verifyDataset(parts.feed.dataset);
    write(run, ownPaths.dataset, manifest);
  }
  const { backend = "cpu" } = run;
  const { threads } = options;
  const shapes = new ProductShapes();
  const plan = planMemory(parts, backend, shapes.hear);
  options.watcher.plan?.(plan);
  const device = backend === "cpu" ? openDevice("cpu", { threads }) : openDevice(backend);
  try {
    begin?.();
    const resumed = from.folder !== undefined;
    const hardware = writeHardwareQualification(run, plan, device.backend, resumed || null);
    const free = device.backend.memory?.().free ?? availableBytes();
    using products = plan.totalBytes <= free ? chooseProducts(run, device, shapes.all, from.step) : undefined;
    using ready = plan.totalBytes <= free ? readied(run, parts, device, from) : undefined;
    const runShape = writeRunShapeQualification(run, plan, parts, ready && probeSpeed(ready.trainer, parts));
    const manifest = resumed ? writeResumeManifest : writeLaunchManifest;
    manifest(run, hardware, runShape, from);
    writeOperatorManifest(run);
    const surface = resumed ? surfaces(run.lane).resume_surface_id : surfaces(run.lane).start_surface_id;
    const at = { label: from.label ?? pendingLabel, step: from.step };
    const refusal = options.dryRun ? undefined : refusalOf(plan, free, [hardware, runShape]);
    const phase = preflightPhase(resumed, options.dryRun, refusal !== undefined);
    writeStatus(run, phase, at, refusal?.message ?? "Preflight has been written.");
    refreshDashboard(run, phase);
    const states = { hardware_admission_state: hardware.state, run_shape_admission_state: runShape.state };
    log(run, phase, surface, { ...states, products: products?.summary ?? "none" });
    if (options.dryRun) return planned(phase, at, hardware, runShape);
    if (refusal) throw refusal;
    return await trained(run, options, parts, ready!, from, {
      hardware: hardware.state,
      runShape: runShape.state,
    });
  } finally {
    device.close();
  }
}

/** Why a run may not begin; undefined where it may. */
function refusalOf(
  plan: MemoryPlan,
  free: number,
  admissions: readonly Admission[],
): PsionicError | undefined {
  const memory = memoryRefusal(plan, free);
  if (memory) return memory;
  const reasons = admissions.flatMap(({ state, reasons }) => (state === "refused" ? reasons : []));
  if (!admissions.some(({ state }) => state === "refused")) return undefined;
  return unexpected("admission_refused", "train", "a machine that the run fits on", reasons.join("; "));
}

function preflightPhase(resumed: boolean, dryRun: boolean, refused: boolean): Phase {
  if (dryRun) return resumed ? "resume_dry_run_planned" : "dry_run_planned";
  if (refused) return resumed ? "resume_refused_preflight" : "launch_refused_preflight";
  return resumed ? "resume_staged" : "launch_staged";
}

function planned(
  phase: Phase,
  at: { label: string; step: number },
  hardware: Admission,
  runShape: Admission,
): RunOutcome {
  const none = { initialLoss: null, finalLoss: null, initialValidationLoss: null, finalValidationLoss: null };
  const measured = { tokensPerSecond: null, mfu: null, checkpointDigest: null, checkpointLabel: at.label };
  return {
    phase,
    completedSteps: at.step,
    hardware: hardware.state,
    runShape: runShape.state,
    ...none,
    ...measured,
  };
}

/** A trainer in the state that its first step needs. */
type Ready = Disposable & {
  readonly trainer: Trainer;
  readonly identity: RunIdentity;
  /** Where the loader stood when the checkpoint was written. */
  readonly loader: LoaderState | undefined;
};

function readied(run: Run, parts: RunParts, device: Device, { folder, digest }: From): Ready {
  const identity = runIdentity(run.lane, run.settings, parts);
  const trainer = new Trainer(device, parts.model, parts.train, parts.config, folder ? "none" : "seed");
  try {
    const loader = folder ? loadCheckpoint(trainer, folder, identity, digest).loader : undefined;
    if (folder && parts.feed && loader === undefined)
      throw unexpected("file_malformed", folder, "a checkpoint with the loader's place", "one without");
    return { trainer, identity, loader, [Symbol.dispose]: () => trainer[Symbol.dispose]() };
  } catch (error) {
    trainer[Symbol.dispose]();
    throw error;
  }
}

async function trained(
  run: Run,
  options: RunOptions,
  parts: RunParts,
  { trainer, identity, loader }: Ready,
  from: From,
  admitted: Pick<RunOutcome, "hardware" | "runShape">,
): Promise<RunOutcome> {
  const peak = peakFlops(run.backend ?? "cpu", run.settings.precision);
  const { feed } = parts;
  using batches = feed && new BatchLoader(feed.dataset, feed.contract, loader);
  const course = new Course(run, options, trainer, identity, peak, from, batches);
  course.begin(parts);
  try {
    await course.steps();
  } catch (error) {
    const phase = error instanceof NotFiniteError ? "training_stopped_not_finite" : "training_failed";
    course.fail(phase, error instanceof Error ? error.message : String(error));
    log(run, phase, surfaces(run.lane).start_surface_id);
    throw error;
  }
  return course.end(parts, admitted);
}

/** What the open device does in a second, in the type that matrices are multiplied in; null where that is not measured. */
function peakFlops(backend: TrainingBackend, precision: "f32" | "bf16"): number | null {
  if (backend === "cuda" && precision === "bf16") return measureTensorCores() * 1e12;
  const { f32GflopPerSecond } = measureRoofline(backend, 16 * 2 ** 20);
  return f32GflopPerSecond > 0 ? f32GflopPerSecond * 1e9 : null;
}

/** One stretch of a run in this process. */
class Course {
  readonly #run: Run;
  readonly #options: RunOptions;
  readonly #trainer: Trainer;
  readonly #identity: RunIdentity;
  readonly #peakFlops: number | null;
  readonly #loader: BatchLoader | undefined;
  #trace: TracedStep[] = [];
  #tokens = 0;
  #busyMs = 0;
  #saved: SavedCheckpoint | undefined;
  #checkpointMs: number | undefined;
  #initialValidation: number | null = null;
  #interrupted = false;
  /** The step of the accepted checkpoint; 0 where there is none. */
  #checkpointStep: number;
  #checkpointDigest: string | null;

  /** `from`: the checkpoint that the run goes on from. */
  constructor(
    run: Run,
    options: RunOptions,
    trainer: Trainer,
    identity: RunIdentity,
    peakFlops: number | null,
    from: From,
    loader: BatchLoader | undefined,
  ) {
    this.#run = run;
    this.#options = options;
    this.#trainer = trainer;
    this.#identity = identity;
    this.#peakFlops = peakFlops;
    this.#loader = loader;
    this.checkpointLabel = from.label ?? pendingLabel;
    this.#checkpointDigest = from.digest ?? null;
    this.#checkpointStep = trainer.completedSteps;
  }

  checkpointLabel: string;

  begin(parts: RunParts): void {
    const done = this.#trainer.completedSteps;
    this.#trace = keepSteps(this.#path(ownPaths.steps), done, (line: TracedStep) => line.step);
    keepSteps(this.#path(ownPaths.receipts), done, (line: StepReceipt) => line.schedule.global_step);
    if (this.#trainer.completedSteps === 0) this.#initialValidation = this.#heldOut(parts);
    this.#status("training", "Steps are being run.");
  }

  async steps(): Promise<void> {
    const { max_steps: last, steps_per_window: window } = this.#run.settings;
    while (this.#trainer.completedSteps < last && !this.#trainer.timeIsUp) {
      // signals are heard between steps
      await new Promise((resolve) => setImmediate(resolve));
      if (this.#options.stopping()) {
        this.#interrupted = true;
        break;
      }
      const record = this.#step();
      this.#tokens += record.tokens;
      this.#busyMs += record.durationMs;
      this.#options.watcher.step?.(record, this.#live());
      const more = record.step < last && !this.#trainer.timeIsUp;
      if (record.step % window === 0 && more) this.#checkpoint();
    }
    const done = this.#trainer.completedSteps;
    if (done > this.#checkpointStep) this.#checkpoint();
  }

  #step(): StepRecord {
    const loader = this.#loader;
    const before = loader && { waitedMs: loader.waitedMs, stalls: loader.stalls };
    const { accumulation } = this.#trainer.config;
    const record = loader
      ? this.#trainer.stepOn(Array.from({ length: accumulation }, () => () => nextOf(loader)))
      : this.#trainer.step();
    const waited = loader && {
      waitedMs: loader.waitedMs - before!.waitedMs,
      stalls: loader.stalls - before!.stalls,
    };
    this.#record(record, { memoryBytes: usedBytes(this.#trainer.device), ...waited });
    return record;
  }

  #heldOut(parts: RunParts): number {
    const measured = { step: this.#trainer.completedSteps, loss: this.#trainer.evaluate(parts.validation) };
    appendFileSync(this.#path(ownPaths.heldOut), `${JSON.stringify(measured)}\n`);
    return measured.loss;
  }

  #path(name: string): string {
    return join(this.#run.root, name);
  }

  #record(record: StepRecord, more: Partial<TracedStep>): void {
    const { groups: _groups, ...figures } = record;
    const traced: TracedStep = { ...figures, ...more };
    this.#trace.push(traced);
    appendFileSync(this.#path(ownPaths.steps), `${JSON.stringify(traced)}\n`);
    const receipt = stepReceipt(this.#run, record, Date.now());
    appendFileSync(this.#path(ownPaths.receipts), `${JSON.stringify(receipt)}\n`);
  }

  #checkpoint(): void {
    const begun = performance.now();
    const folder = join(this.#run.root, "checkpoints");
    this.#saved = saveCheckpoint(this.#trainer, folder, this.#identity, undefined, this.#loader?.state);
    acceptCheckpoint(this.#run, this.#saved);
    removeOldCheckpoints(folder, keptCheckpoints, [this.#saved.step]);
    this.#checkpointMs = performance.now() - begun;
    this.#checkpointDigest = this.#saved.digest;
    this.checkpointLabel = labelOf(this.#run, this.#saved.step);
    this.#checkpointStep = this.#saved.step;
    const measured = { step: this.#saved.step, bytes: this.#saved.bytes, durationMs: this.#checkpointMs };
    appendFileSync(this.#path(ownPaths.checkpoints), `${JSON.stringify(measured)}\n`);
    this.#status("training", "A checkpoint was accepted.");
    this.#options.watcher.checkpoint?.(this.#saved, this.#checkpointMs);
  }

  #live(): Live {
    const seconds = this.#busyMs / 1000;
    const tokensPerSecond = seconds > 0 ? this.#tokens / seconds : 0;
    const flops = this.#trainer.model.flopsPerToken(this.#run.settings.length);
    const lastStep = this.#run.settings.max_steps;
    const left = (lastStep - this.#trainer.completedSteps) * this.#trainer.tokensPerStep;
    return {
      lastStep,
      tokensPerSecond,
      mfu: this.#peakFlops === null ? null : (flops * tokensPerSecond) / this.#peakFlops,
      remainingMs: tokensPerSecond > 0 ? (left / tokensPerSecond) * 1000 : 0,
    };
  }

  #status(phase: Phase, detail: string): void {
    writeStatus(
      this.#run,
      phase,
      { label: this.checkpointLabel, step: this.#trainer.completedSteps },
      detail,
    );
    writeDashboard(this.#run, phase, {
      trace: this.#trace,
      ...(this.#busyMs > 0 && { tokensPerSecond: this.#live().tokensPerSecond }),
      checkpoint: { label: this.checkpointLabel, step: this.#checkpointStep },
      checkpointBytesPerSecond:
        this.#saved && this.#checkpointMs ? (1000 * this.#saved.bytes) / this.#checkpointMs : undefined,
      telemetry: telemetryOf(this.#run.backend ?? "cpu"),
    });
    writeCurves(this.#run);
  }

  /** Says why the run ended, where the disk still takes it. */
  fail(phase: Phase, reason: string): void {
    try {
      this.#status(phase, reason);
    } catch {
      // the error that ended the run is the one to be told
    }
  }

  end(parts: RunParts, admitted: Pick<RunOutcome, "hardware" | "runShape">): RunOutcome {
    const phase: Phase = this.#interrupted ? "training_interrupted" : "training_complete";
    const finalValidation = this.#interrupted ? null : this.#heldOut(parts);
    this.#status(
      phase,
      this.#interrupted
        ? "Stopped by a signal; resume goes on."
        : this.#trainer.timeIsUp
          ? "The time that steps may take is spent."
          : "All steps were run.",
    );
    writeCloseout(this.#run, phase);
    const live = this.#live();
    const [tokensPerSecond, mfu] = this.#busyMs > 0 ? [live.tokensPerSecond, live.mfu] : [null, null];
    const outcome: RunOutcome = {
      phase,
      completedSteps: this.#trainer.completedSteps,
      ...admitted,
      initialLoss: this.#trace[0]?.loss ?? null,
      finalLoss: this.#trace.at(-1)?.loss ?? null,
      initialValidationLoss: this.#initialValidation,
      finalValidationLoss: finalValidation,
      tokensPerSecond,
      mfu,
      checkpointDigest: this.#checkpointDigest,
      checkpointLabel: this.checkpointLabel,
    };
    writeJson(join(this.#run.root, ownPaths.summary), {
      schema_version: "psionic.psion_reference_pilot_operator_summary.v1",
      ...{
        run_id: this.#run.runId,
        lane_id: this.#run.lane.id,
        phase,
        completed_steps: outcome.completedSteps,
      },
      loss_initial_milli: milli(outcome.initialLoss),
      loss_final_milli: milli(outcome.finalLoss),
      held_out_loss_initial_milli: milli(outcome.initialValidationLoss),
      held_out_loss_final_milli: milli(outcome.finalValidationLoss),
      mean_tokens_per_second: tokensPerSecond === null ? null : Math.round(tokensPerSecond),
      peak_share_bps: mfu === null ? null : Math.round(mfu * 10000),
      checkpoint_object_digest: outcome.checkpointDigest,
      claim_boundary: this.#run.lane.claimBoundary,
    });
    log(this.#run, phase, surfaces(this.#run.lane).start_surface_id, {
      last_completed_step: outcome.completedSteps,
      checkpoint_label: this.checkpointLabel,
    });
    return outcome;
  }
}

/** A data set that is repeated has no end; rows of a stream see all that stands before them. */
function nextOf(loader: BatchLoader): HostBatch {
  const batch = loader.next();
  if (!batch) throw unexpected("internal", "train", "a batch of a data set that is repeated", "its end");
  const { first: _everything, ...rows } = batch;
  return rows;
}

/** Bytes of the device's memory that are taken, by whomever; on the CPU this process's. */
function usedBytes({ backend }: Device): number {
  const memory = backend.memory?.();
  return memory ? memory.total - memory.free : process.memoryUsage.rss();
}

const milli = (loss: number | null): number | null => (loss === null ? null : Math.round(loss * 1000));

/** The lines of steps 1 to `step`; later ones, which are run again, leave the file. */
export function keepSteps<T>(path: string, step: number, stepOf: (line: T) => number): T[] {
  return keepLines<T>(path, (line, kept) => stepOf(line) === kept + 1 && stepOf(line) <= step);
}

/** The lines that are to be kept, by what stands in them and how many were kept before; the others leave the file. */
export function keepLines<T>(path: string, isKept: (line: T, kept: number) => boolean): T[] {
  mkdirSync(dirname(path), { recursive: true });
  const kept: T[] = [];
  for (const text of existsSync(path) ? readFileSync(path, "utf8").split("\n") : []) {
    try {
      const line = JSON.parse(text) as T;
      if (isKept(line, kept.length)) kept.push(line);
    } catch {
      // the last line of a process that died may be a part of one
    }
  }
  const text = kept.map((line) => `${JSON.stringify(line)}\n`).join("");
  writeWhole(path, [new TextEncoder().encode(text)]);
  return kept;
}
