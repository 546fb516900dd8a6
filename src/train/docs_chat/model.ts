/** The models that this recipe makes: GPT-OSS in small. */
import type { RoundingFormat } from "../../ir/ops/block_round.ts";
import type { ParameterSpec } from "../model.ts";
import type { GptOssTrainingConfig } from "../models/gpt_oss.ts";

export type DocsChatModel = "docs_oss_13m" | "tiny";

const kind = {
  ...{ expertsUsed: 2, contextLength: 4096, ropeBase: 150000, balance: 0.01 },
  ropeScaling: {
    ...({ type: "yarn", factor: 32, originalContext: 4096, betaFast: 32, betaSlow: 1 } as const),
    ...{ attentionFactor: 1, round: false },
  },
} as const;

/** `docs_oss_13m` is the embedded default's shape; `tiny` one of the same kind for tests. */
export const docsChatModels: Readonly<Record<DocsChatModel, GptOssTrainingConfig>> = {
  docs_oss_13m: {
    ...kind,
    ...{ width: 256, layers: 6, heads: 8, kvHeads: 2, headDim: 32, window: 128 },
    ...{ experts: 8, expertFeedForward: 256, vocabularySize: 6144 },
  },
  tiny: {
    ...kind,
    ...{ width: 64, layers: 2, heads: 4, kvHeads: 2, headDim: 32, window: 32 },
    ...{ experts: 4, expertFeedForward: 64, vocabularySize: 512 },
  },
};

/** The format that a parameter has in the file: experts MXFP4, other matrices and tables Q8_0, routers and the rest f32. */
export function formatOf({ name, class: kindOf, shape }: ParameterSpec): RoundingFormat | undefined {
  if (name.includes(".experts.") && shape.length === 3) return "mxfp4";
  if (name.includes(".router.") || kindOf === "scalar" || kindOf === "bias") return undefined;
  return shape.length === 2 ? "q8_0" : undefined;
}
