import { unexpected } from "../../core/error.ts";
import type { Grammars } from "../grammar/index.ts";
import type { GenerateEvent, GenerateRequest, TokenLogprob } from "../protocol.ts";
import type { PromptedRequest } from "./messages.ts";
import { Pool, type PoolingPlan } from "./pooling.ts";
import { makeSamplers } from "./sampler.ts";
import { isToken, notToken } from "./sampling_settings.ts";
import { Sequence } from "./sequence.ts";

export type PrefixCacheState = Extract<GenerateEvent, { type: "end" }>["prefixCache"];
export type PromptLogprob = TokenLogprob & { readonly top: readonly TokenLogprob[] };

/** A request inside the engine: what was asked, its sequences, and what the final event reports. */
export type ActiveRequest = {
  readonly id: number;
  readonly prompt: Int32Array;
  /** Most tokens a sequence may have, prompt included. */
  readonly limit: number;
  /** The context, not `maxTokens`, sets the limit. */
  readonly endsWithContext: boolean;
  readonly client: string;
  /** Root in the prefix tree. */
  readonly tenant: string;
  readonly cacheMode: "auto" | "bypass" | "invalidate";
  readonly stopTokens: ReadonlySet<number>;
  readonly topLogprobs: number | undefined;
  readonly wantsPromptLogprobs: boolean;
  readonly sequences: Sequence[];
  readonly queuedAt: number;
  startedAt: number | undefined;
  promptDoneAt: number | undefined;
  /** Whether the choices after the first were queued; they wait for the first one's prompt. */
  followersQueued: boolean;
  cacheState: PrefixCacheState;
  cachedTokens: number;
  completionTokens: number;
  /** Prompt tokens last reported. */
  reported: number;
  /** Entry i belongs to prompt token i + 1. */
  readonly promptLogprobs: PromptLogprob[];
  /** What the prefix cache's files have of the prompt has been read. */
  warmed: boolean;
  /** Where hidden states go, of a request for a vector. */
  readonly pool: Pool | undefined;
};

export type RequestLimits = {
  readonly contextLength: number;
  readonly vocabularySize: number;
  readonly pooling?: PoolingPlan | undefined;
};

const maxChoices = 128;
const maxTopLogprobs = 20;

/** Checks what a client asked for; throws `invalid_request` or `context_overflow`. */
export function checkRequest(request: Omit<GenerateRequest, "constraint">, limits: RequestLimits): void {
  const { prompt, maxTokens, choices, topLogprobs, stopTokens } = request;
  const { contextLength, vocabularySize } = limits;
  if (prompt.length === 0) throw refused("prompt", "at least one token", "none");
  if (prompt.length >= contextLength) {
    throw overflow(
      `fewer than ${contextLength} prompt tokens`,
      `${prompt.length}`,
      prompt.length,
      contextLength,
    );
  }
  const wrongAt = notToken(prompt, vocabularySize);
  if (wrongAt >= 0)
    throw refused("prompt", `token ids below ${vocabularySize}`, `${prompt[wrongAt]} at place ${wrongAt}`);
  if (maxTokens !== undefined) {
    if (!Number.isSafeInteger(maxTokens) || maxTokens < 0) {
      throw refused("maxTokens", "a whole number from 0", maxTokens);
    }
    if (prompt.length + maxTokens > contextLength) {
      const got = `${prompt.length} prompt tokens and ${maxTokens} more`;
      throw overflow(`at most ${contextLength} tokens`, got, prompt.length, contextLength, maxTokens);
    }
  }
  if (!Number.isInteger(choices) || choices < 1 || choices > maxChoices) {
    throw refused("choices", `1 to ${maxChoices}`, choices);
  }
  const top = topLogprobs ?? 0;
  if (!Number.isInteger(top) || top < 0 || top > maxTopLogprobs) {
    throw refused("topLogprobs", `0 to ${maxTopLogprobs}`, topLogprobs);
  }
  if (request.embedding && (choices !== 1 || maxTokens !== 0))
    throw refused("embedding", "one choice and no token to generate", `${choices} and ${maxTokens}`);
  const wrong = stopTokens.find((token) => !isToken(token, vocabularySize));
  if (wrong !== undefined) throw refused("stopTokens", `token ids below ${vocabularySize}`, wrong);
}

/** Makes the engine's record of a checked request; `sampling` is checked here. */
export function openRequest(
  id: number,
  request: PromptedRequest,
  limits: RequestLimits,
  now: number,
  grammars: Grammars,
): ActiveRequest {
  checkRequest(request, limits);
  const { maxTokens, constraint } = request;
  const samplers = makeSamplers(
    request.sampling,
    request.choices,
    limits.vocabularySize,
    constraint !== undefined,
  );
  if (request.embedding && !limits.pooling)
    throw unexpected("unsupported", "embedding", "a model that gives hidden states", "another");
  // every position must be computed, and what others may go on from is keys and values alone
  const cacheMode = request.embedding ? "bypass" : (request.prefixCache ?? "auto");
  const active: ActiveRequest = {
    id,
    prompt: request.prompt instanceof Int32Array ? request.prompt : Int32Array.from(request.prompt),
    limit: maxTokens === undefined ? limits.contextLength : request.prompt.length + maxTokens,
    endsWithContext: maxTokens === undefined,
    client: request.client ?? "",
    // a bypassing request with several choices shares its prompt among them under a root of its own
    tenant: cacheMode === "bypass" ? `request ${id}` : rootOf(request.tenant),
    cacheMode,
    stopTokens: new Set(request.stopTokens),
    topLogprobs: request.topLogprobs,
    wantsPromptLogprobs: request.promptLogprobs ?? false,
    sequences: [],
    queuedAt: now,
    startedAt: undefined,
    promptDoneAt: undefined,
    followersQueued: false,
    cacheState: "none",
    cachedTokens: 0,
    completionTokens: 0,
    reported: -1,
    promptLogprobs: [],
    warmed: false,
    pool: request.embedding && limits.pooling ? new Pool(limits.pooling) : undefined,
  };
  const open = () => (constraint ? grammars.open(constraint) : undefined);
  active.sequences.push(...samplers.map((sampler, choice) => new Sequence(active, choice, sampler, open())));
  return active;
}

/** The root of a tenant in the prefix tree. */
export function rootOf(tenant = ""): string {
  return `tenant ${tenant}`;
}

function refused(param: string, expected: string, got: unknown) {
  return unexpected("invalid_request", param, expected, got, { details: { param } });
}

function overflow(
  expected: string,
  got: string,
  promptTokens: number,
  contextLength: number,
  maxTokens?: number,
) {
  const details = { promptTokens, contextLength, ...(maxTokens === undefined ? {} : { maxTokens }) };
  const fix =
    maxTokens === undefined
      ? "Shorten the prompt or load with a larger context"
      : "Lower maxTokens or shorten the prompt";
  return unexpected("context_overflow", "context", expected, got, { fix, details });
}
