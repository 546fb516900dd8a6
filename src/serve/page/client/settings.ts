import { remember, rememberedJson } from "./storage.ts";

/** A number that a request may carry; empty = left to the server. */
export type NumberField = {
  readonly name: string;
  readonly label: string;
  readonly help: string;
  readonly min: number;
  readonly max: number;
  readonly whole?: true;
};

export const numberFields: readonly NumberField[] = [
  { name: "temperature", label: "Temperature", help: "0 takes the likeliest token", min: 0, max: 100 },
  { name: "top_p", label: "Top p", help: "share of probability kept", min: 0, max: 1 },
  { name: "top_k", label: "Top k", help: "tokens kept; 0 keeps all", min: 0, max: 2 ** 31 - 1, whole: true },
  { name: "min_p", label: "Min p", help: "least share of the likeliest", min: 0, max: 1 },
  { name: "repeat_penalty", label: "Repeat penalty", help: "1 is none", min: 0.01, max: 100 },
  { name: "presence_penalty", label: "Presence penalty", help: "0 is none", min: -100, max: 100 },
  { name: "max_tokens", label: "Most tokens", help: "of one answer", min: 1, max: 2 ** 31 - 1, whole: true },
  {
    ...{ name: "seed", label: "Seed", help: "the same gives the same" },
    ...{ min: 0, max: Number.MAX_SAFE_INTEGER, whole: true },
  },
];

export const efforts = ["none", "low", "medium", "high"] as const;

/** What the person typed, by the names of the fields. */
export type Entries = Readonly<Record<string, string>>;

export type Settings = {
  readonly system: string;
  /** Members of the request's body. */
  readonly fields: Readonly<Record<string, unknown>>;
};

export type Problem = { readonly name: string; readonly message: string };

/** Settings of what was typed; `problems` names the fields that cannot be used, which are left out. */
export function readSettings(entries: Entries): {
  readonly settings: Settings;
  readonly problems: readonly Problem[];
} {
  const fields: Record<string, unknown> = {};
  const problems: Problem[] = [];
  for (const field of numberFields) {
    const text = (entries[field.name] ?? "").trim().replace(",", ".");
    if (text === "") continue;
    const value = Number(text);
    const { min, max, whole } = field;
    if (!Number.isFinite(value) || value < min || value > max || (whole && !Number.isInteger(value))) {
      const kind = whole ? "a whole number" : "a number";
      const bounds = max >= 2 ** 31 - 1 ? `of at least ${min}` : `from ${min} to ${max}`;
      problems.push({ name: field.name, message: `${field.label} takes ${kind} ${bounds}.` });
    } else fields[field.name] = value;
  }
  const effort = entries.reasoning_effort ?? "";
  if (effort !== "") fields.reasoning_effort = effort;
  const tools = (entries.tools ?? "").trim();
  if (tools !== "") {
    const list = toolList(tools);
    if (list) fields.tools = list;
    else problems.push({ name: "tools", message: "Tools are a JSON array of objects." });
  }
  return { settings: { system: entries.system ?? "", fields }, problems };
}

function toolList(text: string): readonly unknown[] | undefined {
  try {
    const list: unknown = JSON.parse(text);
    return Array.isArray(list) && list.every((tool) => typeof tool === "object" && tool !== null)
      ? list
      : undefined;
  } catch {
    return undefined;
  }
}

const storedName = "settings";

export function storedEntries(): Entries {
  const stored = rememberedJson("browser", storedName);
  if (typeof stored !== "object" || stored === null) return {};
  return Object.fromEntries(
    Object.entries(stored).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}

export function storeEntries(entries: Entries): void {
  remember("browser", storedName, JSON.stringify(entries));
}
