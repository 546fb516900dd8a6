import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { residentBytes } from "../../core/resident.ts";
import type { ModelSet } from "../models/set.ts";
import { addModelMetrics } from "./model_metrics.ts";

const seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const tokenSeconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1];

/** What `/metrics` shows; the names are listed in docs/http-api.md. */
export class ServerMetrics {
  private readonly registry = new Registry();
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
    seconds,
    ["model"],
  );
  readonly interToken = this.histogram(
    "psionic_inter_token_seconds",
    "Time between two tokens of an answer",
    tokenSeconds,
    ["model"],
  );
  readonly queueTime = this.histogram(
    "psionic_queue_seconds",
    "Time a generation waited for a slot",
    seconds,
    ["model"],
  );
  readonly prefillTime = this.histogram(
    "psionic_prefill_seconds",
    "Time the prompt of a generation took",
    seconds,
    ["model"],
  );
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
    ["model"],
  );

  /** `heldBytes`: of all request bodies together. */
  constructor(models: ModelSet, heldBytes: () => number) {
    this.gauge("psionic_ready", "1 when the server can answer", () => (models.status === "ready" ? 1 : 0));
    this.gauge("process_resident_memory_bytes", "Resident memory of the process", () => residentBytes());
    this.gauge("psionic_http_body_bytes", "Bytes of the bodies of requests under way", heldBytes);
    const started = Math.round(Date.now() / 1000 - process.uptime());
    this.gauge("process_start_time_seconds", "Start of the process in Unix time").set(started);
    addModelMetrics(this.registry, models);
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
