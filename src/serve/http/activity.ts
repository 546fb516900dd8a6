import { residentBytes } from "../../core/resident.ts";
import { type Engine, type EngineStats, noDiskStats } from "../protocol.ts";
import { CLIENT_GONE } from "./errors.ts";
import type { RequestRecord } from "./request_log.ts";

/** Figures of one moment; rates are means since the sample before it. */
export type Sample = {
  readonly seq: number;
  readonly at_ms: number;
  readonly completion_tokens_per_second: number;
  readonly prompt_tokens_per_second: number;
  readonly active: number;
  readonly queued: number;
  readonly cache_pages_used: number;
  readonly resident_bytes: number;
};

/** One request as the log of `/psionic/management/activity` shows it; times in milliseconds. */
export type RequestEntry = {
  readonly seq: number;
  readonly request_id: string;
  readonly method: string;
  /** The path that was asked for. */
  readonly path: string;
  readonly route: string;
  readonly model: string | null;
  readonly started_at_ms: number;
  readonly state: "running" | "done";
  readonly stream: boolean | null;
  /** Null while it runs, as everything below that is not known yet. */
  readonly status: number | null;
  readonly duration_ms: number | null;
  readonly prompt_tokens: number | null;
  readonly cached_tokens: number | null;
  readonly completion_tokens: number | null;
  readonly queue_ms: number | null;
  readonly prefill_ms: number | null;
  readonly ttft_ms: number | null;
  readonly itl_ms: number | null;
  readonly decode_ms: number | null;
  readonly finish: string | null;
  readonly error: string | null;
};

/** Five minutes of one sample a second, and the last requests. */
const keptSamples = 300;
const keptRequests = 100;
export const sampleIntervalMs = 1000;

/** Requests of those who watch would push out what they watch. */
const watching =
  /^(\/|\/v1\/(health|metrics|props|models(\/:id)?|psionic\/management\/(status|events|activity)))$/;

/** What the server has been doing lately: samples of its load, and a bounded log of requests. */
export class Activity {
  private readonly engines: () => readonly Engine[];
  private readonly samples: Sample[] = [];
  private readonly entries = new Map<string, RequestEntry>();
  private readonly timer: ReturnType<typeof setInterval>;
  private seq = 0;
  private last: { readonly at: number; readonly generated: number; readonly read: number };

  constructor(engines: () => readonly Engine[]) {
    this.engines = engines;
    this.last = { at: performance.now(), generated: 0, read: 0 };
    this.timer = setInterval(() => this.sample(), sampleIntervalMs);
    this.timer.unref();
  }

  close(): void {
    clearInterval(this.timer);
  }

  /** Takes one sample; called by the timer. */
  sample(): void {
    const stats = summedStats(this.engines());
    const now = performance.now();
    const seconds = Math.max(1e-3, (now - this.last.at) / 1000);
    // the sum falls when a model is unloaded
    const rate = (count: number, before: number) =>
      Math.round((Math.max(0, count - before) / seconds) * 100) / 100;
    this.samples.push({
      seq: ++this.seq,
      at_ms: Date.now(),
      completion_tokens_per_second: rate(stats.completionTokens, this.last.generated),
      prompt_tokens_per_second: rate(stats.promptTokens, this.last.read),
      active: stats.active,
      queued: stats.queued,
      cache_pages_used: stats.pagesUsed,
      resident_bytes: residentBytes(),
    });
    this.last = { at: now, generated: stats.completionTokens, read: stats.promptTokens };
    if (this.samples.length > keptSamples) this.samples.shift();
  }

  /** A request has come in. */
  begin(record: RequestRecord): void {
    if (record.method === "POST" && !watching.test(record.route)) this.keep(record, undefined);
  }

  /** It has been answered. */
  end(record: RequestRecord, durationMs: number): void {
    const asked = this.entries.has(record.id);
    // whoever watches and leaves has failed at nothing
    const failed = record.status >= 400 && record.status !== CLIENT_GONE && record.route !== "/v1/health";
    const changes = !["GET", "HEAD", "OPTIONS"].includes(record.method);
    if (asked || failed || (changes && !watching.test(record.route))) this.keep(record, durationMs);
  }

  /** What has changed since `after`, a cursor of an earlier answer; 0 for all that is kept. */
  since(after: number) {
    const news = <T extends { readonly seq: number }>(all: Iterable<T>) =>
      [...all].filter(({ seq }) => seq > after);
    return {
      cursor: this.seq,
      sample_interval_ms: sampleIntervalMs,
      samples: news(this.samples),
      requests: news(this.entries.values()),
      load: this.load(),
    };
  }

  /** The present load; rates are of the last sample and null before there is one. */
  load() {
    const engines = this.engines();
    const stats = summedStats(engines);
    const sample = this.samples.at(-1);
    const asked = stats.prefixHits + stats.prefixMisses;
    const read = stats.promptTokens + stats.cachedPromptTokens;
    const total = (of: (engine: Engine) => number) => engines.reduce((n, engine) => n + of(engine), 0);
    return {
      sampled_at_ms: sample?.at_ms ?? null,
      completion_tokens_per_second: sample?.completion_tokens_per_second ?? null,
      prompt_tokens_per_second: sample?.prompt_tokens_per_second ?? null,
      active: stats.active,
      queued: stats.queued,
      slots: total(({ info }) => info.slots),
      max_queued: total(({ info }) => info.maxQueue),
      prefix_cache: {
        hits: stats.prefixHits,
        misses: stats.prefixMisses,
        hit_rate: asked === 0 ? null : stats.prefixHits / asked,
        cached_prompt_tokens: stats.cachedPromptTokens,
        cached_share: read === 0 ? null : stats.cachedPromptTokens / read,
        disk_hits: stats.diskHits,
        disk_cached_tokens: stats.diskCachedTokens,
      },
      memory: {
        resident_bytes: residentBytes(),
        device_bytes: stats.deviceMemoryBytes,
        planned_weight_bytes: total(({ info }) => info.memory.weightBytes),
        planned_cache_bytes: total(({ info }) => info.memory.cacheBytes),
        planned_workspace_bytes: total(({ info }) => info.memory.workspaceBytes),
        planned_process_bytes: engines[0]?.info.memory.processBytes ?? 0,
        cache_pages_used: stats.pagesUsed,
        cache_pages: stats.pagesTotal,
      },
    };
  }

  private keep(record: RequestRecord, durationMs: number | undefined): void {
    const known = this.entries.get(record.id);
    const startedAtMs = known?.started_at_ms ?? Date.now() - Math.round(durationMs ?? 0);
    this.entries.set(record.id, entryOf(record, ++this.seq, startedAtMs, durationMs));
    if (this.entries.size <= keptRequests) return;
    // with a hundred running, the log grows by those that run: their number is bounded by slots and queue
    for (const { state, request_id } of this.entries.values()) {
      if (state !== "done") continue;
      this.entries.delete(request_id);
      break;
    }
  }
}

function entryOf(
  record: RequestRecord,
  seq: number,
  startedAtMs: number,
  durationMs: number | undefined,
): RequestEntry {
  const { summary } = record;
  return {
    seq,
    request_id: record.id,
    method: record.method,
    path: record.path,
    route: record.route,
    model: record.model ?? null,
    started_at_ms: startedAtMs,
    state: durationMs === undefined ? "running" : "done",
    stream: record.stream ?? null,
    status: durationMs === undefined ? null : record.status,
    duration_ms: rounded(durationMs),
    prompt_tokens: summary?.promptTokens ?? null,
    cached_tokens: summary?.cachedTokens ?? null,
    completion_tokens: summary?.completionTokens ?? null,
    queue_ms: rounded(summary?.queueMs),
    prefill_ms: rounded(summary?.prefillMs),
    ttft_ms: rounded(summary?.firstTokenMs),
    itl_ms: rounded(summary?.interTokenMs),
    decode_ms: rounded(summary?.decodeMs),
    finish: record.finish ?? null,
    error: record.error ?? null,
  };
}

function rounded(ms: number | undefined): number | null {
  return ms === undefined ? null : Math.round(ms * 100) / 100;
}

const noStats: EngineStats = {
  ...{ active: 0, queued: 0, pagesUsed: 0, pagesTotal: 0, prefixHits: 0, prefixMisses: 0 },
  ...{ cachedPromptTokens: 0, promptTokens: 0, completionTokens: 0, cancelled: 0, steps: 0 },
  ...{ arenaPeakBytes: 0, deviceMemoryBytes: 0 },
  ...noDiskStats,
};

/** Counts of several engines as one. */
export function summedStats(engines: readonly Engine[]): EngineStats {
  return engines
    .map((engine) => engine.stats())
    .reduce(
      (a, b) => ({
        active: a.active + b.active,
        queued: a.queued + b.queued,
        pagesUsed: a.pagesUsed + b.pagesUsed,
        pagesTotal: a.pagesTotal + b.pagesTotal,
        prefixHits: a.prefixHits + b.prefixHits,
        prefixMisses: a.prefixMisses + b.prefixMisses,
        cachedPromptTokens: a.cachedPromptTokens + b.cachedPromptTokens,
        promptTokens: a.promptTokens + b.promptTokens,
        completionTokens: a.completionTokens + b.completionTokens,
        cancelled: a.cancelled + b.cancelled,
        steps: a.steps + b.steps,
        arenaPeakBytes: a.arenaPeakBytes + b.arenaPeakBytes,
        // of the whole device, whoever asks
        deviceMemoryBytes: Math.max(a.deviceMemoryBytes, b.deviceMemoryBytes),
        diskHits: a.diskHits + b.diskHits,
        diskCachedTokens: a.diskCachedTokens + b.diskCachedTokens,
        diskReadBytes: a.diskReadBytes + b.diskReadBytes,
        diskWrittenBytes: a.diskWrittenBytes + b.diskWrittenBytes,
        // all models share a folder
        diskStoredBytes: Math.max(a.diskStoredBytes, b.diskStoredBytes),
        diskRejected: a.diskRejected + b.diskRejected,
        diskFailures: a.diskFailures + b.diskFailures,
      }),
      noStats,
    );
}
