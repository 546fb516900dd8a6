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
