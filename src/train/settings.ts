/** The settings of a run: checked where they come from a command line or a file, and their digest. */
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import { canonicalJson } from "../core/json.ts";
import type { Json } from "../models/files/strict_json.ts";
import type { RunIdentity } from "./checkpoint.ts";
import type { Lane, RunParts, RunSettings } from "./lanes/lane.ts";
import { type TrainingBackend, trainingBackends } from "./plan.ts";
import type { Run } from "./run_root.ts";

const settingsSchema = "psionic.train.run_settings.v1";

/** What a run root keeps of how its run was begun. */
export const settingsDocument = ({ runId, backend = "cpu", settings }: Run) => ({
  schema_version: settingsSchema,
  run_id: runId,
  backend,
  ...settings,
});

/** Where the run of a settings file computes; files without it are of runs on the CPU. */
export function storedBackend(where: string, value: Json | undefined): TrainingBackend {
  const found = trainingBackends.find((name) => name === (value ?? "cpu"));
  if (found) return found;
  const expected = `backend: one of ${trainingBackends.join(", ")}`;
  throw unexpected("file_malformed", where, expected, JSON.stringify(value));
}

const most: Readonly<Record<string, number>> = {
  ...{ seed: 2 ** 32 - 1, sequences: 65536, accumulation: 65536, length: 2 ** 20 },
  ...{ warm_down_steps: 1e9, time_budget_seconds: 1e9, momentum_warmup_steps: 1e9 },
  ...{ max_steps: 1e9, steps_per_window: 1e9, windows_per_cadence: 1e9 },
  ...{ warmup_steps: 1e9, held_out_windows: 1e9 },
};

/** Throws `invalid_request` naming the setting that makes no sense. */
export function checkedSettings(
  where: string,
  lane: Lane,
  value: { readonly [key: string]: Json },
): RunSettings {
  const settings = { ...lane.defaults } as Record<string, Json>;
  for (const key of Object.keys(lane.defaults)) if (value[key] !== undefined) settings[key] = value[key];
  const refuse = (key: string, expected: string): never => {
    throw unexpected("invalid_request", where, `${key}: ${expected}`, JSON.stringify(settings[key]));
  };
  for (const [key, limit] of Object.entries(most)) {
    if (lane.defaults[key as keyof RunSettings] === undefined) continue;
    const n = settings[key];
    const least = lane.defaults[key as keyof RunSettings] === 0 || key === "seed" ? 0 : 1;
    if (!Number.isSafeInteger(n) || Number(n) < least || Number(n) > limit)
      refuse(key, `a whole number from ${least} to ${limit}`);
  }
  if (settings.lane !== lane.name) refuse("lane", lane.name);
  if (!lane.models.includes(String(settings.model))) refuse("model", `one of ${lane.models.join(", ")}`);
  const rate = settings.learning_rate;
  if (typeof rate !== "number" || !(rate > 0 && Number.isFinite(rate)))
    refuse("learning_rate", "a number above 0");
  if (settings.optimizer !== "adam_w" && settings.optimizer !== "muon") refuse("optimizer", "adam_w or muon");
  if (settings.precision !== "f32" && settings.precision !== "bf16") refuse("precision", "f32 or bf16");
  if (typeof settings.recompute !== "boolean") refuse("recompute", "true or false");
  if (settings.momentum_warmup_steps !== 0 && settings.optimizer !== "muon")
    refuse("momentum_warmup_steps", "0, or the optimizer muon");
  for (const key of ["dataset", "dataset_identity", "dataset_digest"] as const) {
    if (lane.defaults[key] !== undefined && typeof settings[key] !== "string") refuse(key, "text");
  }
  if (Number(settings.warmup_steps ?? 0) > 0 && (settings.warm_down_steps || settings.time_budget_seconds))
    refuse("warmup_steps", "0 with warm_down_steps or time_budget_seconds");
  return settings as unknown as RunSettings;
}

/**
 * What a checkpoint belongs to. How many steps are run, when checkpoints are written and whether blocks are run again do not
 * change what a step does, so they are not part of it.
 */
export function runIdentity(lane: Lane, settings: RunSettings, parts: RunParts): RunIdentity {
  const { max_steps, steps_per_window, windows_per_cadence, recompute, dataset, ...rest } = settings;
  const { model, train, config, feed } = parts;
  const step = {
    ...rest,
    parameters: model.parameters.map(({ name, shape }) => ({ name, shape })),
    windows: sha256(new Uint8Array(train.starts.buffer)),
    tokens: sha256(new Uint8Array(train.tokens.buffer)),
    ...(feed && { contract: feed.contract }),
    schedule: config.schedule,
    clip: config.clip,
    groups: config.groups.map(({ id, optimizer, rateScale }) => ({ id, optimizer, rateScale })),
  };
  return {
    model_id: model.id,
    dataset_identity: settings.dataset_identity ?? lane.datasetIdentity,
    dataset_digest: parts.datasetDigest,
    settings_digest: sha256(canonicalJson(step)),
  };
}
