import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { ModelSet } from "../models/set.ts";
import type { EngineStats } from "../protocol.ts";

const loadSeconds = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

/** What is shown per model: engine counts, loads and unloads. Counts go on where a model is unloaded and loaded again. */
export function addModelMetrics(registry: Registry, models: ModelSet): void {
  const ended = new EndedCounts(models);
  for (const [name, help, of] of engineGauges) {
    perModel(registry, name, help, (set) => {
      for (const row of models.rows) if (row.served) set(row.name, of(row.served.engine.stats()));
    });
  }
  for (const [name, help, of] of engineCounters) {
    new Counter({
      ...{ name, help, labelNames: ["model"], registers: [registry] },
      collect() {
        this.reset();
        for (const [model, count] of ended.with(models, of)) this.inc({ model }, count);
      },
    });
  }
  perModel(registry, "psionic_model_loaded", "1 while the model is loaded", (set) => {
    for (const { name, served } of models.rows) if (name !== "") set(name, served ? 1 : 0);
  });
  perModel(registry, "psionic_model_requests", "Requests that hold the model", (set) => {
    for (const { name, requests } of models.rows) if (name !== "") set(name, requests);
  });
  addInfo(registry, models);
  addLoads(registry, models);
}

function addInfo(registry: Registry, models: ModelSet): void {
  new Gauge({
    name: "psionic_model_info",
    help: "The loaded models and what runs them, as labels",
    labelNames: ["model", "name", "digest", "quantization", "backend", "plan_digest"],
    registers: [registry],
    // a large file's digest becomes known while it is served
    collect() {
      this.reset();
      for (const { name: model, served } of models.rows) {
        if (!served) continue;
        const { model: facts, backend, planDigest } = served.engine.info;
        const { name, digest, quantization } = facts;
        const labels = { model, name, digest: digest ?? "pending", quantization };
        this.set({ ...labels, backend: backend.backend, plan_digest: planDigest }, 1);
      }
    },
  });
}

function addLoads(registry: Registry, models: ModelSet): void {
  const registers = [registry];
  const loads = new Histogram({
    ...{ name: "psionic_model_load_seconds", help: "Time a model took to load" },
    ...{ labelNames: ["model"], buckets: loadSeconds, registers },
  });
  const unloads = new Counter({
    ...{ name: "psionic_model_unloads_total", help: "Models unloaded, by reason" },
    ...{ labelNames: ["model", "reason"], registers },
  });
  const failures = new Counter({
    ...{ name: "psionic_model_load_failures_total", help: "Loads that failed or were refused" },
    ...{ labelNames: ["model"], registers },
  });
  models.listen((event) => {
    const model = event.name;
    if (event.type === "loaded") loads.observe({ model }, event.loadMs / 1000);
    else if (event.type === "unloaded") unloads.inc({ model, reason: event.reason });
    else if (event.type === "failed") failures.inc({ model });
  });
}

/** A gauge that is read whenever the metrics are. */
function perModel(
  registry: Registry,
  name: string,
  help: string,
  read: (set: (model: string, value: number) => void) => void,
): void {
  new Gauge({
    ...{ name, help, labelNames: ["model"], registers: [registry] },
    collect() {
      this.reset();
      read((model, value) => this.set({ model }, value));
    },
  });
}

/** The last counts of engines that are gone, added up by model. */
class EndedCounts {
  private readonly stats = new Map<string, EngineStats>();

  constructor(models: ModelSet) {
    models.listen((event) => {
      if (event.type !== "unloaded") return;
      const last = event.served.engine.stats();
      const sum = this.stats.get(event.name);
      this.stats.set(event.name, sum ? sumOf(sum, last) : last);
    });
  }

  /** A count of each model that was ever loaded. */
  with(models: ModelSet, of: (stats: EngineStats) => number): ReadonlyMap<string, number> {
    const counts = new Map<string, number>();
    for (const [name, sum] of this.stats) counts.set(name, of(sum));
    for (const { name, served } of models.rows) {
      if (served) counts.set(name, (counts.get(name) ?? 0) + of(served.engine.stats()));
    }
    return counts;
  }
}

/** Sums of all members; only those of counters mean anything. */
function sumOf(a: EngineStats, b: EngineStats): EngineStats {
  const sums = Object.entries(a).map(([name, value]) => [name, value + b[name as keyof EngineStats]]);
  return Object.fromEntries(sums) as EngineStats;
}

type Row = readonly [name: string, help: string, of: (stats: EngineStats) => number];

const engineGauges: readonly Row[] = [
  ["psionic_sequences_active", "Sequences in a slot", (s) => s.active],
  ["psionic_sequences_queued", "Sequences that wait for a slot", (s) => s.queued],
  ["psionic_cache_pages_used", "Pages of the key-value cache in use", (s) => s.pagesUsed],
  ["psionic_cache_pages", "Pages of the key-value cache", (s) => s.pagesTotal],
  ["psionic_arena_peak_bytes", "Most bytes that temporaries have taken", (s) => s.arenaPeakBytes],
  [
    "psionic_device_memory_bytes",
    "Bytes taken of the GPU's memory, by everybody on it; 0 on the CPU",
    (s) => s.deviceMemoryBytes,
  ],
  [
    "psionic_prefix_disk_bytes",
    "Bytes of the prefix cache's files, as last counted",
    (s) => s.diskStoredBytes,
  ],
];

const engineCounters: readonly Row[] = [
  ["psionic_prompt_tokens_total", "Prompt tokens computed", (s) => s.promptTokens],
  ["psionic_prompt_tokens_cached_total", "Prompt tokens from the prefix cache", (s) => s.cachedPromptTokens],
  ["psionic_completion_tokens_total", "Tokens generated", (s) => s.completionTokens],
  ["psionic_prefix_cache_hits_total", "Requests that reused a cached prefix", (s) => s.prefixHits],
  ["psionic_prefix_cache_misses_total", "Requests that found no cached prefix", (s) => s.prefixMisses],
  [
    "psionic_prefix_disk_hits_total",
    "Requests for which the prefix cache's files were read",
    (s) => s.diskHits,
  ],
  [
    "psionic_prefix_disk_tokens_total",
    "Prompt tokens whose pages were read from files",
    (s) => s.diskCachedTokens,
  ],
  [
    "psionic_prefix_disk_read_bytes_total",
    "Bytes read from the prefix cache's files",
    (s) => s.diskReadBytes,
  ],
  [
    "psionic_prefix_disk_written_bytes_total",
    "Bytes written to the prefix cache's files",
    (s) => s.diskWrittenBytes,
  ],
  ["psionic_prefix_disk_rejected_total", "Files that were not what their names say", (s) => s.diskRejected],
  ["psionic_prefix_disk_failures_total", "Files that could not be written", (s) => s.diskFailures],
  ["psionic_generations_cancelled_total", "Generations cancelled before their end", (s) => s.cancelled],
  ["psionic_engine_steps_total", "Steps of the engine", (s) => s.steps],
];
