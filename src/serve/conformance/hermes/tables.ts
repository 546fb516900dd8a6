import { table } from "../../../terminal/table.ts";
import type { AttributionReport } from "./attribution.ts";
import type { BenchmarkReport } from "./benchmark.ts";
import type { CompatibilityReport } from "./compatibility.ts";

const shownPass = (pass: boolean): string => (pass ? "pass" : "fail");
const shownNumber = (value: number | null): string => (value === null ? "-" : String(value));

export function compatibilityTable(report: CompatibilityReport): string {
  const rows = report.cases.map(({ case_id, pass, api_calls, summary }) => [
    `  ${case_id}`,
    shownPass(pass),
    `${api_calls} requests`,
    summary,
  ]);
  const { backend_label, base_url, model, passing_case_count, total_case_count } = report;
  return [
    `${backend_label} ${base_url} model=${model}`,
    table(rows, [2]),
    `${passing_case_count} of ${total_case_count} cases pass`,
  ].join("\n");
}

export function attributionTable({ rows, verdict }: AttributionReport): string {
  const lines = rows.map(({ row, model, row_status, verdict: one, reason }) => [
    `  ${row}`,
    model ?? "-",
    row_status,
    one,
    reason ?? "",
  ]);
  return [table(lines), verdict].join("\n");
}

export function benchmarkTable({ backends, comparison }: BenchmarkReport): string {
  const lines = backends.flatMap((row) => [
    [
      row.backend_label,
      row.row_status === "ready" ? shownPass(row.overall_pass) : row.row_status,
      `${shownNumber(row.mean_case_wallclock_s)} s`,
      `${shownNumber(row.mean_completion_tok_s)} tok/s`,
      row.reason ?? "mean of the cases",
    ],
    ...row.cases.map(({ case_id, pass, wallclock_s, completion_tok_s, first_delta_s, summary }) => [
      `  ${case_id}`,
      shownPass(pass),
      `${wallclock_s} s`,
      `${shownNumber(completion_tok_s)} tok/s`,
      `${first_delta_s === null ? "" : `first delta ${first_delta_s} s; `}${summary}`,
    ]),
  ]);
  return [table(lines, [2, 3]), `faster: ${comparison.faster_backend ?? "nothing to compare"}`].join("\n");
}
