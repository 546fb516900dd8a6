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
    fingerprint: `psionic-${info.planDigest.replace(/^.*:/, "").slice(0, 16)}`,
    ...(settings.debugFields && {
      debug: (summary, causes) => debugFields(summary, causes, info.contextLength),
    }),
  };
}
