/** The types of the contract's fields, as schemas that also say what they are in JSON Schema. */
import * as v from "valibot";
import { type Float32, float32, isFloat32 } from "../core/json.ts";
import { JsonFloat } from "../core/json_reader.ts";

/** An unsigned 64-bit integer; bigint beyond 2^53. */
export type U64 = number | bigint;

/** What a leaf is in JSON Schema. */
export type JsonSchema = Readonly<Record<string, unknown>>;

const described = <T>(jsonSchema: JsonSchema) =>
  v.metadata<T, { readonly jsonSchema: JsonSchema }>({ jsonSchema });

const isIn = (x: unknown, least: bigint, most: bigint): x is U64 =>
  (typeof x === "bigint" || Number.isSafeInteger(x)) && BigInt(x as U64) >= least && BigInt(x as U64) <= most;

function small(name: string, least: number, most: number) {
  const json = { type: "integer", minimum: least, maximum: most };
  const fits = (x: unknown): boolean => isIn(x, BigInt(least), BigInt(most));
  return v.pipe(v.custom<number>(fits, `expected ${name}`), described<number>(json));
}

const most64 = 2n ** 64n - 1n;
// JSON Schema's numbers are doubles; 2^64 is the nearest of them
const json64 = { type: "integer", minimum: 0, maximum: 2 ** 64 };

export const u8 = small("u8", 0, 255);
export const u16 = small("u16", 0, 65535);
export const u32 = small("u32", 0, 2 ** 32 - 1);
export const i32 = small("i32", -(2 ** 31), 2 ** 31 - 1);
export const u64 = v.pipe(
  v.custom<U64>((x) => isIn(x, 0n, most64), "expected u64"),
  described<U64>(json64),
);
/** Above zero. */
export const positive = v.pipe(
  v.custom<U64>((x) => isIn(x, 1n, most64), "expected u64 above 0"),
  described<U64>({ ...json64, minimum: 1 }),
);
/** Milliseconds since 1970, or a count that arithmetic is done on: exact as a number. */
export const count = v.pipe(
  v.custom<number>((x) => isIn(x, 0n, BigInt(Number.MAX_SAFE_INTEGER)), "expected u64"),
  described<number>({ type: "integer", minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
);

export const str = v.pipe(v.string("expected str"), described<string>({ type: "string" }));
export const bool = v.pipe(v.boolean("expected bool"), described<boolean>({ type: "boolean" }));

/** A 32-bit float, read or made: written again it is the same text. */
export const float = v.pipe(
  v.custom<Float32 | JsonFloat | number>(
    (x) => isFloat32(x) || x instanceof JsonFloat || Number.isFinite(x),
    "expected a number",
  ),
  v.transform((x): Float32 => (isFloat32(x) ? x : float32(x instanceof JsonFloat ? x.value : x))),
  described<Float32>({ type: "number" }),
);

export const isBlank = (text: string): boolean => text.trim() === "";

/** A string with something in it. */
export const filled = v.pipe(
  v.string("expected str"),
  v.check((text) => !isBlank(text), "expected text that is not blank"),
  described<string>({ type: "string", pattern: "\\S" }),
);

/** Lower-case hex of a SHA-256. */
export const digest = v.pipe(
  v.string("expected str"),
  v.regex(/^[0-9a-f]{64}$/, "expected 64 hex digits"),
  described<string>({ type: "string", pattern: "^[0-9a-f]{64}$" }),
);

export function oneOf<const T extends readonly string[]>(values: T) {
  return v.pipe(
    v.picklist(values, `expected ${values.join(", ")}`),
    described<T[number]>({ type: "string", enum: values }),
  );
}

export function exactly<const T extends string | boolean>(value: T) {
  return v.pipe(v.literal(value, `expected ${value}`), described<T>({ const: value }));
}

/** `T|null`: always written; may be missing when read. */
export function orNull<S extends v.GenericSchema>(schema: S) {
  return v.optional(v.nullable(schema), null);
}

/** `T?`: left out when unknown; null when read counts as missing. */
export function maybe<S extends v.GenericSchema>(schema: S) {
  return v.optional(
    v.pipe(
      v.nullable(schema),
      v.transform((x) => x ?? undefined),
    ),
  );
}

export function isPlainObject(x: unknown): x is Record<string, unknown> {
  if (typeof x !== "object" || x === null) return false;
  const prototype: unknown = Object.getPrototypeOf(x);
  return prototype === null || prototype === Object.prototype;
}

/** An object with these fields in this order; other keys do not survive. */
export function record<F extends v.ObjectEntries>(fields: F) {
  return v.pipe(v.custom<Record<string, unknown>>(isPlainObject, "expected an object"), v.object(fields));
}

/** Values of one kind by names that are not known beforehand. */
export function byName<S extends v.GenericSchema>(schema: S) {
  return v.record(v.string("expected str"), schema, "expected an object");
}

export function listOf<S extends v.GenericSchema>(schema: S) {
  return v.array(schema, "expected a list");
}
