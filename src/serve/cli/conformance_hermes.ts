import { UsageError, words } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import type { Backend } from "../conformance/hermes/compatibility.ts";
import type { Programs, RowSpec } from "../conformance/hermes/launch.ts";

/** Options of the parts that compare rows. */
export const rowArgs = {
  rows: {
    type: "string",
    valueHint: "ROWS",
    description: "hermes parallel, benchmark: LABEL=URL#MODEL or LABEL=start:MODEL, comma-separated",
  },
  "llama-bin": {
    type: "string",
    valueHint: "PROGRAM",
    description: "llama.cpp's server, for a row llama.cpp=start:FILE; absent: llama-server",
  },
  "ollama-bin": {
    type: "string",
    valueHint: "PROGRAM",
    description: "Ollama, for a row ollama=start:NAME; absent: ollama",
  },
} as const;

export type HermesArgs = {
  readonly part?: string | undefined;
  readonly rows?: string | undefined;
  readonly "llama-bin"?: string | undefined;
  readonly "ollama-bin"?: string | undefined;
  readonly only?: string | undefined;
  readonly json?: boolean | undefined;
};

export type OpenBackend = () => Promise<Backend & { readonly close: () => Promise<void> }>;

const parts = ["compatibility", "parallel", "benchmark"] as const;

/**
 * Runs the part that was named; throws where something that must pass did not. `ownOptions`: options of the command line
 * that choose one server.
 */
export async function runHermes(
  args: HermesArgs,
  open: OpenBackend,
  ownOptions: readonly string[],
  apiKey: string | undefined,
): Promise<void> {
  const part = parts.find((known) => known === (args.part ?? "compatibility"));
  if (part === undefined) throw new UsageError(`hermes takes ${parts.join(", ")}; got ${args.part}`);
  if (args.only !== undefined) throw new UsageError("--only chooses among probes; hermes has none");
  if (part === "compatibility") {
    for (const name of ["rows", "llama-bin", "ollama-bin"] as const) {
      if (args[name] !== undefined) throw new UsageError(`--${name} goes with hermes parallel or benchmark`);
    }
    await compatibility(await open(), args.json ?? false);
    return;
  }
  if (ownOptions.length > 0)
    throw new UsageError(`${ownOptions[0]} goes with hermes compatibility; rows name their own`);
  const { rows, programs } = await readRows(args);
  await (part === "parallel" ? parallel : benchmark)(rows, programs, apiKey, args.json ?? false);
}

async function compatibility(backend: Awaited<ReturnType<OpenBackend>>, asJson: boolean): Promise<void> {
  const { checkCompatibility } = await import("../conformance/hermes/compatibility.ts");
  const { compatibilityTable } = await import("../conformance/hermes/tables.ts");
  const progress = new Progress({ format: String });
  try {
    const report = await checkCompatibility(backend, (done, total) => progress.update("Cases", done, total));
    progress.end();
    if (asJson) await printJson(report);
    else await print(compatibilityTable(report));
    const { passing_case_count: passing, total_case_count: total, overall_pass: pass } = report;
    if (!pass) throw new Error(`${total - passing} of ${total} cases failed; see above`);
  } finally {
    progress.end();
    await backend.close();
  }
}

async function readRows(
  args: HermesArgs,
): Promise<{ readonly rows: RowSpec[]; readonly programs: Programs }> {
  const { parseRow } = await import("../conformance/hermes/launch.ts");
  const rows = words(args.rows)?.map(parseRow);
  if (rows === undefined) throw new UsageError("--rows is missing: LABEL=URL#MODEL or LABEL=start:MODEL");
  const labels = new Set(rows.map(({ label }) => label));
  if (labels.size < rows.length) throw new UsageError("--rows needs a label of its own for each row");
  const programs = {
    "llama.cpp": args["llama-bin"] ?? "llama-server",
    ollama: args["ollama-bin"] ?? "ollama",
  };
  return { rows, programs };
}

/** Fails unless every row that can be reached, and at least one, solves the case. */
async function parallel(
  rows: readonly RowSpec[],
  programs: Programs,
  apiKey: string | undefined,
  asJson: boolean,
): Promise<void> {
  const { attributeParallel } = await import("../conformance/hermes/attribution.ts");
  const { attributionTable } = await import("../conformance/hermes/tables.ts");
  const report = await attributeParallel(rows, programs, apiKey);
  if (asJson) await printJson(report);
  else await print(attributionTable(report));
  if (report.verdict !== "strict_parallel_tool_turn_solved_on_all_reachable_rows")
    throw new Error(report.verdict);
}

/** Fails where a row of psionic's did not start or did not pass; what peers do is data. */
async function benchmark(
  rows: readonly RowSpec[],
  programs: Programs,
  apiKey: string | undefined,
  asJson: boolean,
): Promise<void> {
  const { benchmarkBackends } = await import("../conformance/hermes/benchmark.ts");
  const { benchmarkTable } = await import("../conformance/hermes/tables.ts");
  const report = await benchmarkBackends(rows, programs, apiKey);
  if (asJson) await printJson(report);
  else await print(benchmarkTable(report));
  const failed = report.backends.filter(
    ({ backend_label, overall_pass }) => backend_label.startsWith("psionic") && !overall_pass,
  );
  if (failed.length > 0) throw new Error(`${failed.length} of psionic's rows did not pass; see above`);
}
