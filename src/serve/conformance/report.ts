import { version } from "../../core/version.ts";
import { table } from "../../terminal/table.ts";
import type { Result } from "./probe.ts";

/** What `psionic conformance --json` prints. */
export type Report = {
  readonly kind: "psionic_conformance";
  readonly psionic_version: string;
  /** `own`: the server was started for the probes. */
  readonly server: "own" | "named";
  readonly base_url: string;
  readonly model: string;
  readonly overall_pass: boolean;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly probes: readonly Result[];
};

export function makeReport(
  server: Report["server"],
  { root, model }: { readonly root: string; readonly model: string },
  results: readonly Result[],
): Report {
  const count = (status: Result["status"]) => results.filter((result) => result.status === status).length;
  return {
    kind: "psionic_conformance",
    psionic_version: version,
    server,
    base_url: `${root}/v1`,
    model,
    overall_pass: count("fail") === 0,
    passed: count("pass"),
    failed: count("fail"),
    skipped: count("skip"),
    probes: results,
  };
}

/** A row per probe; below a row that did not pass, or has a remark, its detail. */
export function reportTable(report: Report): string {
  const rows = report.probes.map(({ name, model, status, requires, duration_ms }) => [
    `  ${name}`,
    status,
    model,
    `${duration_ms} ms`,
    requires,
  ]);
  const lines = table(rows, [3]).split("\n");
  const detailed = report.probes.flatMap(({ detail }, i) => {
    return detail === null ? [lines[i]!] : [lines[i]!, `      ${detail}`];
  });
  const { passed, failed, skipped, base_url, model } = report;
  return [
    `${base_url} model=${model}`,
    ...detailed,
    `${passed} passed, ${failed} failed, ${skipped} skipped`,
  ].join("\n");
}
