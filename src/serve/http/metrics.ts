import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Engine, EngineStats } from "../protocol.ts";

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const tokenSeconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1];

/** What `/metrics` shows; the names are listed in docs/http-api.md. */
export class ServerMetrics {
  private readonly registry = new Registry();
  private engine: Engine | undefined;
  readonly requests = this.counter("psionic_http_requests_total", "Finished HTTP requests", [
    "route",
    "method",
    "status",
  ]);
  readonly inFlight = this.gauge("psionic_http_requests_in_flight", "HTTP requests being answered");
  readonly duration = this.histogram(
    "psionic_http_request_duration_seconds",
    "Time from the request to the end of its answer",
    seconds,
    ["route"],
  );
  readonly firstToken = this.histogram(
    "psionic_time_to_first_token_seconds",
    "Time from the start of a generation to its first token, waiting included",
  );
  readonly interToken = this.histogram(
    "psionic_inter_token_seconds",
    "Time between two tokens of an answer",
    tokenSeconds,
  );
  readonly queueTime = this.histogram("psionic_queue_seconds", "Time a generation waited for a slot");
  readonly prefillTime = this.histogram("psionic_prefill_seconds", "Time the prompt of a generation took");
  readonly clientsGone = this.counter(
    "psionic_clients_gone_total",
    "Requests whose client left before the end of the answer",
  );
  readonly ignoredFields = this.counter(
    "psionic_ignored_fields_total",
    "Fields of request bodies that nobody here knows",
  );
  readonly unparsedTokens = this.counter(
    "psionic_unparsed_tokens_total",
    "Generated tokens that fitted no rule of the chat format and became content",
  );

  constructor() {
    this.gauge("psionic_ready", "1 when a model is loaded", () => (this.engine ? 1 : 0));
    this.gauge("process_resident_memory_bytes", "Resident memory of the process", () =>
      process.memoryUsage.rss(),
    );
    const started = Math.round(Date.now() / 1000 - process.uptime());
    this.gauge("process_start_time_seconds", "Start of the process in Unix time").set(started);
  }

  /** From now on the engine's own counts are shown too. */
  attach(engine: Engine): void {
    this.engine = engine;
    const { registry } = this;
    for (const [name, help, of] of engineGauges) this.gauge(name, help, () => of(engine.stats()));
    for (const [name, help, of] of engineCounters) {
      const collect = function (this: Counter): void {
        this.reset();
        this.inc(of(engine.stats()));
      };
      new Counter({ name, help, registers: [registry], collect });
    }
    new Gauge({
      name: "psionic_model_info",
      help: "The loaded model and what runs it, as labels",
      labelNames: ["name", "digest", "quantization", "backend", "plan_digest"],
      registers: [registry],
      // a large file's digest becomes known while it is served
      collect() {
        const { model, backend, planDigest } = engine.info;
        const { name, digest, quantization } = model;
        this.reset();
        this.set(
          {
            ...{ name, digest: digest ?? "pending", quantization },
            ...{ backend: backend.backend, plan_digest: planDigest },
          },
          1,
        );
      },
    });
  }

  private counter<L extends string>(name: string, help: string, labelNames: readonly L[] = []): Counter<L> {
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }

  /** `value`: read whenever the metrics are. */
  private gauge(name: string, help: string, value?: () => number): Gauge {
    const collect = value && { collect: gauge(value) };
    return new Gauge({ name, help, registers: [this.registry], ...collect });
  }

  private histogram<L extends string>(
    name: string,
    help: string,
    buckets: number[] = seconds,
    labelNames: readonly L[] = [],
  ): Histogram<L> {
    return new Histogram({ name, help, labelNames, buckets, registers: [this.registry] });
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  text(): Promise<string> {
    return this.registry.metrics();
  }
}

function gauge(value: () => number) {
  return function (this: Gauge): void {
    this.set(value());
  };
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
];

const engineCounters: readonly Row[] = [
  ["psionic_prompt_tokens_total", "Prompt tokens computed", (s) => s.promptTokens],
  ["psionic_prompt_tokens_cached_total", "Prompt tokens from the prefix cache", (s) => s.cachedPromptTokens],
  ["psionic_completion_tokens_total", "Tokens generated", (s) => s.completionTokens],
  ["psionic_prefix_cache_hits_total", "Requests that reused a cached prefix", (s) => s.prefixHits],
  ["psionic_prefix_cache_misses_total", "Requests that found no cached prefix", (s) => s.prefixMisses],
  ["psionic_generations_cancelled_total", "Generations cancelled before their end", (s) => s.cancelled],
  ["psionic_engine_steps_total", "Steps of the engine", (s) => s.steps],
];
