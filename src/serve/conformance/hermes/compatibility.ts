import { cpus } from "node:os";
import { version } from "../../../core/version.ts";
import type { Json } from "../json.ts";
import type { Target } from "../target.ts";
import { type Case, type CaseId, compatibilityCases } from "./cases.ts";
import { type Grounding, grounding } from "./grounding.ts";
import { type LoopOutcome, type RequestSummary, runLoop } from "./loop.ts";

/** A backend that is checked. */
export type Backend = {
  readonly label: string;
  readonly target: Target;
  /** The file that it serves; null where it is not ours to know. */
  readonly modelPath: string | null;
};

export type CaseReport = {
  readonly case_id: CaseId;
  readonly pass: boolean;
  readonly summary: string;
  /** Requests that were streamed. */
  readonly stream_calls: number;
  readonly request_summaries: readonly RequestSummary[];
  readonly api_calls: number;
  readonly completed: boolean;
  readonly failed: boolean;
  readonly final_response: string;
  readonly messages: readonly Json[];
  readonly details: {
    readonly condition: string;
    readonly condition_met: boolean;
    readonly grounding: Grounding;
    readonly error: string | null;
  };
};

/** What `psionic conformance hermes --json` prints. */
export type CompatibilityReport = {
  readonly kind: "psionic_hermes_qwen35_compatibility";
  readonly backend_label: string;
  readonly base_url: string;
  readonly model: string;
  readonly model_path: string | null;
  readonly psionic_revision: string;
  /** Our own loop takes the agent's part. */
  readonly hermes_revision: string;
  readonly host: string;
  readonly cases: readonly CaseReport[];
  readonly overall_pass: boolean;
  readonly passing_case_count: number;
  readonly total_case_count: number;
};

export const hermesRevision = "psionic built-in loop";

/** This machine in a few words. */
export function hostText(): string {
  const processor = cpus()[0]?.model.trim() ?? "unknown processor";
  return `${process.platform} ${process.arch}, ${processor}`;
}

/** Runs a case. It passes when its condition is met and its answer states no number that no tool returned. */
export async function runCase(
  target: Target,
  one: Case,
): Promise<{ report: CaseReport; outcome: LoopOutcome }> {
  const outcome = await runLoop(target, one.loop);
  const met = outcome.completed && one.passes(outcome);
  const grounded = grounding(outcome.finalResponse, outcome.toolResults);
  const report: CaseReport = {
    case_id: one.id,
    pass: met && grounded.pass,
    summary: summaryOf(one, outcome, met, grounded),
    stream_calls: outcome.requests.filter(({ stream }) => stream).length,
    request_summaries: outcome.requests,
    api_calls: outcome.requests.length,
    completed: outcome.completed,
    failed: outcome.failed !== null,
    final_response: outcome.finalResponse,
    messages: outcome.messages,
    details: {
      condition: one.condition,
      condition_met: met,
      grounding: grounded,
      error: outcome.failed,
    },
  };
  return { report, outcome };
}

function summaryOf(
  one: Case,
  { failed }: LoopOutcome,
  met: boolean,
  { pass, ungrounded }: Grounding,
): string {
  if (failed !== null) return `broke off: ${failed}`;
  if (!met) return `not met: ${one.condition}`;
  return pass
    ? `met: ${one.condition}`
    : `the answer states ${ungrounded.join(", ")}, which no tool returned`;
}

export async function checkCompatibility(
  { label, target, modelPath }: Backend,
  onCase: (done: number, total: number) => void = () => {},
): Promise<CompatibilityReport> {
  const cases: CaseReport[] = [];
  for (const one of compatibilityCases) {
    cases.push((await runCase(target, one)).report);
    onCase(cases.length, compatibilityCases.length);
  }
  const passing = cases.filter(({ pass }) => pass).length;
  return {
    kind: "psionic_hermes_qwen35_compatibility",
    backend_label: label,
    base_url: `${target.root}/v1`,
    model: target.model,
    model_path: modelPath,
    psionic_revision: version,
    hermes_revision: hermesRevision,
    host: hostText(),
    cases,
    overall_pass: passing === cases.length,
    passing_case_count: passing,
    total_case_count: cases.length,
  };
}
