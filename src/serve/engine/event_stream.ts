import type { PsionicError } from "../../core/error.ts";
import type { GenerateEvent } from "../protocol.ts";

/** What a stream does with the engine. */
export type StreamActions = {
  /** Sends the request; throws what is wrong with it. */
  readonly open: () => void;
  /** The stream is over; `left`: nobody reads any more, so its slot is to be freed. Called once after `open`. */
  readonly close: (left: boolean) => void;
};

type Waiter = {
  readonly resolve: (result: IteratorResult<GenerateEvent, undefined>) => void;
  readonly reject: (error: unknown) => void;
};

/**
 * Events of one request on the main thread. What arrives is kept until it is read, so a slow reader delays nobody; a
 * request's `maxTokens` bounds how much that can be. Leaving the loop takes effect at once, also while a read waits.
 */
export class EventStream implements AsyncIterableIterator<GenerateEvent, undefined> {
  private readonly actions: StreamActions;
  private readonly arrived: GenerateEvent[] = [];
  private readonly waiters: Waiter[] = [];
  private error: unknown;
  private state: "new" | "open" | "ended" | "left" = "new";

  constructor(actions: StreamActions) {
    this.actions = actions;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<GenerateEvent, undefined>> {
    if (this.state === "new") {
      this.state = "open";
      try {
        this.actions.open();
      } catch (error) {
        this.fail(error);
      }
    }
    return new Promise((resolve, reject) => {
      this.waiters.push({ resolve, reject });
      this.settle();
    });
  }

  return(): Promise<IteratorResult<GenerateEvent, undefined>> {
    this.leave();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.leave();
    return Promise.resolve();
  }

  /** An event from the engine. */
  push(event: GenerateEvent): void {
    if (this.state !== "open") return;
    this.arrived.push(event);
    if (event.type === "end") this.end();
    this.settle();
  }

  /** The request, or the engine, failed; events that came before are still read first. */
  fail(error: PsionicError | unknown): void {
    if (this.state !== "open") return;
    this.error = error;
    this.end();
    this.settle();
  }

  private end(): void {
    this.state = "ended";
    this.actions.close(false);
  }

  private leave(): void {
    const wasOpen = this.state === "open";
    this.state = "left";
    this.arrived.length = 0;
    this.error = undefined;
    if (wasOpen) this.actions.close(true);
    this.settle();
  }

  private settle(): void {
    while (this.waiters.length > 0) {
      const event = this.arrived.shift();
      if (event === undefined && this.state === "open") return;
      const waiter = this.waiters.shift()!;
      if (event !== undefined) waiter.resolve({ done: false, value: event });
      else if (this.error !== undefined) {
        waiter.reject(this.error);
        this.error = undefined;
      } else waiter.resolve({ done: true, value: undefined });
    }
  }
}
