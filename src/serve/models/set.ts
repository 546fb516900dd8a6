import { PsionicError, unexpected } from "../../core/error.ts";
import { availableMemory } from "../engine/index.ts";
import type { ServedModel } from "../http/options.ts";
import { Entry } from "./entry.ts";
import { findNamed } from "./names.ts";
import { isUnused, refusalFor } from "./refusal.ts";
import type { ModelRow, ModelSource } from "./source.ts";

export type ModelSetOptions = {
  /** Loaded at once; the server is ready when this has ended. Absent: everything waits for its first request. */
  readonly preload?: ModelSource;
  /** An unused model is unloaded after so long, milliseconds. Absent: only when another one needs its memory. */
  readonly idleUnloadMs?: number;
  /** Host memory for all models together, bytes. Default: what this process may take now. */
  readonly memoryBytes?: number;
  /** A model whose engine has failed is loaded again for the next request. Default true. */
  readonly revive?: boolean;
};

/** What happened to a model, for those who count and log. */
export type ModelSetEvent =
  | { readonly type: "loading"; readonly name: string }
  | { readonly type: "loaded"; readonly name: string; readonly served: ServedModel; readonly loadMs: number }
  | {
      readonly type: "unloaded";
      readonly name: string;
      readonly served: ServedModel;
      readonly reason: UnloadReason;
    }
  | { readonly type: "failed"; readonly name: string; readonly error: unknown };

export type UnloadReason = "idle" | "memory" | "failed" | "closing";

/** A model that stays loaded until it is given back. */
export type TakenModel = {
  readonly served: ServedModel;
  /** As the request spells it, else the public name. */
  readonly name: string;
  /** May be called more than once. */
  readonly release: () => void;
};

/**
 * The models of a server. One is loaded when a request names it, by one load however many requests wait; loads and
 * unloads happen one after the other, so that each sees what memory the last one left. A request holds its model from
 * the moment it names it, and what is held is never unloaded.
 */
export class ModelSet {
  /** Resolves when the server can answer; rejects when the model that it begins with cannot be loaded. */
  readonly ready: Promise<ServedModel | undefined>;
  private readonly entries: readonly Entry[];
  private readonly first: Entry;
  private readonly options: ModelSetOptions;
  private readonly memoryBytes: number;
  private readonly listeners = new Set<(event: ModelSetEvent) => void>();
  /** Ends when everything that was asked for so far is done. */
  private tail: Promise<unknown> = Promise.resolve();
  private start: "loading" | "ready" | "failed";
  private uses = 0;
  private closed = false;

  constructor(sources: readonly ModelSource[], options: ModelSetOptions = {}) {
    const { preload } = options;
    this.options = options;
    this.memoryBytes = options.memoryBytes ?? availableMemory();
    this.entries = sources.map((source) => new Entry(source));
    const first = this.entries.find(({ source }) => source === preload) ?? this.entries[0];
    if (!first) throw unexpected("invalid_argument", "models", "at least one", "none");
    this.first = first;
    this.start = preload ? "loading" : "ready";
    this.ready = preload ? this.loaded(first) : Promise.resolve(undefined);
    this.ready.then(
      () => {
        this.start = "ready";
        if (first.requests === 0) this.rest(first);
      },
      () => {
        this.start = "failed";
      },
    );
  }

  /** A set of one model that somebody else loads and closes. */
  static of(model: ServedModel | Promise<ServedModel>): ModelSet {
    const source: ModelSource = { name: "", aliases: [], open: () => Promise.resolve(model) };
    return new ModelSet([source], { preload: source, memoryBytes: Infinity, revive: false });
  }

  /** How the model that the server begins with has fared. */
  get status(): "loading" | "ready" | "failed" {
    return this.start;
  }

  /** What a request without a name means. */
  get default(): ModelRow {
    return this.first.row(true);
  }

  get rows(): readonly ModelRow[] {
    return this.entries.map((entry) => entry.row(entry === this.first));
  }

  /** A request is on its way: the engine wakes up where it can only be that one's, and has a device of its own to compute on. */
  expect(): void {
    const [only, ...others] = this.entries.flatMap(({ served }) => served?.engine ?? []);
    if (others.length === 0 && only?.info.device) only.expect?.();
  }

  /** The model of a name; undefined when there is none. */
  find(asked: string): ModelRow | undefined {
    const entry = findNamed(this.entries, asked);
    return entry?.row(entry === this.first);
  }

  listen(listener: (event: ModelSetEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /**
   * The named model, loaded if it has to be; undefined when there is none of this name. Rejects with what loading ended
   * in: `admission_refused` with the numbers when memory does not suffice. Aborting the signal ends the wait, not the load.
   */
  async take(asked: string | null | undefined, signal?: AbortSignal): Promise<TakenModel | undefined> {
    const entry = asked ? findNamed(this.entries, asked) : this.first;
    if (!entry) return undefined;
    clearTimeout(entry.timer);
    entry.requests += 1;
    let held = true;
    const release = (): void => {
      if (held) this.release(entry);
      held = false;
    };
    try {
      const served = await unlessAborted(this.loaded(entry), signal);
      return { served, name: asked || entry.name, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Unloads everything; waits for what runs, or ends it when `force`. */
  async close(force = false): Promise<void> {
    this.closed = true;
    for (const entry of this.entries) clearTimeout(entry.timer);
    await this.tail;
    await Promise.all(this.entries.map((entry) => this.unload(entry, "closing", force)));
  }

  private release(entry: Entry): void {
    entry.requests -= 1;
    entry.used = ++this.uses;
    entry.lastUsedMs = Date.now();
    if (entry.requests === 0) this.rest(entry);
  }

  /** From now on the entry is unused: the clock runs. */
  private rest(entry: Entry): void {
    const { idleUnloadMs } = this.options;
    clearTimeout(entry.timer);
    if (idleUnloadMs === undefined || this.closed) return;
    entry.timer = setTimeout(() => {
      void this.inTurn(async () => {
        if (entry.requests === 0) await this.unload(entry, "idle");
      });
    }, idleUnloadMs);
    entry.timer.unref?.();
  }

  private loaded(entry: Entry): Promise<ServedModel> {
    const { served } = entry;
    const dead = served?.engine.failure !== undefined && this.options.revive !== false;
    if (served && !dead) return Promise.resolve(served);
    if (this.closed)
      return Promise.reject(unexpected("cancelled", "models", "a server that runs", "one that stops"));
    entry.loading ??= this.inTurn(() => this.load(entry)).finally(() => {
      entry.loading = undefined;
    });
    return entry.loading;
  }

  /** Runs when all that was asked for before has ended. */
  private inTurn<T>(act: () => Promise<T>): Promise<T> {
    const result = this.tail.then(act);
    this.tail = result.catch(() => {});
    return result;
  }

  private async load(entry: Entry): Promise<ServedModel> {
    const start = performance.now();
    if (entry.served) await this.unload(entry, "failed", true);
    entry.state = "loading";
    this.tell({ type: "loading", name: entry.name });
    try {
      const served = await this.open(entry);
      entry.arrived(served);
      this.tell({ type: "loaded", name: entry.name, served, loadMs: performance.now() - start });
      // whoever asked for it may have left
      if (entry.requests === 0) this.rest(entry);
      return served;
    } catch (error) {
      entry.state = "failed";
      // messages have paths of this machine
      entry.error = error instanceof PsionicError ? error.code : "internal";
      this.tell({ type: "failed", name: entry.name, error });
      throw error;
    }
  }

  /**
   * Opens the model in the memory there is; where that is too little, unused ones make room, the longest unused first.
   * None is unloaded for a model that would not fit beside what is held either.
   */
  private async open(entry: Entry): Promise<ServedModel> {
    for (;;) {
      const others = this.entries.filter((other) => other !== entry && other.served);
      const taken = others.reduce((sum, { hostBytes }) => sum + hostBytes, 0);
      try {
        return await entry.source.open({
          memoryBytes: Math.max(0, this.memoryBytes - taken),
          shared: this.entries.length > 1,
          whole: others.length > 0,
        });
      } catch (error) {
        if (!(error instanceof PsionicError) || error.code !== "admission_refused") throw error;
        const refusal = refusalFor(entry, others, error);
        if (refusal) throw refusal;
        const [unused] = others.filter(isUnused).sort((a, b) => a.used - b.used);
        await this.unload(unused!, "memory");
      }
    }
  }

  private async unload(entry: Entry, reason: UnloadReason, force = false): Promise<void> {
    const { served } = entry;
    if (!served) return;
    clearTimeout(entry.timer);
    // whoever comes from here on waits for a new load
    entry.served = undefined;
    entry.state = "unloading";
    await served.engine.close(force);
    served.release?.();
    entry.state = "unloaded";
    this.tell({ type: "unloaded", name: entry.name, served, reason });
  }

  private tell(event: ModelSetEvent): void {
    for (const listener of this.listeners) listener(event);
  }
}

/** The promise's result, or the signal's reason as soon as it is aborted. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  const { promise: result, resolve, reject } = Promise.withResolvers<T>();
  const left = (): void =>
    reject(unexpected("cancelled", "model", "a client that waits", "one that has gone"));
  if (signal.aborted) left();
  signal.addEventListener("abort", left, { once: true });
  promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", left));
  return result;
}
