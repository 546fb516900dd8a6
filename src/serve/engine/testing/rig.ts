/** A scheduler over a double, with what scheduler tests ask and read. */
import { expect } from "bun:test";
import type { PsionicError } from "../../../core/error.ts";
import type { ConstraintSource } from "../../grammar/index.ts";
import type { GenerateEvent, GenerateRequest } from "../../protocol.ts";
import { Random } from "../random.ts";
import { Scheduler } from "../scheduler.ts";
import { AheadDouble } from "./ahead_double.ts";
import { PagedDouble } from "./paged_double.ts";

export const vocabularySize = 61;

export type Setup = {
  slots?: number;
  context?: number;
  maxQueue?: number;
  pages?: number;
  slidingPages?: number;
  window?: number;
  /** No layer with full attention. */
  slidingOnly?: boolean;
  /** Slots for recurrent states, in a model whose other layers all have full attention. */
  stateSlots?: number;
  /** On a device that chooses tokens and is given steps before the last one was read. */
  ahead?: boolean;
};

export class Rig {
  readonly double: PagedDouble;
  readonly scheduler: Scheduler;
  readonly events = new Map<number, GenerateEvent[]>();
  readonly errors = new Map<number, PsionicError>();
  private next = 1;

  constructor({
    slots = 4,
    context = 512,
    maxQueue = 512,
    pages,
    slidingPages,
    window = 40,
    slidingOnly,
    stateSlots = 0,
    ahead = false,
  }: Setup = {}) {
    const full = { window: 0, pages: pages ?? (slots * context) / 32 };
    const sliding = { window, pages: slidingPages ?? slots * 8 + 24 };
    const groups = slidingOnly ? [sliding] : stateSlots > 0 ? [full] : [full, sliding];
    this.double = new (ahead ? AheadDouble : PagedDouble)(vocabularySize, groups, stateSlots);
    this.scheduler = new Scheduler({
      executor: this.double,
      groups,
      stateSlots,
      slots,
      maxQueue,
      contextLength: context,
      emit: (id, event) => this.events.get(id)!.push(event),
      fail: (id, error) => this.errors.set(id, error),
    });
  }

  submit(request: GenerateRequest, constraint?: ConstraintSource): number {
    const id = this.next++;
    this.events.set(id, []);
    const { constraint: _, ...rest } = request;
    this.scheduler.submit(id, { ...rest, ...(constraint && { constraint }) });
    return id;
  }

  drain(): void {
    for (let i = 0; this.scheduler.step(); i++)
      if (i > 100_000) throw new Error("the scheduler does not come to an end");
    expect(this.scheduler.idle).toBe(true);
    expect(this.scheduler.stats().pagesUsed).toBe(0);
  }

  run(request: GenerateRequest): GenerateEvent[] {
    const id = this.submit(request);
    this.drain();
    return this.events.get(id)!;
  }
}

export function request(prompt: readonly number[], more: Partial<GenerateRequest> = {}): GenerateRequest {
  return { prompt, sampling: {}, stopTokens: [], choices: 1, maxTokens: 20, ...more };
}

export function words(seed: number, length: number): number[] {
  const random = new Random(seed, 0);
  return Array.from({ length }, () => Math.floor(random.next() * vocabularySize));
}

export function tokens(events: readonly GenerateEvent[], choice = 0): number[] {
  return events.flatMap((e) => (e.type === "token" && e.choice === choice ? [e.token] : []));
}

export function endOf(events: readonly GenerateEvent[]) {
  const end = events.at(-1);
  if (end?.type !== "end") throw new Error(`expected an end event, got ${end?.type}`);
  return end;
}
