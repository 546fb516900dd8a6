/**
 * One section of gpu-check, a process of its own so that it can be stopped.
 * Usage: bun scripts/gpu/section.ts NAME BACKEND LARGE_MODEL FOLDER LOGS    Output: a JSON row a line in FOLDER/NAME.jsonl
 */
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import type { CheckBackend, Row, Section } from "./check.ts";

const sections: Readonly<Record<string, () => Promise<Section>>> = {
  ops: async () => (await import("./ops.ts")).ops,
  golden: async () => (await import("./golden.ts")).golden,
  replay: async () => (await import("./replay.ts")).replay,
  batch: async () => (await import("./batch.ts")).batch,
  chat: async () => (await import("./chat.ts")).chat,
  sanitizer: async () => (await import("./sanitizer.ts")).sanitizer,
  soak: async () => (await import("./soak.ts")).soak,
  bench: async () => (await import("./bench.ts")).bench,
  streams: async () => (await import("./streams.ts")).streams,
  turns: async () => (await import("./turns.ts")).turns,
  train: async () => (await import("./train.ts")).train,
  errors: async () => (await import("./errors.ts")).errors,
};

const [name = "", backend, largeModel = "", folder = "", logs = ""] = process.argv.slice(2);
const report = (row: Row) => {
  appendFileSync(join(folder, `${name}.jsonl`), `${JSON.stringify(row)}\n`);
  console.error(`[${name}] ${row.ok === false ? "FAILED " : ""}${row.what}: ${row.got}`);
};
try {
  const section = await sections[name]!();
  await section({ backend: backend as CheckBackend, largeModel, folder, logs, report });
} catch (error) {
  if (process.env.PSIONIC_DEBUG) console.error(error);
  const got = error instanceof Error ? error.message : String(error);
  report({ what: "the section itself", required: "runs to its end", got: got.slice(0, 300), ok: false });
}
process.exit(0);
