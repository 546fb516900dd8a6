import { unexpected } from "../../core/error.ts";

/** Values of clients nested deeper are refused. */
const MAX_DEPTH = 100;

/** JSON with a blank behind each comma and colon, as the reference templates write values for the model. */
export function spacedJson(value: unknown, depth = 0): string {
  if (depth > MAX_DEPTH) {
    const expected = `values nested at most ${MAX_DEPTH} deep`;
    throw unexpected("invalid_request", "chat", expected, "deeper ones", { details: { param: "messages" } });
  }
  if (Array.isArray(value)) return `[${value.map((item) => spacedJson(item, depth + 1)).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}: ${spacedJson(item, depth + 1)}`).join(", ")}}`;
}
