import * as v from "valibot";
import type { RequestLimits } from "./options.ts";
import { structuredEntries } from "./structured.ts";

/** A body's fields and their schema by a server's limits: made once, since making it takes longer than checking a body. */
export function bodySchema<E extends v.ObjectEntries>(entriesOf: (limits: RequestLimits) => E) {
  const known = new WeakMap<
    RequestLimits,
    { readonly entries: E; readonly schema: v.ObjectSchema<E, undefined> }
  >();
  return (limits: RequestLimits) => {
    let made = known.get(limits);
    if (!made) {
      const entries = entriesOf(limits);
      made = { entries, schema: v.object(entries) };
      known.set(limits, made);
    }
    return made;
  };
}

/** Clients send `null` for what they do not set. */
export function maybe<S extends v.GenericSchema>(schema: S) {
  return v.optional(v.nullable(schema));
}

/** A finite number; JSON can spell larger ones (`1e999`), which parse as infinite. */
export function number(min: number, max: number) {
  const message = `a number from ${min} to ${max}`;
  return v.pipe(v.number(message), v.finite(message), v.minValue(min, message), v.maxValue(max, message));
}

export function integer(min: number, max: number) {
  const message = `a whole number from ${min} to ${max}`;
  return v.pipe(
    v.number(message),
    v.safeInteger(message),
    v.minValue(min, message),
    v.maxValue(max, message),
  );
}

export const text = v.string("a string");
export const flag = v.boolean("true or false");

export function oneOf<const T extends readonly string[]>(...values: T) {
  return v.picklist(values, `one of ${values.join(", ")}`);
}

const seedForm = "a whole number of 64 bits";
/** Clients draw seeds of 64 bits, signed or not; of one beyond 2^53 JSON's numbers keep the first 53. */
const seed = v.pipe(
  v.number(seedForm),
  v.integer(seedForm),
  v.minValue(-(2 ** 63), seedForm),
  v.maxValue(2 ** 64, seedForm),
);

/** Counts in requests beyond this are taken for mistakes. */
const maxCount = 2 ** 31 - 1;

/** What both generating routes take, under llama.cpp's and OpenAI's names. */
export function generationEntries(limits: RequestLimits) {
  const stopString = v.pipe(
    v.string("a string"),
    v.minLength(1, "a stop string that is not empty"),
    v.maxLength(limits.stopLength, `a stop string of at most ${limits.stopLength} characters`),
  );
  const stopList = v.pipe(
    v.array(stopString, "a string or an array of strings"),
    v.maxLength(limits.stopStrings, `at most ${limits.stopStrings} stop strings`),
  );
  return {
    model: maybe(text),
    stream: maybe(flag),
    stream_options: maybe(v.object({ include_usage: maybe(flag) }, "an object")),
    n: maybe(integer(1, limits.choices)),
    max_tokens: maybe(integer(-1, maxCount)),
    stop: maybe(
      v.lazy(
        (input) => (typeof input === "string" ? stopString : stopList) as v.GenericSchema<string | string[]>,
      ),
    ),
    stop_token_ids: maybe(
      v.pipe(
        v.array(integer(0, maxCount), "an array of token ids"),
        v.maxLength(limits.stopStrings, `at most ${limits.stopStrings} stop tokens`),
      ),
    ),
    ignore_eos: maybe(flag),
    seed: maybe(seed),
    temperature: maybe(number(0, 100)),
    top_k: maybe(integer(-1, maxCount)),
    top_p: maybe(number(0, 1)),
    min_p: maybe(number(0, 1)),
    typical_p: maybe(number(0, 1)),
    repeat_penalty: maybe(number(0.01, 100)),
    repetition_penalty: maybe(number(0.01, 100)),
    repeat_last_n: maybe(integer(-1, maxCount)),
    presence_penalty: maybe(number(-100, 100)),
    frequency_penalty: maybe(number(-100, 100)),
    dry_multiplier: maybe(number(0, 100)),
    dry_base: maybe(number(1, 100)),
    dry_allowed_length: maybe(integer(0, maxCount)),
    dry_penalty_last_n: maybe(integer(-1, maxCount)),
    dry_sequence_breakers: maybe(
      v.pipe(
        v.array(v.pipe(text, v.maxLength(64, "a string of at most 64 characters")), "an array of strings"),
        v.maxLength(64, "at most 64 strings"),
      ),
    ),
    xtc_probability: maybe(number(0, 1)),
    xtc_threshold: maybe(number(0, 1)),
    logit_bias: maybe(v.unknown()),
    ...structuredEntries,
    cache_prompt: maybe(flag),
    psionic_prefix_cache: maybe(
      v.object(
        {
          mode: oneOf("auto", "bypass", "invalidate"),
          tenant_id: maybe(v.pipe(text, v.maxLength(256, "a string of at most 256 characters"))),
        },
        "an object",
      ),
    ),
  };
}

/** The fields of `generationEntries` as they come out of validation. */
export type GenerationFields = v.InferOutput<v.ObjectSchema<ReturnType<typeof generationEntries>, undefined>>;
