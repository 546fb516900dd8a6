import type { Engine, GenerateEvent, GenerateRequest } from "./protocol.ts";

/** How much of an answer may be reasoning, and what ends it. */
export type ReasoningBudget = {
  readonly tokens: number;
  /**
   * Tokens that are put into the answer when the budget is spent: the first list at first, and the next one each time
   * the model goes on reasoning nevertheless; the last one leaves it no choice.
   */
  readonly closings: readonly (readonly number[])[];
};

/** Tokens that the server wrote into the answer in the model's place. */
export type ForcedEvent = { readonly type: "forced"; readonly choice: 0; readonly tokens: readonly number[] };

export type BudgetOptions = {
  readonly signal: AbortSignal;
  readonly choiceSignals: readonly AbortSignal[];
  /** Whether the answer, up to the event that came last, is reasoning beyond the budget. */
  readonly spent: () => boolean;
};

/**
 * Events of a request with one choice whose reasoning ends at its budget: the engine is then asked again, with the
 * answer so far and the closing tokens behind the prompt, whose work is in the prefix cache.
 */
export async function* withBudget(
  engine: Engine,
  request: GenerateRequest,
  { closings }: ReasoningBudget,
  { signal, choiceSignals, spent }: BudgetOptions,
): AsyncGenerator<GenerateEvent | ForcedEvent, void, void> {
  let prompt = request.prompt;
  let { constraint } = request;
  let generated = 0;
  for (let cuts = 0; ; cuts++) {
    const forced = closings[Math.min(cuts, closings.length - 1)] ?? [];
    const left = request.maxTokens === undefined ? {} : { maxTokens: request.maxTokens - generated };
    const next = { ...request, prompt, ...left, ...(constraint ? { constraint } : {}) };
    const answer: number[] = [];
    let cut = false;
    for await (const event of engine.generate(next, signal, choiceSignals)) {
      // the prompt was read before; what it cost then is what counts
      const again = cuts > 0 && (event.type === "prefill" || event.type === "promptLogprobs");
      if (!again) yield event;
      if (event.type !== "token") continue;
      answer.push(event.token);
      generated += 1;
      const room = prompt.length + answer.length + forced.length < engine.info.contextLength;
      const more = request.maxTokens === undefined || generated < request.maxTokens;
      cut = room && more && spent();
      if (cut) break;
    }
    if (!cut) return;
    yield { type: "forced", choice: 0, tokens: forced };
    prompt = [...prompt, ...answer, ...forced];
    if (constraint) {
      constraint = { ...constraint, consumed: [...constraint.consumed, ...answer, ...forced] };
    }
  }
}
