import { unexpected } from "./error.ts";

/**
 * Canonical JSON: keys sorted by code unit, no white space, integers and finite doubles in JavaScript's shortest form.
 * Throws on what JSON cannot carry (NaN, infinities, undefined members are left out).
 */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value === "boolean" || typeof value === "string") return JSON.stringify(value);
  if (typeof value === "number") {
    if (!Number.isFinite(value))
      throw unexpected("invalid_argument", "canonicalJson", "a finite number", value);
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value === "object") {
    const entries = Object.entries(value).filter(([, v]) => v !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    return `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${canonicalJson(v)}`).join(",")}}`;
  }
  throw unexpected("invalid_argument", "canonicalJson", "a JSON value", typeof value);
}

const float32Mark: unique symbol = Symbol("32-bit float");

/** A number that is written as a 32-bit float: shortest text of that width, whole numbers with `.0`. */
export type Float32 = { readonly [float32Mark]: number };

export function float32(value: number): Float32 {
  return { [float32Mark]: Math.fround(value) };
}

export const isFloat32 = (value: unknown): value is Float32 =>
  typeof value === "object" && value !== null && float32Mark in value;

/**
 * JSON with keys in the order in which they were put in: compact as digests want it, or indented by `indent` blanks as
 * files have it. 64-bit integers beyond 2^53 travel as bigint, 32-bit floats as `float32(x)`; undefined members are left
 * out. Throws on what JSON cannot carry.
 */
export function orderedJson(value: unknown, indent = 0): string {
  return ordered(value, indent, "");
}

function ordered(value: unknown, indent: number, margin: string): string {
  if (value === null || typeof value === "boolean" || typeof value === "string") return JSON.stringify(value);
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number") return canonicalJson(value);
  if (typeof value !== "object")
    throw unexpected("invalid_argument", "orderedJson", "a JSON value", typeof value);
  if (isFloat32(value)) return float32Text(value[float32Mark]);
  const inner = margin + " ".repeat(indent);
  const colon = indent > 0 ? ": " : ":";
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const members = Array.isArray(value)
    ? value.map((member) => ordered(member, indent, inner))
    : Object.entries(value)
        .filter(([, member]) => member !== undefined)
        .map(([key, member]) => `${JSON.stringify(key)}${colon}${ordered(member, indent, inner)}`);
  if (members.length === 0) return `${open}${close}`;
  if (indent === 0) return `${open}${members.join(",")}${close}`;
  return `${open}\n${inner}${members.join(`,\n${inner}`)}\n${margin}${close}`;
}

/**
 * The shortest decimal text that reads back as the same 32-bit float: `4.0`, `5.5616503`, `5.364421e-7`; exponents below
 * 1e-5 and from 1e16 on.
 */
export function float32Text(value: number): string {
  const single = Math.fround(value);
  if (!Number.isFinite(single))
    throw unexpected("invalid_argument", "float32Text", "a finite 32-bit number", value);
  if (single === 0) return Object.is(single, -0) ? "-0.0" : "0.0";
  const shortest = shortestDigits(Math.abs(single));
  const [mantissa = "", exponentText = "0"] = shortest.split("e");
  const digits = mantissa.replace(".", "").replace(/0+$/, "");
  const point = Number(exponentText) + 1;
  return (single < 0 ? "-" : "") + placed(digits, point);
}

/** Digits before `point` are whole. */
function placed(digits: string, point: number): string {
  if (point > 16 || point < -4) {
    const rest = digits.slice(1);
    return `${digits[0]}${rest === "" ? "" : `.${rest}`}e${point - 1}`;
  }
  if (point <= 0) return `0.${"0".repeat(-point)}${digits}`;
  if (digits.length <= point) return `${digits.padEnd(point, "0")}.0`;
  return `${digits.slice(0, point)}.${digits.slice(point)}`;
}

/** In exponent form. At a power of two the gap below is half of that above, so the neighbour above is tried as well. */
function shortestDigits(single: number): string {
  for (let precision = 0; precision < 9; precision++) {
    const nearest = single.toExponential(precision);
    if (Math.fround(Number(nearest)) === single) return nearest;
    const [mantissa = "", exponent = "0"] = nearest.split("e");
    const above = (Number(mantissa) + 10 ** -precision).toFixed(precision);
    const next = `${above}e${exponent}`;
    if (Number(nearest) < single && Math.fround(Number(next)) === single) return next;
  }
  return single.toExponential(9);
}
