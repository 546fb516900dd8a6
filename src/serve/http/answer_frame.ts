import { sha256 } from "../../core/digest.ts";
import type { GenerationSummary } from "../generation.ts";
import type { EngineInfo } from "../protocol.ts";
import type { ServerState } from "./context.ts";
import { debugFields } from "./debug_fields.ts";

/** What every generated answer carries, whatever its shape. */
export type AnswerFrame = {
  readonly id: string;
  readonly fingerprint: string;
  /** Members added to whole answers; absent unless the server shows them. */
  readonly debug?: (summary: GenerationSummary, causes: readonly string[]) => object;
};

export function answerFrame({ nextId, settings }: ServerState, info: EngineInfo, kind: string): AnswerFrame {
  return {
    id: nextId(kind),
    fingerprint: `psionic-${configurationOf(info).slice(0, 16)}`,
    ...(settings.debugFields && {
      debug: (summary, causes) => debugFields(summary, causes, info.contextLength),
    }),
  };
}

/** What is computed: the plan, and an adapter, whose weights and scale no plan has. */
function configurationOf({ planDigest, adapter }: EngineInfo): string {
  const plan = planDigest.replace(/^.*:/, "");
  return adapter ? sha256(`${plan}|${adapter.servedDigest}`) : plan;
}
