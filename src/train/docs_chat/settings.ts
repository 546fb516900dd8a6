import { unexpected } from "../../core/error.ts";
import { type DocsChatModel, docsChatModels } from "./model.ts";

/** What a run of the recipe was asked to do; kept beside its model. */
export type DocsChatSettings = {
  readonly model: DocsChatModel;
  readonly seed: number;
  /** Sequences of a step, tokens of a sequence. */
  readonly sequences: number;
  readonly length: number;
  /** Times that the documents are read, each with `rounds` rounds of questions. */
  readonly epochs: number;
  readonly rounds: number;
  /** Steps in the place of epochs; 0: what the epochs take. */
  readonly max_steps: number;
  /** What all steps together may take: the rate comes down sooner then; 0: as long as they need. */
  readonly time_budget_seconds: number;
  readonly learning_rate: number;
  readonly weight_decay: number;
  readonly warmup_steps: number;
  /** Share of the way over which the rate falls to 0, and share at whose beginning weights are rounded to the file's formats. */
  readonly fall_share: number;
  readonly finish_share: number;
  readonly precision: "f32" | "bf16";
  /** Steps between checkpoints; 0: one at the end. */
  readonly checkpoint_steps: number;
};

export const docsChatDefaults: DocsChatSettings = {
  ...{ model: "docs_oss_13m", seed: 20260801, sequences: 32, length: 1024, epochs: 12, rounds: 3 },
  ...{ max_steps: 0, time_budget_seconds: 360, learning_rate: 2e-3, weight_decay: 0.2, warmup_steps: 100 },
  ...{ fall_share: 0.7, finish_share: 0.25, precision: "bf16", checkpoint_steps: 1000 },
};

const wholes: Readonly<Record<string, readonly [number, number]>> = {
  ...{
    seed: [0, 2 ** 32 - 1],
    sequences: [1, 65536],
    length: [32, 4096],
    epochs: [1, 1000],
    rounds: [0, 100],
  },
  ...{
    max_steps: [0, 1e9],
    time_budget_seconds: [0, 1e9],
    warmup_steps: [0, 1e9],
    checkpoint_steps: [0, 1e9],
  },
};
const fractions: Readonly<Record<string, readonly [number, number]>> = {
  ...{ learning_rate: [1e-12, 1e3], weight_decay: [0, 1e3], fall_share: [0, 1], finish_share: [0, 1] },
};

/** Throws `invalid_request` naming the setting that makes no sense. */
export function checkedDocsChat(settings: DocsChatSettings): DocsChatSettings {
  const values: Readonly<Record<string, unknown>> = settings;
  const refuse = (name: string, expected: string): never => {
    throw unexpected(
      "invalid_request",
      "train docs-chat",
      `${name}: ${expected}`,
      JSON.stringify(values[name]),
    );
  };
  for (const [table, whole] of [
    [wholes, true],
    [fractions, false],
  ] as const) {
    for (const [name, [least, most]] of Object.entries(table)) {
      const n = values[name];
      const fits = typeof n === "number" && n >= least && n <= most && (!whole || Number.isInteger(n));
      if (!fits) refuse(name, `a ${whole ? "whole " : ""}number from ${least} to ${most}`);
    }
  }
  if (!(settings.model in docsChatModels))
    refuse("model", `one of ${Object.keys(docsChatModels).join(", ")}`);
  if (settings.precision !== "f32" && settings.precision !== "bf16") refuse("precision", "f32 or bf16");
  return settings;
}
