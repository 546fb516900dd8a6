import type { GenerateEvent } from "../protocol.ts";

/** The watch begins so long before a token is due: steps and timers vary by less. */
const leadMs = 1.5;
/** It ends so long after it began. */
const mostMs = 4;
/** A step that is over sooner leaves no time to fall asleep. */
const leastDueMs = 3;

/** What the watch needs of a thread's event loop; milliseconds. */
export type LoopClock = {
  now(): number;
  /** Gives what puts it off for good. */
  after(ms: number, act: () => void): () => void;
  /** Once others have had their turn. */
  soon(act: () => void): void;
};

const loopClock: LoopClock = {
  now: () => performance.now(),
  after(ms, act) {
    const timer = setTimeout(act, ms);
    return () => clearTimeout(timer);
  },
  soon: (act) => void setImmediate(act),
};

type Awaited = {
  readonly id: number;
  /** Binary logarithm of the tokens that were to be read. */
  readonly size: number;
  readonly startedAt: number;
  readonly putOff: () => void;
};

/**
 * Looks for the first token of an answer without sleeping when it is due, since a thread that slept takes some 0.2 ms to be
 * awake and longer to be fast again. It is due after what a prompt of like length took the last time.
 */
export class FirstTokenWatch {
  private readonly look: () => boolean;
  private readonly clock: LoopClock;
  /** Milliseconds from a prompt's start to its token, by `Awaited.size`. */
  private readonly lastMs = new Map<number, number>();
  private awaited: Awaited | undefined;

  /** `look` takes in what has come and says whether something had. */
  constructor(look: () => boolean, clock = loopClock) {
    this.look = look;
    this.clock = clock;
  }

  /** An event of a request; `alone`: no other runs, whose tokens keep the thread awake anyway. */
  notice(id: number, event: GenerateEvent, alone: boolean): void {
    if (event.type === "prefill") this.begin(id, event.total - event.processed, alone);
    else if (this.awaited?.id === id) this.end(event.type === "token");
  }

  failed(id: number): void {
    if (this.awaited?.id === id) this.end(false);
  }

  private begin(id: number, tokens: number, alone: boolean): void {
    if (tokens === 0 || this.awaited || !alone) return;
    const { clock } = this;
    const size = Math.floor(Math.log2(tokens));
    const startedAt = clock.now();
    const due = this.lastMs.get(size) ?? 0;
    const watch = () => this.watch(id, clock.now() + mostMs);
    const putOff = due < leastDueMs ? () => {} : clock.after(due - leadMs, watch);
    this.awaited = { id, size, startedAt, putOff };
  }

  private end(came: boolean): void {
    const { awaited, clock } = this;
    if (!awaited) return;
    awaited.putOff();
    this.awaited = undefined;
    if (came) this.lastMs.set(awaited.size, clock.now() - awaited.startedAt);
  }

  private watch(id: number, until: number): void {
    if (this.awaited?.id !== id || this.look() || this.clock.now() > until) return;
    this.clock.soon(() => this.watch(id, until));
  }
}
