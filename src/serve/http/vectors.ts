import { PsionicError } from "../../core/error.ts";
import type { GenerationSummary } from "../generation.ts";
import type { TokenIds } from "../protocol.ts";
import type { RouteContext } from "./context.ts";
import { drainingError } from "./errors.ts";
import { truthHeaders } from "./headers.ts";
import type { ServedModel } from "./options.ts";

/** One vector for each input, in order: float32, little-endian, in base64. */
export type Vectors = { readonly base64: readonly string[]; readonly promptTokens: number };

/**
 * Has the engine make a vector of each input. Half of the slots at most are taken at once, so that a long list leaves
 * room for answers. Ends with the request.
 */
export async function embedAll(
  context: RouteContext,
  { engine }: ServedModel,
  inputs: readonly TokenIds[],
  param: string,
): Promise<{ readonly vectors: Vectors; readonly headers: Record<string, string> }> {
  const { state, record } = context;
  if (state.draining()) throw drainingError();
  context.allowSilence();
  const { info } = engine;
  checkLengths(inputs, info.contextLength, param);
  record.stream = false;
  state.events.select(state, {
    ...{
      request_id: record.id,
      route: record.route,
      model: record.model ?? "",
      worker: info.backend.backend,
    },
  });
  const startedAt = performance.now();
  const stop = new AbortController();
  const signal = AbortSignal.any([context.signal, stop.signal]);
  const base64: string[] = new Array<string>(inputs.length).fill("");
  let next = 0;
  const work = async (): Promise<void> => {
    for (let i = next++; i < inputs.length; i = next++) {
      const request = {
        ...{ prompt: inputs[i]!, maxTokens: 0, sampling: {}, stopTokens: [], choices: 1 },
        ...{ embedding: true, client: context.client },
      };
      for await (const event of engine.generate(request, signal)) {
        if (event.type === "embedding") base64[i] = event.base64;
        // a cancelled one has no vector
        if (event.type === "done" && event.reason === "cancelled") throw drainingError();
      }
    }
  };
  const atOnce = Math.min(inputs.length, Math.max(1, Math.floor(info.slots / 2)));
  try {
    await Promise.all(Array.from({ length: atOnce }, work));
  } finally {
    stop.abort();
  }
  const promptTokens = inputs.reduce((n, { length }) => n + length, 0);
  record.summary = summaryOf(promptTokens, performance.now() - startedAt);
  return { vectors: { base64, promptTokens }, headers: truthHeaders(info) };
}

/** Named before anything is computed; the engine would refuse it in the middle of the list. */
function checkLengths(inputs: readonly TokenIds[], contextLength: number, param: string): void {
  const at = inputs.findIndex(({ length }) => length >= contextLength);
  if (at < 0) return;
  const where = inputs.length === 1 ? param : `${param}[${at}]`;
  throw new PsionicError(
    "context_overflow",
    `[${where}] expected fewer than ${contextLength} tokens, got ${inputs[at]!.length}`,
    { promptTokens: inputs[at]!.length, contextLength },
  );
}

function summaryOf(promptTokens: number, totalMs: number): GenerationSummary {
  return {
    ...{ promptTokens, cachedTokens: 0, completionTokens: 0, reasoningTokens: 0, unparsedTokens: 0 },
    ...{ prefixCache: "bypassed", totalMs },
  };
}

/** `usage` of an answer without generated text. */
export function usageOf({ promptTokens }: Vectors) {
  return { prompt_tokens: promptTokens, total_tokens: promptTokens };
}

/** The float32 numbers of a vector in base64. */
export function numbersOf(base64: string): number[] {
  const bytes = Buffer.from(base64, "base64");
  return Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
}
