import type { ChatTool } from "./types.ts";

type Schema = Readonly<Record<string, unknown>>;

const TYPES = ["string", "boolean", "integer", "number", "array", "object", "null"] as const;
type TypeName = (typeof TYPES)[number];

/** References and unions nested deeper tell nothing. */
const MAX_DEPTH = 8;

/** The types that a tool's schema allows for a parameter; undefined where it declares none. */
export function parameterTypes(tool: ChatTool | undefined, key: string): ReadonlySet<string> | undefined {
  const root = tool?.parameters;
  const properties = asSchema(root?.properties);
  if (root === undefined || properties === undefined || !Object.hasOwn(properties, key)) return undefined;
  const types = new Set(typesOf(asSchema(properties[key]), root, 0));
  return types.size === 0 ? undefined : types;
}

function typesOf(schema: Schema | undefined, root: Schema, depth: number): readonly TypeName[] {
  if (schema === undefined || depth > MAX_DEPTH) return [];
  const named = (Array.isArray(schema.type) ? schema.type : [schema.type]).filter(isTypeName);
  if (named.length > 0) return named;
  if (typeof schema.$ref === "string") return typesOf(resolve(schema.$ref, root), root, depth + 1);
  for (const union of [schema.anyOf, schema.oneOf]) {
    if (Array.isArray(union)) return union.flatMap((part) => typesOf(asSchema(part), root, depth + 1));
  }
  const values = Array.isArray(schema.enum) ? schema.enum : "const" in schema ? [schema.const] : [];
  return values.map(typeOfValue);
}

function isTypeName(name: unknown): name is TypeName {
  return TYPES.some((known) => known === name);
}

/** `#/$defs/x` and other paths within the schema. */
function resolve(reference: string, root: Schema): Schema | undefined {
  if (!reference.startsWith("#/")) return undefined;
  let found: Schema | undefined = root;
  for (const step of reference.slice(2).split("/")) {
    found = found !== undefined && Object.hasOwn(found, step) ? asSchema(found[step]) : undefined;
  }
  return found;
}

function typeOfValue(value: unknown): TypeName {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  return typeof value === "boolean" ? "boolean" : typeof value === "string" ? "string" : "object";
}

function asSchema(value: unknown): Schema | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Schema) : undefined;
}

/** Whether a value of these types is text whatever it says, but for `null`. */
export function isText(types: ReadonlySet<string> | undefined): boolean {
  return types === undefined || [...types].every((type) => type === "string" || type === "null");
}

/** A parameter's text as JSON: the first of the allowed types that it fits, else a string. */
export function jsonOfValue(text: string, types: ReadonlySet<string> | undefined): string {
  if (text.toLowerCase() === "null") return "null";
  if (types === undefined || isText(types)) return JSON.stringify(text);
  const bare = text.trim();
  const word = bare.toLowerCase();
  if (word === "null") return "null";
  if (types.has("boolean") && (word === "true" || word === "false")) return word;
  if ((types.has("integer") || types.has("number")) && isNumber(bare)) {
    const value = Number(bare);
    // beyond 2^53 the digits say more than the number does
    if (Number.isSafeInteger(value)) return String(value);
    if (/^-?\d+$/.test(bare)) return bare.replace(/^(-?)0+(?=\d)/, "$1");
    if (types.has("number") && Number.isFinite(value)) return String(value);
  }
  const json = parsed(bare);
  if (types.has("array") && Array.isArray(json)) return JSON.stringify(json);
  if (types.has("object") && asSchema(json) !== undefined) return JSON.stringify(json);
  return JSON.stringify(text);
}

function isNumber(text: string): boolean {
  return /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(text);
}

function parsed(text: string): unknown {
  if (!/^[[{]/.test(text)) return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // what is no JSON stays text
    return undefined;
  }
}
