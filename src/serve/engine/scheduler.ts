import { PsionicError, unexpected } from "../../core/error.ts";
import { Grammars } from "../grammar/index.ts";
import { type EngineStats, type FinishReason, type GenerateEvent, noDiskStats } from "../protocol.ts";
import { type ActiveRequest, openRequest, rootOf } from "./active_request.ts";
import { type AheadCaches, followingParts, type RunningStep } from "./ahead.ts";
import { assemble, outputCount, type Part } from "./assemble.ts";
import type { PromptLimits } from "./backend_limits.ts";
import type { Batch, GroupShape, Logits, StepExecutor } from "./batch.ts";
import { PromptBudget } from "./budget.ts";
import { choicesOf, chosenToken, largestRanking } from "./choices.ts";
import { DiskTier, type DiskTierOptions } from "./disk_tier.ts";
import { chooseStates, keptInside } from "./kept_states.ts";
import type { PromptedRequest } from "./messages.ts";
import { PagePool, pageSize } from "./pages.ts";
import type { Pool } from "./pooling.ts";
import { PrefixTree, type TreeGroup } from "./prefix_tree.ts";
import { checkPlace, FairQueue } from "./queue.ts";
import { HiddenReader, LogitReader } from "./reader.ts";
import type { Sequence } from "./sequence.ts";
import { type ShareLimits, shareLimits, stepShares } from "./shares.ts";
import { StateSlots } from "./state_slots.ts";

export type SchedulerOptions = {
  readonly executor: StepExecutor;
  readonly groups: readonly GroupShape[];
  /** Slots for states of recurrent layers, at least one for each sequence that runs; absent: the model has none. */
  readonly stateSlots?: number;
  /** Sequences that run at once. */
  readonly slots: number;
  /** Choices that may wait. */
  readonly maxQueue: number;
  readonly contextLength: number;
  /** Absent: the CPU's. */
  readonly promptLimits?: PromptLimits;
  /** Keeps the prefix cache in files, too. */
  readonly prefixDisk?: DiskTierOptions;
  readonly emit: (id: number, event: GenerateEvent) => void;
  /** Ends a request with an error instead of an `end` event. */
  readonly fail: (id: number, error: PsionicError) => void;
  /** Milliseconds; for durations in events only. */
  readonly now?: () => number;
};

/** How long a step may be put off to read a prompt's pages from files, with sequences that generate and without. */
const busyReadMs = 4;
const idleReadMs = 20;
/** How long it may be put off to look for tokens that grammars allow. */
const mostSearchMs = 4;

/**
 * Continuous batching over a paged cache: every step mixes chunks of prompts with one token of each generating
 * sequence. Which of them share a step never changes what any of them gets.
 *
 * When the pools hold fewer pages than all slots could need, a sequence may be set back: its pages go to the prefix
 * tree and it waits at the front of its line, keeping its tokens and its place in the random stream. The oldest
 * sequence is never set back and one context always fits, so there is always one that advances.
 */
export class Scheduler {
  private readonly options: SchedulerOptions;
  private readonly groups: readonly TreeGroup[];
  private readonly tree: PrefixTree;
  private readonly states: StateSlots | undefined;
  /** The prefix cache's files. */
  readonly disk: DiskTier | undefined;
  private readonly queue = new FairQueue<Sequence>();
  private readonly requests = new Map<number, ActiveRequest>();
  /** In order of admission. */
  private active: Sequence[] = [];
  /** A step that was started before the last one was read. */
  private running: RunningStep | undefined;
  private readonly caches: AheadCaches;
  private readonly budget: PromptBudget;
  private readonly now: () => number;
  /** What requests with a grammar name. */
  readonly grammars: Grammars;
  private readonly shareLimits: ShareLimits;
  /** Counts steps, so that prompts take turns at the first share. */
  private turn = 0;
  /** After a sequence was set back nobody enters until one has left. */
  private full = false;
  private prefixHits = 0;
  private prefixMisses = 0;
  private cachedPromptTokens = 0;
  private promptTokens = 0;
  private completionTokens = 0;
  private cancelled = 0;
  private steps = 0;

  constructor(options: SchedulerOptions) {
    this.options = options;
    this.budget = new PromptBudget(options.promptLimits);
    this.now = options.now ?? (() => performance.now());
    this.groups = options.groups.map(({ window, pages }) => ({ window, pool: new PagePool(pages) }));
    const { stateSlots = 0, executor } = options;
    this.states = stateSlots > 0 ? new StateSlots(stateSlots, executor) : undefined;
    this.tree = new PrefixTree(this.groups, this.states?.pool);
    const { groups, tree, states } = this;
    this.caches = { groups, tree, recurrent: states !== undefined };
    const { cacheMemory: memory } = executor;
    this.disk =
      options.prefixDisk && memory && new DiskTier(options.prefixDisk, { groups, tree, states, memory });
    this.grammars = new Grammars(executor.vocabularySize);
    // beside a state go the pages of a window before it, which are there where a step ends
    const inside = executor.keepsInside === true && groups.every(({ window }) => window === 0);
    this.shareLimits = shareLimits(executor, options.slots, states !== undefined, inside);
  }

  get idle(): boolean {
    return this.active.length === 0 && this.queue.size === 0;
  }

  stats(): Omit<EngineStats, "arenaPeakBytes" | "deviceMemoryBytes"> {
    return {
      active: this.active.length,
      queued: this.queue.size,
      pagesUsed: this.groups.reduce((n, { pool }) => n + pool.held, 0),
      pagesTotal: this.groups.reduce((n, { pool }) => n + pool.count, 0),
      prefixHits: this.prefixHits,
      prefixMisses: this.prefixMisses,
      cachedPromptTokens: this.cachedPromptTokens,
      promptTokens: this.promptTokens,
      completionTokens: this.completionTokens,
      cancelled: this.cancelled,
      steps: this.steps,
      ...(this.disk?.stats ?? noDiskStats),
    };
  }

  /** Work will come soon: an idle device is awake by then. */
  rouse(): void {
    if (this.idle) this.options.executor.rouse?.();
  }

  /** Looks, if idle, at what the cache has of a prompt that will be submitted: then it is in the processor's caches. Changes nothing. */
  expect(prompt: Int32Array, tenant?: string): void {
    const limit = Math.floor((prompt.length - 1) / pageSize);
    const match = this.idle && this.tree.match(rootOf(tenant), prompt, limit);
    if (match) this.disk?.expect(match, prompt);
  }

  /** Queues a request; throws `invalid_request`, `context_overflow` or `queue_full`. */
  submit(id: number, request: PromptedRequest): void {
    const { contextLength, executor, maxQueue } = this.options;
    const active = openRequest(
      id,
      request,
      { contextLength, vocabularySize: executor.vocabularySize, pooling: executor.pooling },
      this.now(),
      this.grammars,
    );
    // a free slot takes the first entry at the next step, so it does not count as waiting
    const soon = Math.max(0, this.options.slots - this.active.length);
    checkPlace(this.queue, active.client, { most: maxQueue, soon });
    this.requests.set(id, active);
    this.queue.push(active.client, active.sequences[0]!);
  }

  /** Ends a request, or one of its choices, before the next step. Unknown ids have ended already. */
  cancel(id: number, choice?: number): void {
    const request = this.requests.get(id);
    if (!request) return;
    if (choice === undefined) this.cancelled += 1;
    for (const sequence of request.sequences) {
      if (choice !== undefined && sequence.choice !== choice) continue;
      if (!sequence.finished) this.finish(sequence, { reason: "cancelled" });
    }
  }

  /** Ends every request with the same error. */
  failAll(error: PsionicError): void {
    for (const request of [...this.requests.values()]) this.abandon(request, error);
  }

  /**
   * Runs one step; false when there was nothing to do. `meanwhile` is called once if the device is put to work. A step
   * that fails ends its requests; one after which the device cannot go on throws.
   */
  step(meanwhile?: () => void): boolean {
    const running = this.takeRunning();
    const parts = running?.parts ?? this.nextParts();
    // with nothing to run there can still be work: the only sequence with a part may just have been set back
    if (parts.length === 0) return !this.idle;
    try {
      if (running) this.read(running, meanwhile);
      else this.work(parts, meanwhile);
    } catch (cause) {
      const error =
        cause instanceof PsionicError
          ? cause
          : new PsionicError("internal", `[engine step] expected a finished step, got ${cause}`, {}, cause);
      // a device that failed gives no further step to anybody
      if (error.code === "native_failed") throw error;
      this.running = undefined;
      for (const request of new Set(parts.map((part) => part.sequence.request))) this.abandon(request, error);
    }
    return true;
  }

  /** The step that was started already, unless nobody waits for it any more. */
  private takeRunning(): RunningStep | undefined {
    const { running } = this;
    this.running = undefined;
    return running?.parts.some(({ sequence }) => !sequence.finished) ? running : undefined;
  }

  private nextParts(): readonly Part[] {
    this.admit();
    const parts = this.plan();
    this.turn += 1;
    return parts;
  }

  private work(parts: readonly Part[], meanwhile?: () => void): void {
    const { executor } = this.options;
    this.steps += 1;
    const start = this.now();
    const batch = this.batchOf(parts);
    const step = executor.start?.(batch);
    if (step) {
      // what came before this step need not wait for the next one's start, which may be recorded first
      meanwhile?.();
      this.read({ parts, step });
    } else executor.run(batch, (logits) => this.take(parts, logits), meanwhile);
    const prompt = parts.reduce((n, { count }) => n + (count > 1 ? count : 0), 0);
    this.budget.measured(prompt, this.now() - start);
  }

  /** Takes a started step in, with the next one started before where that may be. */
  private read({ parts, step }: RunningStep, meanwhile?: () => void): void {
    this.running = this.follow(parts);
    meanwhile?.();
    this.take(parts, step.results());
  }

  private follow(running: readonly Part[]): RunningStep | undefined {
    // who waits for a free slot is to enter at the next step
    const enters = this.queue.size > 0 && this.active.length < this.options.slots && !this.full;
    const next = enters ? undefined : followingParts(running, this.active, this.caches);
    if (!next) return undefined;
    const { parts, follows } = next;
    const step = this.options.executor.start?.({ ...this.batchOf(parts, 1), follows });
    if (!step) throw unexpected("internal", "engine step", "a step like the one before it", "another");
    this.steps += 1;
    return { parts, step };
  }

  private batchOf(parts: readonly Part[], ahead = 0): Batch {
    const { states, tree, shareLimits } = this;
    const inside = states && shareLimits.keepsInside && ahead === 0;
    const stateKeeps = inside ? keptInside(parts, states, tree, this.spareStates) : [];
    const batch = { ...assemble(parts, this.groups.length, ahead), ...(inside && { stateKeeps }) };
    if (!this.options.executor.chooses) return batch;
    return { ...batch, ...choicesOf(parts, ahead, (sequence) => this.maskOf(sequence)) };
  }

  /** Words of the tokens that a grammar allows next; one that allows none ends its request. */
  private maskOf({ request, constraint }: Sequence): Int32Array | undefined {
    try {
      return constraint?.mask().words;
    } catch (error) {
      this.endByGrammar(request, error);
      return undefined;
    }
  }

  private admit(): void {
    while (this.active.length < this.options.slots) {
      if (this.full && this.active.length > 0) return;
      const sequence = this.queue.peek();
      if (!sequence) this.disk?.drop();
      if (!sequence || !this.warmed(sequence) || !this.open(sequence)) return;
      this.queue.take();
      this.active.push(sequence);
    }
  }

  /** Whether what the files have of a prompt is in the tree, as far as it can be; reads some of it otherwise. */
  private warmed({ request, choice, promptDone }: Sequence): boolean {
    const { disk } = this;
    if (!disk || choice !== 0 || promptDone || request.warmed) return true;
    if (request.cacheMode === "invalidate") disk.forget(request.tenant, request.prompt);
    if (request.cacheMode === "auto" && !request.wantsPromptLogprobs) {
      const limit = Math.floor((request.prompt.length - 1) / pageSize);
      const reserved = this.options.slots - this.active.length;
      const busy = this.active.length > 0;
      if (!disk.warm(request.tenant, request.prompt, limit, reserved, busy ? busyReadMs : idleReadMs))
        return false;
    }
    request.warmed = true;
    return true;
  }

  /** Takes over what is cached for a sequence; false, with nothing held, when its pages do not fit yet. */
  private open(sequence: Sequence): boolean {
    const { request } = sequence;
    const leads = sequence === request.sequences[0] && !sequence.promptDone;
    const lookup = !leads || (request.cacheMode === "auto" && !request.wantsPromptLogprobs);
    // the last token is always computed, for its logits
    const limit = Math.floor((sequence.length - 1) / pageSize);
    const match = lookup ? this.tree.match(request.tenant, sequence.tokens, limit) : undefined;
    sequence.open(this.groups, this.tree, match);
    const fits = this.groups.every(({ window, pool }, g) => {
      const ahead = window === 0 ? sequence.pending : Math.min(sequence.pending, pageSize);
      return sequence.missing(g, ahead) <= pool.available;
    });
    if (!fits && this.active.length > 0) {
      sequence.close(this.groups);
      return false;
    }
    if (this.states) sequence.openState(this.states, this.tree, match);
    if (this.states) chooseStates(sequence, match?.matched ?? 0, this.keeps(request));
    else sequence.branchPage = match?.matched ?? 0;
    if (leads && request.startedAt === undefined) this.begin(sequence, match?.known ?? false);
    return true;
  }

  /** Accounts for the prefix cache and reports the first progress, once per request. */
  private begin(sequence: Sequence, known: boolean): void {
    const { request } = sequence;
    request.startedAt = this.now();
    request.cachedTokens = sequence.computed;
    this.cachedPromptTokens += sequence.computed;
    if (request.cacheMode === "bypass" || (request.cacheMode === "auto" && request.wantsPromptLogprobs)) {
      request.cacheState = "bypassed";
    } else if (request.cacheMode === "invalidate") {
      request.cacheState = this.tree.invalidate(request.tenant, request.prompt) ? "rebuilt" : "miss";
    } else {
      request.cacheState = sequence.computed > 0 ? "hit" : known ? "miss" : "none";
      if (sequence.computed > 0) this.prefixHits += 1;
      else this.prefixMisses += 1;
    }
    this.report(sequence);
  }

  private report(sequence: Sequence): void {
    const { request } = sequence;
    const total = request.prompt.length;
    const processed = Math.min(sequence.computed, total);
    if (processed <= request.reported) return;
    request.reported = processed;
    this.options.emit(request.id, { type: "prefill", processed, total, cached: request.cachedTokens });
  }

  /** Divides the step: one token for every generating sequence, the prompt budget in turns over the others. */
  private plan(): Part[] {
    const { active, budget, turn } = this;
    const wanted = stepShares(active, budget, turn, this.shareLimits);
    const searchMs = mostSearchMs / Math.max(1, active.filter(({ constraint }) => constraint).length);
    const parts: Part[] = [];
    for (let i = 0; i < this.active.length; i++) {
      const sequence = this.active[i]!;
      const part = wanted.get(sequence);
      // what takes long to find is looked for between the steps of others
      if (!part || (part.outputs !== "none" && sequence.constraint?.prepare(searchMs) === false)) continue;
      if (this.makeRoom(sequence, part.count)) parts.push(part);
    }
    return parts;
  }

  /** Gets pages for a part, setting younger sequences back if it must; false when the sequence itself was set back. */
  private makeRoom(sequence: Sequence, count: number): boolean {
    while (!sequence.extend(this.groups, this.tree, count)) {
      const youngest = this.active.at(-1)!;
      if (youngest === sequence && this.active.length === 1) {
        throw unexpected(
          "internal",
          "page pools",
          "pages for one context",
          `none left at ${sequence.computed}`,
        );
      }
      this.setBack(youngest);
      if (youngest === sequence) return false;
    }
    return true;
  }

  private setBack(sequence: Sequence): void {
    this.record(sequence);
    sequence.close(this.groups, this.states);
    this.active = this.active.filter((s) => s !== sequence);
    this.queue.pushFront(sequence.request.client, sequence);
    this.full = true;
  }

  /** Takes in the results of a step. */
  private take(parts: readonly Part[], logits: Logits): void {
    const reader = new LogitReader(logits, largestRanking(parts));
    const vectors = new HiddenReader(logits);
    let row = 0;
    for (const part of parts) {
      const { sequence, count } = part;
      const states = vectors.take(part, sequence.request.pool);
      if (sequence.finished) {
        // another choice of its request failed by its grammar
        row += outputCount(part);
        continue;
      }
      const from = sequence.computed;
      sequence.advance(this.groups, count);
      const { pool } = sequence.request;
      if (pool && from === 0) pool.reset();
      if (pool && states) pool.add(states);
      if (part.outputs === "all") this.takePromptLogprobs(sequence, reader, row, from, count);
      row += outputCount(part);
      // before the state at the step's end takes its place
      if (sequence.keptInside) this.record(sequence);
      sequence.keptInside = false;
      if (this.states) this.keepState(sequence, this.states);
      const { branchPage, statePage, computed } = sequence;
      const page = computed / pageSize;
      if (page > 0 && (page === branchPage || page === statePage)) this.record(sequence);
      if (!sequence.promptDone) this.progress(sequence);
      if (pool && sequence.promptDone) this.deliver(sequence, pool);
      else if (sequence.promptDone && sequence.pending === 0) this.nextOrFail(sequence, reader, row - 1);
    }
  }

  /** At a page boundary: every answer leaves the state at its last one, so that the next turn begins there. */
  private keepState(sequence: Sequence, states: StateSlots): void {
    if (sequence.computed % pageSize !== 0 || !this.keeps(sequence.request)) return;
    sequence.keepState(states, this.tree, this.spareStates);
  }

  /** Slots that stay for sequences that may begin to run. */
  private get spareStates(): number {
    return this.options.slots - this.active.length;
  }

  private takePromptLogprobs(
    sequence: Sequence,
    reader: LogitReader,
    row: number,
    from: number,
    count: number,
  ): void {
    const { request } = sequence;
    for (let i = 0; i < count; i++) {
      const token = request.prompt[from + i + 1];
      if (token === undefined) continue;
      request.promptLogprobs[from + i] = reader.logprobs(row + i, token, request.topLogprobs ?? 0);
    }
  }

  private progress(sequence: Sequence): void {
    const { request } = sequence;
    const leads = sequence.choice === 0;
    if (leads) this.report(sequence);
    if (sequence.computed < request.prompt.length) return;
    sequence.promptDone = true;
    if (!leads) return;
    request.promptDoneAt ??= this.now();
    this.promptTokens += request.prompt.length - request.cachedTokens;
    this.record(sequence);
    if (request.wantsPromptLogprobs) {
      this.options.emit(request.id, { type: "promptLogprobs", tokens: request.promptLogprobs });
    }
    this.queueFollowers(request);
  }

  private queueFollowers(request: ActiveRequest): void {
    if (request.followersQueued) return;
    request.followersQueued = true;
    for (const sequence of request.sequences.slice(1).reverse()) {
      if (!sequence.finished) this.queue.pushFront(request.client, sequence);
    }
  }

  /** Chooses and delivers the next token of a sequence whose tokens are all computed. */
  private next(sequence: Sequence, reader: LogitReader, row: number): void {
    const { request, choice } = sequence;
    if (sequence.length >= request.limit) {
      this.finish(sequence, this.limitReached(request));
      return;
    }
    const { constraint } = sequence;
    const token = chosenToken(sequence, reader, row);
    request.completionTokens += 1;
    this.completionTokens += 1;
    if (request.stopTokens.has(token)) {
      this.finish(sequence, { reason: "stop", stopToken: token });
      return;
    }
    sequence.push(token);
    constraint?.accept(token);
    const event = { type: "token", choice, token } as const;
    if (request.topLogprobs === undefined) this.options.emit(request.id, event);
    else {
      const { logprob, top } = reader.logprobs(row, token, request.topLogprobs);
      this.options.emit(request.id, { ...event, logprob, top });
    }
    if (constraint?.ended) this.finish(sequence, { reason: "stop" });
    else if (sequence.length >= request.limit) this.finish(sequence, this.limitReached(request));
  }

  /** The vector of a request whose prompt has been read. */
  private deliver(sequence: Sequence, pool: Pool): void {
    const { buffer } = pool.result();
    const base64 = Buffer.from(buffer).toString("base64");
    this.options.emit(sequence.request.id, { type: "embedding", base64 });
    this.finish(sequence, { reason: "length" });
  }

  /** `next`, whose failures by the request's own grammar end that request alone. */
  private nextOrFail(sequence: Sequence, reader: LogitReader, row: number): void {
    try {
      this.next(sequence, reader, row);
    } catch (error) {
      this.endByGrammar(sequence.request, error);
    }
  }

  private endByGrammar(request: ActiveRequest, error: unknown): void {
    if (!(error instanceof PsionicError && error.details.grammar)) throw error;
    this.abandon(request, error);
  }

  private limitReached(request: ActiveRequest): Ending {
    return request.endsWithContext ? { reason: "length", contextFull: true } : { reason: "length" };
  }

  /** Whether what a request computes may be used again: a bypassing one shares with its own choices only. */
  private keeps({ cacheMode, sequences }: ActiveRequest): boolean {
    return cacheMode !== "bypass" || sequences.length > 1;
  }

  /** Enters what a sequence has computed into the prefix tree, with the windows before its end and the state it kept. */
  private record(sequence: Sequence): void {
    if (this.keeps(sequence.request)) sequence.record(this.tree, this.states);
  }

  private keepOnDisk({ request, tokens, computed }: Sequence): void {
    if (request.cacheMode !== "bypass")
      this.disk?.save(request.tenant, tokens, Math.floor(computed / pageSize));
  }

  private finish(sequence: Sequence, ending: Ending): void {
    const { request, choice } = sequence;
    sequence.finished = true;
    this.leave(sequence);
    this.options.emit(request.id, { type: "done", choice, ...ending });
    if (choice === 0 && ending.reason === "cancelled") this.queueFollowers(request);
    if (request.sequences.every((s) => s.finished)) this.end(request);
  }

  /** Takes a sequence out of the slots or the queue; what it computed stays cached. */
  private leave(sequence: Sequence): void {
    if (this.active.includes(sequence)) {
      this.record(sequence);
      this.keepOnDisk(sequence);
      sequence.close(this.groups, this.states);
      this.active = this.active.filter((s) => s !== sequence);
      this.full = false;
    } else {
      this.queue.remove((s) => s === sequence);
    }
  }

  private end(request: ActiveRequest): void {
    const now = this.now();
    const started = request.startedAt ?? now;
    const promptDone = request.promptDoneAt ?? now;
    this.forget(request);
    this.options.emit(request.id, {
      type: "end",
      promptTokens: request.prompt.length,
      cachedTokens: request.cachedTokens,
      completionTokens: request.completionTokens,
      queueMs: started - request.queuedAt,
      prefillMs: Math.max(0, promptDone - started),
      decodeMs: Math.max(0, now - promptDone),
      prefixCache: request.cacheState,
    });
  }

  /** Ends a request with an error. Its last step may be half written, so nothing of it is recorded. */
  private abandon(request: ActiveRequest, error: PsionicError): void {
    if (!this.requests.has(request.id)) return;
    for (const sequence of request.sequences) {
      sequence.finished = true;
      if (this.active.includes(sequence)) sequence.close(this.groups, this.states);
    }
    this.active = this.active.filter((s) => s.request !== request);
    this.queue.remove((s) => s.request === request);
    this.full = false;
    this.forget(request);
    this.options.fail(request.id, error);
  }

  private forget(request: ActiveRequest): void {
    this.requests.delete(request.id);
    if (request.cacheMode === "bypass") this.tree.dropTenant(request.tenant);
  }
}

type Ending = {
  readonly reason: FinishReason;
  readonly stopToken?: number;
  readonly contextFull?: boolean;
};
