import type { GenerationSummary } from "../generation.ts";

/** Facts of one request for its log line; filled in while it is answered. */
export type RequestRecord = {
  readonly id: string;
  readonly method: string;
  /** The path that was asked for, as it came and without the query; printable, and short. */
  readonly path: string;
  /** The route's pattern; "unmatched" for paths that have none. */
  readonly route: string;
  readonly startedAt: number;
  status: number;
  /** Public name of the model that answers. */
  model?: string;
  /** Code of the error that ended it. */
  error?: string;
  stream?: boolean;
  choices?: number;
  summary?: GenerationSummary;
  finish?: string;
  ignored?: number;
  /** The field that bounds the answer, as this request spells it. Absent: `max_tokens`. */
  limitField?: string;
};

const longestPath = 256;

/** The path of a request's URL, fit for a line of a log. */
export function askedPath(url: string): string {
  const start = url.indexOf("/", url.indexOf("://") + 3);
  const path = (start < 0 ? "/" : url.slice(start)).replace(/[?#].*$/s, "");
  const plain = path.replace(/[^\x21-\x7e]/g, "?");
  return plain.length > longestPath ? `${plain.slice(0, longestPath - 3)}...` : plain;
}

/** One line for people: `POST /v1/chat/completions 200 312 ms id=… model=… prompt=64 cached=48 completion=31 …`. */
export function textLine(record: RequestRecord, durationMs: number): string {
  const { summary } = record;
  const parts = [
    `${record.method} ${record.path} ${record.status} ${durationMs.toFixed(1)} ms`,
    `id=${record.id}`,
  ];
  if (record.model !== undefined) parts.push(`model=${record.model}`);
  if (record.stream) parts.push("stream");
  if ((record.choices ?? 1) > 1) parts.push(`n=${record.choices}`);
  if (summary) {
    parts.push(`prompt=${summary.promptTokens}`, `cached=${summary.cachedTokens}`);
    parts.push(`completion=${summary.completionTokens}`);
    if (summary.firstTokenMs !== undefined) parts.push(`ttft=${summary.firstTokenMs.toFixed(1)}ms`);
    if (summary.interTokenMs !== undefined) parts.push(`itl=${summary.interTokenMs.toFixed(2)}ms`);
    if (summary.queueMs !== undefined) parts.push(`queue=${summary.queueMs.toFixed(1)}ms`);
  }
  if (record.finish) parts.push(`finish=${record.finish}`);
  if (record.ignored) parts.push(`ignored=${record.ignored}`);
  if (record.error) parts.push(`error=${record.error}`);
  return parts.join(" ");
}

/** The same facts for machines; times in milliseconds. */
export function jsonLine(record: RequestRecord, durationMs: number): string {
  const { summary } = record;
  return JSON.stringify({
    time: new Date().toISOString(),
    request_id: record.id,
    method: record.method,
    path: record.path,
    route: record.route,
    status: record.status,
    model: record.model,
    duration_ms: round(durationMs),
    stream: record.stream,
    choices: record.choices,
    prompt_tokens: summary?.promptTokens,
    cached_tokens: summary?.cachedTokens,
    completion_tokens: summary?.completionTokens,
    prefix_cache: summary?.prefixCache,
    ttft_ms: round(summary?.firstTokenMs),
    itl_ms: round(summary?.interTokenMs),
    queue_ms: round(summary?.queueMs),
    prefill_ms: round(summary?.prefillMs),
    decode_ms: round(summary?.decodeMs),
    finish: record.finish,
    ignored_fields: record.ignored,
    error: record.error,
  });
}

function round(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : Math.round(ms * 1000) / 1000;
}
