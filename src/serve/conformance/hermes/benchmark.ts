import { version } from "../../../core/version.ts";
import { isCount, type Json } from "../json.ts";
import type { Target } from "../target.ts";
import { benchmarkCases, type Case, summaryMs } from "./cases.ts";
import { type CaseReport, hermesRevision, hostText, runCase } from "./compatibility.ts";
import { type Programs, type RowSpec, type RowStatus, startRow } from "./launch.ts";
import { type LoopOutcome, maxRequests, maxTokens } from "./loop.ts";

export type BenchmarkCase = {
  readonly case_id: CaseReport["case_id"];
  readonly pass: boolean;
  readonly summary: string;
  readonly wallclock_s: number;
  /** Of the first request that was streamed. */
  readonly first_delta_s: number | null;
  /** All completion tokens by the wall clock; null where a request came without usage. */
  readonly completion_tok_s: number | null;
  /** Sums over the requests. */
  readonly usage: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly total_tokens: number;
  } | null;
  /** What each request reported. */
  readonly usage_reports: readonly (Json | null)[];
};

export type BenchmarkRow = {
  readonly backend_label: string;
  readonly base_url: string | null;
  readonly model: string | null;
  readonly row_status: RowStatus;
  readonly reason: string | null;
  readonly cases: readonly BenchmarkCase[];
  readonly mean_case_wallclock_s: number | null;
  readonly mean_completion_tok_s: number | null;
  readonly overall_pass: boolean;
};

export type BenchmarkReport = {
  readonly kind: "psionic_hermes_backend_benchmark";
  readonly psionic_revision: string;
  readonly hermes_revision: string;
  readonly host: string;
  readonly fixed_contract: Json;
  readonly startup_probe: readonly {
    readonly backend_label: string;
    readonly row_status: RowStatus;
    readonly startup_s: number | null;
  }[];
  readonly backends: readonly BenchmarkRow[];
  readonly comparison: {
    readonly faster_backend: string | null;
    readonly mean_case_wallclock_s: Readonly<Record<string, number>>;
    readonly all_pass: boolean;
  };
};

const fixedContract = {
  api_mode: "chat_completions",
  temperature: 0,
  seed: 0,
  max_tokens: maxTokens,
  max_requests: maxRequests,
  summary_timeout_s: summaryMs / 1000,
  case_ids: benchmarkCases.map(({ id }) => id),
} as const;

/** The same five conversations on each backend, one backend after the other; one that cannot start is a row too. */
export async function benchmarkBackends(
  specs: readonly RowSpec[],
  programs: Programs,
  apiKey: string | undefined,
): Promise<BenchmarkReport> {
  const backends: BenchmarkRow[] = [];
  const probes: BenchmarkReport["startup_probe"][number][] = [];
  for (const spec of specs) {
    const started = await startRow(spec, programs, apiKey);
    const ready = started.status === "ready";
    const startup = { row_status: started.status, startup_s: ready ? started.startupS : null };
    probes.push({ backend_label: spec.label, ...startup });
    if (!ready) {
      backends.push(failedRow(spec, started.status, started.reason));
      continue;
    }
    try {
      backends.push(await measuredRow(spec.label, started.target));
    } finally {
      await started.close();
    }
  }
  return {
    kind: "psionic_hermes_backend_benchmark",
    psionic_revision: version,
    hermes_revision: hermesRevision,
    host: hostText(),
    fixed_contract: fixedContract,
    startup_probe: probes,
    backends,
    comparison: compare(backends),
  };
}

function failedRow(spec: RowSpec, status: RowStatus, reason: string): BenchmarkRow {
  return {
    ...{ backend_label: spec.label, base_url: spec.baseUrl ?? null, model: spec.model ?? null, reason },
    ...{ row_status: status, cases: [], overall_pass: false },
    ...{ mean_case_wallclock_s: null, mean_completion_tok_s: null },
  };
}

async function measuredRow(label: string, target: Target): Promise<BenchmarkRow> {
  const cases: BenchmarkCase[] = [];
  for (const one of benchmarkCases) cases.push(await measuredCase(target, one));
  const rates = cases.flatMap(({ completion_tok_s }) => completion_tok_s ?? []);
  return {
    ...{ backend_label: label, base_url: `${target.root}/v1`, model: target.model },
    ...{ row_status: "ready", reason: null, cases },
    mean_case_wallclock_s: mean(cases.map(({ wallclock_s }) => wallclock_s)),
    mean_completion_tok_s: mean(rates),
    overall_pass: cases.every(({ pass }) => pass),
  };
}

async function measuredCase(target: Target, one: Case): Promise<BenchmarkCase> {
  const { report, outcome } = await runCase(target, one);
  const reports = outcome.requests.map(({ usage }) => usage);
  const usage = sumOf(reports);
  const rate = usage && outcome.wallclockS > 0 ? usage.completion_tokens / outcome.wallclockS : null;
  return {
    ...{ case_id: one.id, pass: report.pass, summary: report.summary, usage, usage_reports: reports },
    wallclock_s: outcome.wallclockS,
    first_delta_s: firstDelta(outcome),
    completion_tok_s: rate === null ? null : Math.round(rate * 1e4) / 1e4,
  };
}

function firstDelta({ requests }: LoopOutcome): number | null {
  return requests.find(({ first_delta_s }) => first_delta_s !== null)?.first_delta_s ?? null;
}

/** Null unless every request reported its counts. */
function sumOf(reports: readonly (Json | null)[]): BenchmarkCase["usage"] {
  let [prompt, completion] = [0, 0];
  for (const report of reports) {
    if (!report || !isCount(report.prompt_tokens) || !isCount(report.completion_tokens)) return null;
    prompt += report.prompt_tokens;
    completion += report.completion_tokens;
  }
  if (reports.length === 0) return null;
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
}

function mean(values: readonly number[]): number | null {
  if (values.length === 0) return null;
  const sum = values.reduce((a, b) => a + b, 0);
  return Math.round((sum / values.length) * 1e4) / 1e4;
}

/** Faster is who took less time for the cases on the mean, whether or not they passed; `all_pass` says that. */
export function compare(rows: readonly BenchmarkRow[]): BenchmarkReport["comparison"] {
  const measured = rows.flatMap(({ backend_label, mean_case_wallclock_s: s }) =>
    s === null ? [] : [[backend_label, s] as const],
  );
  const [first] = [...measured].sort(([, a], [, b]) => a - b);
  return {
    faster_backend: measured.length > 1 ? first![0] : null,
    mean_case_wallclock_s: Object.fromEntries(measured),
    all_pass: rows.every(({ overall_pass }) => overall_pass),
  };
}
