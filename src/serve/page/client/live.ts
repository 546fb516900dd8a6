import { ApiError, getJson } from "./api.ts";

export type Sample = {
  readonly at_ms: number;
  readonly completion_tokens_per_second: number;
  readonly prompt_tokens_per_second: number;
  readonly active: number;
  readonly queued: number;
  readonly cache_pages_used: number;
  readonly resident_bytes: number;
};

export type LoggedRequest = {
  readonly request_id: string;
  readonly method: string;
  readonly path: string;
  readonly route: string;
  readonly model?: string | null;
  readonly started_at_ms: number;
  readonly state: "running" | "done";
  readonly status: number | null;
  readonly duration_ms: number | null;
  readonly prompt_tokens: number | null;
  readonly cached_tokens: number | null;
  readonly completion_tokens: number | null;
  readonly queue_ms: number | null;
  readonly prefill_ms: number | null;
  readonly ttft_ms: number | null;
  readonly itl_ms: number | null;
  readonly finish: string | null;
  readonly error: string | null;
};

export type Load = {
  readonly completion_tokens_per_second: number | null;
  readonly prompt_tokens_per_second: number | null;
  readonly active: number;
  readonly queued: number;
  readonly slots: number;
  readonly max_queued: number;
  readonly prefix_cache: {
    readonly hits: number;
    readonly misses: number;
    readonly hit_rate: number | null;
    readonly cached_prompt_tokens: number;
    readonly cached_share: number | null;
  };
  readonly memory: {
    readonly resident_bytes: number;
    readonly device_bytes: number;
    readonly planned_weight_bytes: number;
    readonly planned_cache_bytes: number;
    readonly planned_workspace_bytes: number;
    readonly cache_pages_used: number;
    readonly cache_pages: number;
  };
};

type Activity = {
  readonly cursor: number;
  readonly sample_interval_ms: number;
  readonly samples: readonly Sample[];
  readonly requests: readonly LoggedRequest[];
  readonly load: Load;
};

/** What is known of the server's load; `samples` and `requests` oldest first. */
export type LiveState = {
  readonly load: Load;
  readonly samples: readonly Sample[];
  readonly requests: readonly LoggedRequest[];
};

export type LiveOptions = {
  readonly onState: (state: LiveState) => void;
  /** The server answers again, or no longer; `error` says why not. */
  readonly onReach: (error: ApiError | undefined) => void;
};

const keptSamples = 300;
const keptRequests = 100;
const intervalMs = 1000;

/** Asks the server every second for what has changed, while the page is seen. */
export class Live {
  private readonly options: LiveOptions;
  private cursor = 0;
  private samples: Sample[] = [];
  private readonly requests = new Map<string, LoggedRequest>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private asking = false;
  private reached: boolean | undefined;

  constructor(options: LiveOptions) {
    this.options = options;
    document.addEventListener("visibilitychange", () => this.ask());
  }

  /** Asks now, and from then on every second. */
  ask(): void {
    clearTimeout(this.timer);
    if (document.hidden || this.asking) return;
    this.asking = true;
    void this.once().then((again) => {
      this.asking = false;
      if (again) this.timer = setTimeout(() => this.ask(), intervalMs);
    });
  }

  /** False when there is no use in asking again: a key is wanted. */
  private async once(): Promise<boolean> {
    try {
      const news = (await getJson(`psionic/management/activity?after=${this.cursor}`)) as Activity;
      // a server that was started anew counts from the beginning
      if (news.cursor < this.cursor) {
        this.cursor = 0;
        this.samples = [];
        this.requests.clear();
        return true;
      }
      this.cursor = news.cursor;
      this.take(news);
      if (this.reached !== true) this.options.onReach(undefined);
      this.reached = true;
      return true;
    } catch (thrown) {
      const error = thrown instanceof ApiError ? thrown : new ApiError(0, String(thrown));
      if (this.reached !== false || error.status === 401) this.options.onReach(error);
      this.reached = false;
      return error.status !== 401;
    }
  }

  private take({ samples, requests, load }: Activity): void {
    this.samples = [...this.samples, ...samples].slice(-keptSamples);
    for (const request of requests) this.requests.set(request.request_id, request);
    for (const id of this.requests.keys()) {
      if (this.requests.size <= keptRequests) break;
      this.requests.delete(id);
    }
    this.options.onState({ load, samples: this.samples, requests: [...this.requests.values()] });
  }
}
