import type { GenerationParser } from "../models/chat/index.ts";
import { Choice, type ChoiceEvent } from "./choice.ts";
import type { Engine, GenerateEvent, GenerateRequest } from "./protocol.ts";
import { type ReasoningBudget, withBudget } from "./reasoning_budget.ts";

/** A request for the engine with what the main thread does to its answer. */
export type GenerationPlan = {
  readonly request: GenerateRequest;
  readonly stops: readonly string[];
  /** One parser for each choice. */
  readonly parser: () => GenerationParser;
  /** Only for requests with one choice. */
  readonly budget?: ReasoningBudget;
};

type EndEvent = Extract<GenerateEvent, { type: "end" }>;
type PromptLogprobs = Extract<GenerateEvent, { type: "promptLogprobs" }>["tokens"];

/** Counts and times of one request. Durations in milliseconds, as the main thread saw them. */
export type GenerationSummary = {
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
  readonly reasoningTokens: number;
  readonly unparsedTokens: number;
  readonly prefixCache: EndEvent["prefixCache"];
  readonly totalMs: number;
  /** Absent when no token came. */
  readonly firstTokenMs?: number;
  /** Mean time between tokens of a choice; absent below two tokens. */
  readonly interTokenMs?: number;
  /** Absent where several requests were added up. */
  readonly queueMs?: number;
  readonly prefillMs?: number;
  readonly decodeMs?: number;
};

export type GenerationEvent =
  | ChoiceEvent
  | { readonly type: "progress"; readonly processed: number; readonly total: number; readonly cached: number }
  | { readonly type: "promptLogprobs"; readonly tokens: PromptLogprobs }
  | { readonly type: "end"; readonly summary: GenerationSummary };

export type GenerationOptions = {
  readonly signal: AbortSignal;
  /** Called with the time since the choice's last token, milliseconds. */
  readonly onToken?: (sinceMs: number) => void;
};

/**
 * Runs one request: engine events in, parts of the answer out, ending with `end`. Leaving the loop or aborting the
 * signal frees the engine's slot; a stop string frees its choice's.
 */
export async function* generate(
  engine: Engine,
  plan: GenerationPlan,
  options: GenerationOptions,
): AsyncGenerator<GenerationEvent, void, void> {
  const { request } = plan;
  const wantsRecords = request.topLogprobs !== undefined;
  const choices = Array.from(
    { length: request.choices },
    (_, index) => new Choice(index, plan.parser(), plan.stops, wantsRecords),
  );
  const clock = new TokenClock(request.choices, options.onToken);
  // A stop string ends its choice alone; the engine then reports the end of the request as usual.
  const stopped = plan.stops.length === 0 ? [] : choices.map(() => new AbortController());
  const signals = stopped.map(({ signal }) => signal);
  let cachedTokens = 0;
  let end: EndEvent | undefined;
  const out: ChoiceEvent[] = [];
  const { budget } = plan;
  const [first] = choices;
  const events =
    budget === undefined || first === undefined
      ? engine.generate(request, options.signal, signals)
      : withBudget(engine, request, budget, {
          signal: options.signal,
          choiceSignals: signals,
          spent: () => first.inReasoning && !first.finished && first.reasoningTokens >= budget.tokens,
        });
  for await (const event of events) {
    switch (event.type) {
      case "forced":
        first?.force(event.tokens, out);
        break;
      case "prefill":
        cachedTokens = event.cached;
        yield { type: "progress", processed: event.processed, total: event.total, cached: event.cached };
        break;
      case "promptLogprobs":
        yield event;
        break;
      case "token":
        clock.tick(event.choice);
        choices[event.choice]?.token(event, out);
        if (choices[event.choice]?.finished) stopped[event.choice]?.abort();
        break;
      case "done":
        choices[event.choice]?.done(event, out);
        break;
      case "end":
        end = event;
        break;
    }
    if (out.length > 0) yield* out.splice(0);
  }
  yield { type: "end", summary: summarise(plan, choices, clock, cachedTokens, end) };
}

class TokenClock {
  readonly startedAt = performance.now();
  firstAt: number | undefined;
  private readonly lastAt: number[];
  private gapsMs = 0;
  private gaps = 0;
  private readonly onToken: ((sinceMs: number) => void) | undefined;

  constructor(choices: number, onToken?: (sinceMs: number) => void) {
    this.lastAt = new Array<number>(choices).fill(0);
    this.onToken = onToken;
  }

  tick(choice: number): void {
    const now = performance.now();
    const last = this.lastAt[choice] ?? 0;
    this.lastAt[choice] = now;
    this.firstAt ??= now;
    if (last === 0) return;
    this.gapsMs += now - last;
    this.gaps += 1;
    this.onToken?.(now - last);
  }

  get interTokenMs(): number | undefined {
    return this.gaps === 0 ? undefined : this.gapsMs / this.gaps;
  }
}

function summarise(
  { request, budget }: GenerationPlan,
  choices: readonly Choice[],
  clock: TokenClock,
  cachedTokens: number,
  end: EndEvent | undefined,
): GenerationSummary {
  const sum = (of: (choice: Choice) => number): number => choices.reduce((n, choice) => n + of(choice), 0);
  const { firstAt, interTokenMs, startedAt } = clock;
  return {
    promptTokens: request.prompt.length,
    // asked twice, the engine finds its own work of the first time in the cache
    cachedTokens: budget ? cachedTokens : (end?.cachedTokens ?? cachedTokens),
    completionTokens: sum((choice) => choice.completionTokens),
    reasoningTokens: sum((choice) => choice.reasoningTokens),
    unparsedTokens: sum((choice) => choice.unparsed),
    prefixCache: end?.prefixCache ?? "none",
    totalMs: performance.now() - startedAt,
    ...(firstAt === undefined ? {} : { firstTokenMs: firstAt - startedAt }),
    ...(interTokenMs === undefined ? {} : { interTokenMs }),
    ...(end === undefined ? {} : { queueMs: end.queueMs, prefillMs: end.prefillMs, decodeMs: end.decodeMs }),
  };
}

/** Adds up the requests of one call. */
export function mergeSummaries(parts: readonly GenerationSummary[]): GenerationSummary {
  const first = parts[0];
  if (first === undefined || parts.length === 1) return first!;
  const sum = (of: (part: GenerationSummary) => number): number => parts.reduce((n, part) => n + of(part), 0);
  const firstTokenMs = Math.min(...parts.map((part) => part.firstTokenMs ?? Infinity));
  const gaps = parts.flatMap((part) => part.interTokenMs ?? []);
  return {
    promptTokens: sum((part) => part.promptTokens),
    cachedTokens: sum((part) => part.cachedTokens),
    completionTokens: sum((part) => part.completionTokens),
    reasoningTokens: sum((part) => part.reasoningTokens),
    unparsedTokens: sum((part) => part.unparsedTokens),
    prefixCache: parts.find((part) => part.prefixCache === "hit")?.prefixCache ?? first.prefixCache,
    totalMs: Math.max(...parts.map((part) => part.totalMs)),
    ...(Number.isFinite(firstTokenMs) ? { firstTokenMs } : {}),
    ...(gaps.length > 0 ? { interTokenMs: gaps.reduce((a, b) => a + b, 0) / gaps.length } : {}),
  };
}
