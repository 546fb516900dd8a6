import {
  type GenerationEvent,
  type GenerationOptions,
  type GenerationPlan,
  type GenerationSummary,
  generate,
  mergeSummaries,
} from "../generation.ts";
import type { Engine } from "../protocol.ts";

/** An event and the plan it belongs to; `end` comes once, for all plans together. */
export type ManyEvent =
  | { readonly plan: number; readonly event: Exclude<GenerationEvent, { type: "end" }> }
  | { readonly plan: -1; readonly event: Extract<GenerationEvent, { type: "end" }> };

type Pull = { readonly plan: number; readonly result: IteratorResult<GenerationEvent, void> };

/**
 * Runs several plans, at most `atOnce` together so that one call does not fill the queue; their events come as they
 * happen. Leaving the loop ends them all.
 */
export async function* generateMany(
  engine: Engine,
  plans: readonly GenerationPlan[],
  atOnce: number,
  options: GenerationOptions,
): AsyncGenerator<ManyEvent, void, void> {
  const [only] = plans;
  if (only !== undefined && plans.length === 1) {
    for await (const event of generate(engine, only, options)) {
      yield event.type === "end" ? { plan: -1, event } : { plan: 0, event };
    }
    return;
  }
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const running = new Map<
    number,
    { readonly events: AsyncGenerator<GenerationEvent>; pull: Promise<Pull> }
  >();
  const summaries: GenerationSummary[] = [];
  let started = 0;
  const pull = async (plan: number, events: AsyncGenerator<GenerationEvent, void, void>): Promise<Pull> => ({
    plan,
    result: await events.next(),
  });
  const fill = (): void => {
    while (running.size < atOnce && started < plans.length) {
      const events = generate(engine, plans[started]!, { ...options, signal });
      running.set(started, { events, pull: pull(started, events) });
      started += 1;
    }
  };
  try {
    for (fill(); running.size > 0; fill()) {
      const { plan, result } = await Promise.race([...running.values()].map((entry) => entry.pull));
      const entry = running.get(plan)!;
      if (result.done) {
        running.delete(plan);
        continue;
      }
      entry.pull = pull(plan, entry.events);
      if (result.value.type === "end") summaries.push(result.value.summary);
      else yield { plan, event: result.value };
    }
    yield { plan: -1, event: { type: "end", summary: mergeSummaries(summaries) } };
  } finally {
    stop.abort();
    for (const { events, pull: pending } of running.values()) {
      pending.catch(() => {});
      events.return(undefined).catch(() => {});
    }
  }
}
