/**
 * Checkpoints of a trainer. A checkpoint is a folder `step-<n>` with
 *   model.safetensors          the f32 parameters by name
 *   optimizer.safetensors      first.<name>, second.<name>, average.<name>, as the optimisers have them
 *   trainer_state.json         step, what the run was set to, and SHA-256 and size of the other two
 * It is written under another name in the same folder, synced and renamed, so a folder called `step-<n>` is whole. The
 * digest of a checkpoint is that of the bytes of trainer_state.json, which holds those of the tensors.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import type { LoaderState } from "../data/loader/contract.ts";
import { fileError } from "../models/files/bytes.ts";
import { isObject, type Json, parseJson } from "../models/files/strict_json.ts";
import { checkRoom, freeBytes, syncFolder, writeJson } from "./durable.ts";
import { part } from "./parameters.ts";
import { checkFile, type FileRecord, type NamedTensor, readTensors, writeTensors } from "./tensor_file.ts";
import type { Trainer } from "./trainer.ts";

export const stateSchema = "psionic.train.trainer_state.v1";
const stateFile = "trainer_state.json";

/** What must be the same for a run to go on bit for bit. */
export type RunIdentity = {
  readonly model_id: string;
  readonly dataset_identity: string;
  readonly dataset_digest: string;
  /** SHA-256 of the settings that a step depends on. */
  readonly settings_digest: string;
};

export type TrainerState = RunIdentity & {
  readonly schema_version: typeof stateSchema;
  readonly completed_steps: number;
  /** What the steps took, where learning rates depend on it. */
  readonly elapsed_ms?: number;
  /** Where the loader stands, of runs that read a data set as they go on. */
  readonly loader?: LoaderState;
  readonly files: readonly FileRecord[];
};

/** A checkpoint as manifests name it. */
export type SavedCheckpoint = {
  readonly step: number;
  /** SHA-256 of trainer_state.json, 64 hex digits. */
  readonly digest: string;
  /** Of all files. */
  readonly bytes: number;
  readonly folder: string;
};

export const stepFolder = (step: number): string => `step-${step}`;

function modelTensors(trainer: Trainer): NamedTensor[] {
  const { places, values } = trainer.parameters;
  return places.map((place) => ({ name: place.spec.name, tensor: part(values, place, place.spec.shape) }));
}

function optimizerTensors(trainer: Trainer): NamedTensor[] {
  const { first, second } = trainer.optimizer;
  const flats = { first, second, average: trainer.average?.values };
  return Object.entries(flats).flatMap(([kind, flat]) =>
    flat
      ? trainer.parameters.places.map((place) => ({
          name: `${kind}.${place.spec.name}`,
          tensor: part(flat, place, place.spec.shape),
        }))
      : [],
  );
}

/**
 * Writes the trainer's state below `folder`, or finds it there already. `free`: bytes of room, from the file system by
 * default; `loader`: where reading goes on. Where it fails, nothing of it stays.
 */
export function saveCheckpoint(
  trainer: Trainer,
  folder: string,
  identity: RunIdentity,
  free: (path: string) => number = freeBytes,
  loader?: LoaderState,
): SavedCheckpoint {
  mkdirSync(folder, { recursive: true });
  removeLeftovers(folder);
  const tensors =
    trainer.parameters.elements * 4 * (2 + (trainer.optimizer.second ? 1 : 0) + (trainer.average ? 1 : 0));
  checkRoom(folder, tensors + 2 ** 20, free(folder));
  const step = trainer.completedSteps;
  const aside = join(folder, `.${stepFolder(step)}.${process.pid}.part`);
  const target = join(folder, stepFolder(step));
  try {
    mkdirSync(aside);
    const write = (name: string, list: readonly NamedTensor[]): FileRecord =>
      writeTensors(trainer.device, join(aside, name), name, list);
    const files = [
      write("model.safetensors", modelTensors(trainer)),
      write("optimizer.safetensors", optimizerTensors(trainer)),
    ];
    const elapsed = trainer.elapsedMs === undefined ? {} : { elapsed_ms: trainer.elapsedMs };
    const state: TrainerState = {
      schema_version: stateSchema,
      ...identity,
      completed_steps: step,
      ...elapsed,
      ...(loader && { loader }),
      files,
    };
    const text = writeJson(join(aside, stateFile), state);
    syncFolder(aside);
    // what stands there from before a crash is of the same step, so of the same bits, or of another run
    if (existsSync(target)) rmSync(target, { recursive: true });
    renameSync(aside, target);
    syncFolder(folder);
    const bytes = files.reduce((sum, f) => sum + f.bytes, Buffer.byteLength(text));
    return { step, digest: sha256(text), bytes, folder: target };
  } catch (cause) {
    rmSync(aside, { recursive: true, force: true });
    throw asCheckpointError(folder, cause);
  }
}

function asCheckpointError(folder: string, cause: unknown): PsionicError {
  const text = cause instanceof Error ? cause.message : String(cause);
  if (/ENOSPC|EDQUOT|EFBIG/.test(text)) {
    const fix = "Free space or choose another run root; the last checkpoint is intact";
    return unexpected("disk_full", folder, "room for a checkpoint", text, { fix, cause });
  }
  return cause instanceof PsionicError
    ? cause
    : unexpected("io_failed", folder, "a checkpoint that can be written", text, { cause });
}

/** Removes what writers that died have left. */
export function removeLeftovers(folder: string): void {
  for (const name of readdirSync(folder)) {
    if (/^\.step-\d+\.\d+\.part$/.test(name)) rmSync(join(folder, name), { recursive: true, force: true });
  }
}

/** Keeps the newest `count` checkpoints; `protected` are kept as well. */
export function removeOldCheckpoints(folder: string, count: number, protectedSteps: readonly number[]): void {
  const steps = readdirSync(folder)
    .flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => b - a);
  for (const step of steps.slice(count)) {
    if (!protectedSteps.includes(step))
      rmSync(join(folder, stepFolder(step)), { recursive: true, force: true });
  }
}

/** Reads trainer_state.json and checks its shape; `digest`, where given, is the one that its bytes must have. */
export function readState(folder: string, digest?: string): TrainerState {
  const path = join(folder, stateFile);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw fileError(path, cause);
  }
  const found = sha256(text);
  if (digest !== undefined && found !== digest) {
    throw unexpected("digest_mismatch", path, `SHA-256 ${digest}`, found);
  }
  const value = parseJson(text, path);
  if (!isState(value)) throw unexpected("file_malformed", path, `a ${stateSchema}`, text.slice(0, 80));
  return value;
}

/** Whether a checkpoint's state can be read and its files have the sizes that it lists; they are not hashed. */
export function filesAreThere(folder: string): boolean {
  try {
    return readState(folder).files.every(({ path, bytes }) => statSync(join(folder, path)).size === bytes);
  } catch {
    return false;
  }
}

/** Reads a checkpoint's state and hashes all its files; throws where one is not the recorded one. */
export function verifyCheckpoint(folder: string, digest: string): TrainerState {
  const state = readState(folder, digest);
  for (const file of state.files) checkFile(join(folder, file.path), file);
  return state;
}

/** Puts a checkpoint into a trainer of the same settings; its files are checked by digest before anything is changed. */
export function loadCheckpoint(
  trainer: Trainer,
  folder: string,
  identity: RunIdentity,
  digest?: string,
): TrainerState {
  const state = readState(folder, digest);
  for (const key of ["model_id", "dataset_identity", "dataset_digest", "settings_digest"] as const) {
    if (state[key] !== identity[key]) {
      const code = key.startsWith("dataset_") ? "digest_mismatch" : "invalid_request";
      throw unexpected(code, folder, `${key} ${identity[key]}`, state[key], {
        fix: "A run goes on with the settings and data it began with",
      });
    }
  }
  for (const file of state.files) checkFile(join(folder, file.path), file);
  readTensors(trainer.device, join(folder, "model.safetensors"), modelTensors(trainer));
  readTensors(trainer.device, join(folder, "optimizer.safetensors"), optimizerTensors(trainer));
  trainer.resumeAt(state.completed_steps, state.elapsed_ms);
  return state;
}

function isState(value: Json): value is Json & TrainerState {
  if (!isObject(value)) return false;
  const { schema_version, completed_steps, elapsed_ms: elapsed, loader, files } = value;
  const strings = ["model_id", "dataset_identity", "dataset_digest", "settings_digest"] as const;
  const names = ["model.safetensors", "optimizer.safetensors"];
  return (
    schema_version === stateSchema &&
    Number.isSafeInteger(completed_steps) &&
    Number(completed_steps) >= 0 &&
    (elapsed === undefined || (typeof elapsed === "number" && elapsed >= 0)) &&
    (loader === undefined || isObject(loader)) &&
    strings.every((key) => typeof value[key] === "string") &&
    Array.isArray(files) &&
    files.length === names.length &&
    files.every(
      (f, i) =>
        isObject(f) && f.path === names[i] && typeof f.sha256 === "string" && typeof f.bytes === "number",
    )
  );
}
