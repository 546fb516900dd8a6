/** What a Parameter Golf run was asked to do; kept in its run root, so that it goes on with the same. */
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { canonicalJson } from "../../core/json.ts";
import type { Json } from "../../models/files/strict_json.ts";

export const golfModels = ["baseline_sp1024_9x512", "tiny"] as const;
export const finalValidations = ["live_only", "roundtrip_only", "artifact_only", "both"] as const;
export const quantizations = ["int8_clean_per_row", "int8_clean_per_row_v1"] as const;
export const compressions = ["zlib", "zstd"] as const;
export const machineProfiles = ["local", "single_h100"] as const;

export type Quantization = (typeof quantizations)[number];
export type Compression = (typeof compressions)[number];

export type GolfSettings = {
  /** Folder of u16 shards with magic 20240520. */
  readonly dataset: string;
  /** SentencePiece model that they were made with. */
  readonly tokenizer: string;
  readonly model: (typeof golfModels)[number];
  readonly seed: number;
  /** Sequences of a microbatch, microbatches of a step, tokens of a sequence. */
  readonly sequences: number;
  readonly accumulation: number;
  readonly length: number;
  readonly precision: "f32" | "bf16";
  readonly recompute: boolean;
  readonly max_steps: number;
  /** What all steps together may take; 0: as long as they need. */
  readonly time_budget_seconds: number;
  /** The last so many steps, or the time they take, bring the learning rate down to 0; 0: it stays. */
  readonly warm_down_steps: number;
  /** Steps before the first, after which parameters and optimiser state are what they were. */
  readonly warmup_steps: number;
  readonly momentum_warmup_steps: number;
  /** Steps between validations, checkpoints and lines of the log; 0: none but at the end. */
  readonly validation_every: number;
  readonly checkpoint_every: number;
  readonly log_every: number;
  /** `non_overlapping`, or `sliding_window:STRIDE`. */
  readonly eval_mode: string;
  readonly final_validation: (typeof finalValidations)[number];
  readonly quantization: Quantization;
  readonly compression: Compression;
  readonly machine_profile: (typeof machineProfiles)[number];
};

export const golfDefaults: Omit<GolfSettings, "dataset" | "tokenizer"> = {
  ...{ model: "baseline_sp1024_9x512", seed: 1337, sequences: 64, accumulation: 8, length: 1024 },
  ...{ precision: "bf16", recompute: false },
  ...{ max_steps: 20_000, time_budget_seconds: 600, warm_down_steps: 1200, warmup_steps: 20 },
  ...{ momentum_warmup_steps: 500, validation_every: 1000, checkpoint_every: 1000, log_every: 200 },
  ...{ eval_mode: "non_overlapping", final_validation: "both" },
  ...{ quantization: "int8_clean_per_row_v1", compression: "zlib", machine_profile: "local" },
};

/** A proof run: so many steps, and no warm-up, no time budget, no validation but the last. */
export const proofRun = { time_budget_seconds: 0, warmup_steps: 0, validation_every: 0 } as const;

/** Settings that do not change what a step does; resume may give other ones. */
export const freeSettings: readonly (keyof GolfSettings)[] = [
  ...(["recompute", "validation_every", "checkpoint_every", "log_every", "eval_mode"] as const),
  ...(["final_validation", "quantization", "compression", "machine_profile"] as const),
];

const whole: Readonly<Record<string, readonly [least: number, most: number]>> = {
  ...{ seed: [0, 2 ** 32 - 1], sequences: [1, 65536], accumulation: [1, 65536], length: [1, 2 ** 20] },
  ...{ max_steps: [1, 1e9], warm_down_steps: [0, 1e9], warmup_steps: [0, 1e6] },
  ...{ momentum_warmup_steps: [0, 1e9], validation_every: [0, 1e9] },
  ...{ checkpoint_every: [0, 1e9], log_every: [0, 1e9] },
};

const named: Readonly<Record<string, readonly string[]>> = {
  ...{ model: golfModels, precision: ["f32", "bf16"], final_validation: finalValidations },
  ...{ quantization: quantizations, compression: compressions, machine_profile: machineProfiles },
};

/** Throws `invalid_request` naming the setting that makes no sense. */
export function checkedGolfSettings(where: string, value: { readonly [key: string]: Json }): GolfSettings {
  const settings: Record<string, Json> = { ...golfDefaults };
  for (const key of ["dataset", "tokenizer", ...Object.keys(golfDefaults)])
    if (value[key] !== undefined) settings[key] = value[key];
  const refuse = (key: string, expected: string): never => {
    throw unexpected("invalid_request", where, `${key}: ${expected}`, JSON.stringify(settings[key]));
  };
  for (const key of ["dataset", "tokenizer"])
    if (typeof settings[key] !== "string" || settings[key] === "") refuse(key, "a path");
  for (const [key, [least, most]] of Object.entries(whole)) {
    const n = settings[key];
    if (!Number.isSafeInteger(n) || Number(n) < least || Number(n) > most)
      refuse(key, `a whole number from ${least} to ${most}`);
  }
  for (const [key, options] of Object.entries(named))
    if (!options.includes(String(settings[key]))) refuse(key, options.join(", "));
  const seconds = settings.time_budget_seconds;
  if (typeof seconds !== "number" || !(seconds >= 0 && seconds <= 1e9))
    refuse("time_budget_seconds", "0 to 1e9");
  if (typeof settings.recompute !== "boolean") refuse("recompute", "true or false");
  const checked = settings as unknown as GolfSettings;
  strideOf(checked);
  return checked;
}

/** Targets that a window scores anew; undefined where windows do not overlap. */
export function strideOf({
  eval_mode,
  length,
}: Pick<GolfSettings, "eval_mode" | "length">): number | undefined {
  if (eval_mode === "non_overlapping") return undefined;
  const stride = Number(/^sliding_window:(\d{1,7})$/.exec(eval_mode)?.[1]);
  if (stride >= 1 && stride <= length) return stride;
  const expected = `non_overlapping, or sliding_window:STRIDE of 1 to ${length}`;
  throw unexpected("invalid_request", "train golf", `an eval mode of ${expected}`, eval_mode);
}

/** Whether the learning rate falls with the steps, so that their number cannot change. */
export const fallsBySteps = (s: GolfSettings): boolean =>
  s.time_budget_seconds === 0 && s.warm_down_steps > 0;

/** SHA-256 of what a step depends on; where files lie is not part of it. */
export function settingsDigest(settings: GolfSettings): string {
  const { dataset: _dataset, tokenizer: _tokenizer, ...rest } = settings;
  const free: readonly string[] = fallsBySteps(settings) ? freeSettings : [...freeSettings, "max_steps"];
  const step = Object.fromEntries(Object.entries(rest).filter(([key]) => !free.includes(key)));
  return sha256(canonicalJson(step));
}
