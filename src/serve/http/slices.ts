import { PsionicError } from "../../core/error.ts";
import type { Steps } from "../../core/steps.ts";
import { FairQueue } from "../engine/queue.ts";

/** What long work may take of the thread at a time, milliseconds. */
const sliceMs = 5;

type Job = {
  readonly client: string;
  readonly steps: Steps<unknown>;
  readonly signal: AbortSignal;
  readonly result: PromiseWithResolvers<unknown>;
};

/**
 * Does long work (texts of many megabytes, that is) on the thread that answers everybody without holding it: a slice of it, then
 * whatever else there is to do, then the next. Clients take turns.
 */
export class Slices {
  private readonly waiting = new FairQueue<Job>();
  private spentMs = 0;
  private timer: Timer | undefined;

  /** Work that fits what is left of the present slice is done at once. Rejects as cancelled when the signal says so. */
  run<T>(client: string, steps: Steps<T>, signal: AbortSignal): Promise<T> {
    const result = Promise.withResolvers<unknown>();
    const job: Job = { client, steps, signal, result };
    this.plan();
    if (this.waiting.size > 0 || !this.advance(job)) this.waiting.push(client, job);
    return result.promise as Promise<T>;
  }

  /** Whether the job is over; it goes on as long as the present slice lasts. */
  private advance({ steps, signal, result }: Job): boolean {
    if (signal.aborted) {
      const gone = new PsionicError("cancelled", "[slices] expected a wanted request, got an aborted one");
      result.reject(gone);
      return true;
    }
    const from = performance.now();
    const before = this.spentMs;
    try {
      while (this.spentMs < sliceMs) {
        const { done, value } = steps.next();
        this.spentMs = before + performance.now() - from;
        if (!done) continue;
        result.resolve(value);
        return true;
      }
    } catch (error) {
      result.reject(error);
      return true;
    }
    return false;
  }

  private plan(): void {
    this.timer ??= setTimeout(() => this.turn(), 0);
  }

  /** The next slice, for as many jobs as are over within it. */
  private turn(): void {
    this.timer = undefined;
    this.spentMs = 0;
    while (this.waiting.size > 0 && this.spentMs < sliceMs) {
      const job = this.waiting.take()!;
      if (!this.advance(job)) this.waiting.push(job.client, job);
    }
    if (this.waiting.size > 0) this.plan();
  }
}
