import { version } from "../../../core/version.ts";
import { parallelToolTurn } from "./cases.ts";
import { type CaseReport, hermesRevision, hostText, runCase } from "./compatibility.ts";
import { type Programs, type RowSpec, type RowStatus, startRow } from "./launch.ts";

export type AttributionRow = {
  readonly row: string;
  readonly backend_label: string;
  readonly base_url: string | null;
  readonly model: string | null;
  readonly row_status: RowStatus;
  readonly verdict: "solved" | "unsolved" | "unreachable";
  readonly reason: string | null;
  readonly case: CaseReport | null;
};

export type AttributionVerdict =
  | "strict_parallel_tool_turn_solved_on_all_reachable_rows"
  | "strict_parallel_tool_turn_unsolved_on_psionic_rows_only"
  | "strict_parallel_tool_turn_unsolved_on_peer_rows_only"
  | "strict_parallel_tool_turn_unsolved_on_all_reachable_rows"
  | "strict_parallel_tool_turn_solved_on_some_reachable_rows"
  | "no_reachable_rows";

/** Whether two calls in one turn fail for the model's sake or the backend's: the same case on each row. */
export type AttributionReport = {
  readonly kind: "psionic_hermes_parallel_attribution";
  readonly psionic_revision: string;
  readonly hermes_revision: string;
  readonly host: string;
  readonly case_id: "parallel_tool_turn";
  readonly rows: readonly AttributionRow[];
  readonly verdict: AttributionVerdict;
};

export async function attributeParallel(
  specs: readonly RowSpec[],
  programs: Programs,
  apiKey: string | undefined,
): Promise<AttributionReport> {
  const rows: AttributionRow[] = [];
  for (const spec of specs) rows.push(await rowOf(spec, programs, apiKey));
  return {
    kind: "psionic_hermes_parallel_attribution",
    psionic_revision: version,
    hermes_revision: hermesRevision,
    host: hostText(),
    case_id: "parallel_tool_turn",
    rows,
    verdict: verdictOf(rows),
  };
}

async function rowOf(spec: RowSpec, programs: Programs, apiKey: string | undefined): Promise<AttributionRow> {
  const names = { row: spec.label, backend_label: spec.backend };
  const started = await startRow(spec, programs, apiKey);
  if (started.status !== "ready") {
    return {
      ...{ ...names, base_url: spec.baseUrl ?? null, model: spec.model ?? null, case: null },
      ...{ row_status: started.status, verdict: "unreachable", reason: started.reason },
    };
  }
  try {
    const { report } = await runCase(started.target, parallelToolTurn);
    return {
      ...{ ...names, base_url: `${started.target.root}/v1`, model: started.target.model, case: report },
      ...{ row_status: "ready", verdict: report.pass ? "solved" : "unsolved", reason: report.summary },
    };
  } finally {
    await started.close();
  }
}

export function verdictOf(
  rows: readonly Pick<AttributionRow, "verdict" | "backend_label">[],
): AttributionVerdict {
  const reachable = rows.filter(({ verdict }) => verdict !== "unreachable");
  if (reachable.length === 0) return "no_reachable_rows";
  const unsolved = reachable.filter(({ verdict }) => verdict === "unsolved");
  if (unsolved.length === 0) return "strict_parallel_tool_turn_solved_on_all_reachable_rows";
  if (unsolved.length === reachable.length) return "strict_parallel_tool_turn_unsolved_on_all_reachable_rows";
  const ours = unsolved.filter(({ backend_label }) => backend_label === "psionic").length;
  if (ours === unsolved.length) return "strict_parallel_tool_turn_unsolved_on_psionic_rows_only";
  if (ours === 0) return "strict_parallel_tool_turn_unsolved_on_peer_rows_only";
  return "strict_parallel_tool_turn_solved_on_some_reachable_rows";
}
