/** The run root of a Parameter Golf run: its files, and the settings that it was begun with. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { unexpected } from "../../core/error.ts";
import { fileError } from "../../models/files/bytes.ts";
import { isObject, parseJson } from "../../models/files/strict_json.ts";
import { writeJson } from "../durable.ts";
import type { GitState } from "../git_state.ts";
import type { MemoryPlan, TrainingBackend } from "../plan.ts";
import type { Live } from "../run.ts";
import { storedBackend } from "../settings.ts";
import type { StepRecord } from "../trainer.ts";
import type { Score } from "./score.ts";
import { checkedGolfSettings, type GolfSettings } from "./settings.ts";

const settingsSchema = "psionic.train.golf_settings.v1";

/** Files of a run root. */
export const golfPaths = {
  settings: "golf_settings.json",
  checkpoints: "checkpoints",
  steps: "metrics/steps.jsonl",
  validation: "metrics/validation.jsonl",
  curves: "training_curves.svg",
  picture: "training_curves.png",
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

export function writeSettings({ root, runId, backend, settings }: GolfRun): void {
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
