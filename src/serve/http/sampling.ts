import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import type { GenerateRequest, SamplingParams, TokenIds } from "../protocol.ts";
import { describe } from "./body.ts";
import type { RouteContext } from "./context.ts";
import { badField } from "./errors.ts";
import type { RequestLimits, ServedModel } from "./options.ts";
import { checkTokens } from "./routes/tokenize.ts";
import type { GenerationFields } from "./schema.ts";

/** llama.cpp's, where a request turns DRY on and names none. */
const defaultBreakers = ["\n", ":", '"', "*"] as const;

/** What a route knows beside the fields that all generating routes share. */
type RouteFacts = {
  readonly tokenizer: Tokenizer;
  readonly formatStops: Iterable<number>;
  /** Absent, null or negative: to the end of the context. */
  readonly maxTokens: number | null | undefined;
};

/** What the shared fields of a request ask of the engine. */
export function engineRequest(
  { state, client, keyIndex }: RouteContext,
  body: GenerationFields,
  { tokenizer, formatStops, maxTokens }: RouteFacts,
): Omit<GenerateRequest, "prompt"> {
  const sampling = samplingOf(body, tokenizer, state.settings.limits);
  const { stopTokens, banned } = stopTokensOf(body, tokenizer, formatStops);
  const logitBias = [...(sampling.logitBias ?? []), ...banned.map((token) => [token, -maxBias] as const)];
  return {
    sampling: { ...sampling, ...(logitBias.length > 0 && { logitBias }) },
    stopTokens,
    choices: body.n ?? 1,
    client,
    ...(typeof maxTokens === "number" && maxTokens >= 0 && { maxTokens }),
    ...prefixCacheOf(body, keyOf(state, keyIndex)),
  };
}

/** Tells the engine of a prompt as soon as it is there: it looks for it while the rest of the request is made. */
export function expectPrompt(
  { state, keyIndex }: Pick<RouteContext, "state" | "keyIndex">,
  { engine }: ServedModel,
  body: GenerationFields,
  prompt: TokenIds,
): void {
  const { prefixCache, tenant } = prefixCacheOf(body, keyOf(state, keyIndex));
  engine.expect?.(
    prefixCache === "auto" ? { prompt, ...(tenant === undefined ? {} : { tenant }) } : undefined,
  );
}

function keyOf({ settings }: RouteContext["state"], keyIndex: number | undefined): Uint8Array | undefined {
  return keyIndex === undefined ? undefined : settings.apiKeys?.[keyIndex];
}

/** The engine's sampling parameters from the fields of a request. */
function samplingOf(body: GenerationFields, tokenizer: Tokenizer, limits: RequestLimits): SamplingParams {
  const repeatPenalty = body.repeat_penalty ?? body.repetition_penalty;
  const params = {
    temperature: body.temperature,
    topK: body.top_k,
    topP: body.top_p,
    minP: body.min_p,
    typicalP: body.typical_p,
    repeatPenalty,
    repeatLastN: body.repeat_last_n,
    presencePenalty: body.presence_penalty,
    frequencyPenalty: body.frequency_penalty,
    dryMultiplier: body.dry_multiplier,
    dryBase: body.dry_base,
    dryAllowedLength: body.dry_allowed_length,
    dryPenaltyLastN: body.dry_penalty_last_n,
    drySequenceBreakers: breakers(body, tokenizer),
    xtcProbability: body.xtc_probability,
    xtcThreshold: body.xtc_threshold,
    logitBias: logitBias(body.logit_bias, tokenizer, limits),
    // -1 is llama.cpp's way to ask for a random one.
    seed: body.seed === -1 ? undefined : body.seed,
  };
  // null and undefined both mean "not set".
  return Object.fromEntries(
    Object.entries(params).filter(([, value]) => value !== null && value !== undefined),
  );
}

function breakers(body: GenerationFields, tokenizer: Tokenizer): number[][] | undefined {
  if (!body.dry_multiplier) return undefined;
  const texts = body.dry_sequence_breakers ?? defaultBreakers;
  return texts
    .filter((breaker) => breaker !== "")
    .map((breaker) => tokenizer.encode(breaker, { special: false, bos: false, eos: false }));
}

const maxBias = 1e9;

/** OpenAI's object of token ids to biases, or llama.cpp's pairs of id or text and bias, where `false` bans. */
function logitBias(
  field: unknown,
  tokenizer: Tokenizer,
  limits: RequestLimits,
): [number, number][] | undefined {
  if (field === null || field === undefined) return undefined;
  if (typeof field !== "object")
    throw badField("logit_bias", "an object of token ids to biases", describe(field));
  const entries: [unknown, unknown][] = Array.isArray(field) ? field.map(pair) : Object.entries(field);
  if (entries.length > limits.logitBiases) {
    throw badField("logit_bias", `at most ${limits.logitBiases} entries`, String(entries.length));
  }
  return entries.flatMap(([key, value]) => {
    const bias = value === false ? -maxBias : value;
    if (typeof bias !== "number" || !(Math.abs(bias) <= maxBias)) {
      throw badField("logit_bias", `biases from ${-maxBias} to ${maxBias}`, describe(value));
    }
    return biasedTokens(key, Array.isArray(field), tokenizer).map((token): [number, number] => [token, bias]);
  });
}

function pair(entry: unknown): [unknown, unknown] {
  if (!Array.isArray(entry) || entry.length !== 2) {
    throw badField("logit_bias", "pairs of a token and a bias", describe(entry));
  }
  return [entry[0], entry[1]];
}

function biasedTokens(key: unknown, textAllowed: boolean, tokenizer: Tokenizer): number[] {
  const id =
    typeof key === "number"
      ? key
      : typeof key === "string" && /^\d{1,10}$/.test(key)
        ? Number(key)
        : undefined;
  if (id !== undefined) {
    if (Number.isInteger(id) && id >= 0 && id < tokenizer.vocabularySize) return [id];
    throw badField("logit_bias", `token ids below ${tokenizer.vocabularySize}`, String(id));
  }
  if (!textAllowed || typeof key !== "string")
    throw badField("logit_bias", "token ids as keys", describe(key));
  return tokenizer.encode(key, { special: false, bos: false, eos: false });
}

/** Tokens that end a generation: the model's and those of the request; the model's are banned where asked to ignore them. */
function stopTokensOf(
  body: GenerationFields,
  tokenizer: Tokenizer,
  formatStops: Iterable<number>,
): { readonly stopTokens: number[]; readonly banned: readonly number[] } {
  const own = new Set([...tokenizer.stopTokens, ...formatStops]);
  const asked = body.stop_token_ids ?? [];
  checkTokens(asked, tokenizer.vocabularySize, "stop_token_ids");
  if (!body.ignore_eos) return { stopTokens: [...new Set([...own, ...asked])], banned: [] };
  return { stopTokens: [...asked], banned: [...own] };
}

export function stopStringsOf(body: GenerationFields): string[] {
  const { stop } = body;
  if (stop === null || stop === undefined) return [];
  return [...new Set(typeof stop === "string" ? [stop] : stop)];
}

/** How the prefix cache may be used, and among whom entries are shared: never between callers with different keys. */
function prefixCacheOf(
  body: GenerationFields,
  key: Uint8Array | undefined,
): Pick<GenerateRequest, "prefixCache" | "tenant"> {
  const asked = body.psionic_prefix_cache;
  const prefixCache = asked?.mode ?? (body.cache_prompt === false ? "bypass" : "auto");
  const id = asked?.tenant_id ?? "";
  // by the key's digest: places in the key file change, and entries may outlive the process
  const tenant = key === undefined ? id : `key ${Buffer.from(key).toString("hex")} ${id}`;
  return { prefixCache, ...(tenant === "" ? {} : { tenant }) };
}
