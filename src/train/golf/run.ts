/** A Parameter Golf run from its first step, or from its last checkpoint, to its report. */
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { measureRoofline, measureTensorCores, openDevice } from "../../backends/index.ts";
import { unexpected } from "../../core/error.ts";
import { lockFolder } from "../../core/folder_lock.ts";
import type { Device } from "../../runtime/device.ts";
import { loadCheckpoint } from "../checkpoint.ts";
import { writeJson } from "../durable.ts";
import { checkMemory, type MemoryPlan, planMemory } from "../plan.ts";
import { chooseProducts, ProductShapes } from "../products.ts";
import { Trainer } from "../trainer.ts";
import { finish } from "./closing.ts";
import { Course, identityOf } from "./course.ts";
import { type GolfData, openGolfData } from "./data.ts";
import { golfModel, golfTrainerConfig, placeholderWindows } from "./recipe.ts";
import { type GolfReport, type MachineObservation, refusedReport, reportHead } from "./report.ts";
import { type GolfOptions, type GolfRun, golfPaths, lastCheckpoint, writeSettings } from "./run_root.ts";

/** Begins a run in a root that holds none. */
export async function startGolf(run: GolfRun, options: GolfOptions): Promise<GolfReport> {
  // a start that died before its settings were whole was no run yet
  const unfinished = (name: string): boolean =>
    name.startsWith(`${golfPaths.settings}.`) && name.endsWith(".part");
  const isForeign = (name: string): boolean => name !== golfPaths.lock && !unfinished(name);
  if (existsSync(run.root) && readdirSync(run.root).some(isForeign))
    throw unexpected("invalid_request", "train golf", "an empty folder as run root", run.root, {
      fix: "psionic train golf resume --run-root goes on with a run",
    });
  mkdirSync(run.root, { recursive: true });
  using _lock = lockFolder(join(run.root, golfPaths.lock), run.root);
  for (const name of readdirSync(run.root).filter(unfinished)) rmSync(join(run.root, name));
  const data = await openGolfData(run.settings, options.watcher.shards);
  writeSettings(run);
  try {
    return await trained(run, data, options);
  } catch (error) {
    // a device that does not open or has too little memory: the same root may be asked for again
    const own: readonly string[] = [golfPaths.settings, golfPaths.lock];
    if (readdirSync(run.root).every((name) => own.includes(name)))
      rmSync(join(run.root, golfPaths.settings), { force: true });
    throw error;
  }
}

/** Goes on with a run from its last checkpoint, or from the beginning where there is none; settings may have changed. */
export async function resumeGolf(run: GolfRun, options: GolfOptions): Promise<GolfReport> {
  using _lock = lockFolder(join(run.root, golfPaths.lock), run.root);
  const data = await openGolfData(run.settings, options.watcher.shards);
  return await trained(run, data, options);
}

async function trained(run: GolfRun, data: GolfData, options: GolfOptions): Promise<GolfReport> {
  const { settings, backend } = run;
  const model = golfModel(settings, data.vocabularySize);
  const config = golfTrainerConfig(settings);
  const windows = placeholderWindows(settings.length);
  const shapes = new ProductShapes();
  const plan = planMemory({ model, train: windows, config }, backend, shapes.hear);
  options.watcher.plan?.(plan);
  const device = backend === "cpu" ? openDevice("cpu", { threads: options.threads }) : openDevice(backend);
  try {
    const machine = observed(run, data, device, plan);
    checkMemory(plan, device.backend.memory?.().free);
    const checkpoint = lastCheckpoint(run.root);
    using products = chooseProducts(run, device, shapes.all, stepOf(checkpoint));
    if (products.summary !== "none") options.watcher.note?.(`matrix products: ${products.summary}`);
    using trainer = new Trainer(device, model, windows, config, checkpoint ? "none" : "seed");
    if (checkpoint) loadCheckpoint(trainer, checkpoint, identityOf(settings, data, model));
    // what the checkpoint does not fit leaves the run root as it was
    writeSettings(run);
    const course = new Course(run, data, options, trainer, machine);
    await course.steps();
    return finish(run, data, trainer, machine, course, options.watcher);
  } finally {
    device.close();
  }
}

/** The step of a checkpoint's folder; 0 where there is none. */
const stepOf = (folder: string | undefined): number => Number(folder?.match(/step-(\d+)$/)?.[1] ?? 0);

/** What is measured of the machine; a profile that it does not fit is refused, with a report that says so. */
function observed(run: GolfRun, data: GolfData, device: Device, plan: MemoryPlan): MachineObservation {
  const { backend, settings } = run;
  const info = device.backend.info();
  const name = backend === "cpu" ? `cpu ${info.isa ?? ""} ${info.threads ?? ""} threads` : `${info.device}`;
  const { machine_profile: profile } = settings;
  const facts = {
    ...{ backend, device: name, profile, total_memory_bytes: device.backend.memory?.().total ?? null },
    planned_memory_bytes: plan.totalBytes,
  };
  if (profile === "single_h100" && (backend !== "cuda" || !name.includes("H100") || name.includes("MIG"))) {
    const refusal = unexpected(
      "admission_refused",
      "train golf",
      "one whole H100 for the profile single_h100",
      name,
      {
        fix: "Leave --machine-profile out to train on what there is",
      },
    );
    const head = reportHead(run, data, plan.parameters, { ...facts, measured_peak_tflops: null });
    writeJson(join(run.root, golfPaths.report), refusedReport(head, refusal.message));
    throw refusal;
  }
  const flops =
    backend === "cuda" && settings.precision === "bf16"
      ? measureTensorCores()
      : measureRoofline(backend, 16 * 2 ** 20).f32GflopPerSecond / 1000;
  return { ...facts, measured_peak_tflops: flops > 0 ? flops : null };
}
