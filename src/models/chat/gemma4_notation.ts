import { unexpected } from "../../core/error.ts";
import { marked, plain } from "./pieces.ts";
import type { ChatTool, PromptPiece } from "./types.ts";

type Mapping = Readonly<Record<string, unknown>>;

/** Stands on both sides of a string; what lies between is not escaped. */
export const QUOTE = '<|"|>';

/** Values of clients nested deeper are refused. */
const MAX_DEPTH = 64;

export function quoted(text: string): PromptPiece[] {
  return [marked(QUOTE), plain(text), marked(QUOTE)];
}

/** `{k:v,...}` with its keys in order. */
export function mappingPieces(value: Mapping, quoteKeys = false, depth = 0): PromptPiece[] {
  const pieces = sortedEntries(value).flatMap(([key, item], i) => [
    plain(i === 0 ? "" : ","),
    ...(quoteKeys ? quoted(key) : [plain(key)]),
    plain(":"),
    ...valuePieces(item, quoteKeys, depth + 1),
  ]);
  return [plain("{"), ...pieces, plain("}")];
}

/** A value in Gemma 4's notation. */
export function valuePieces(value: unknown, quoteKeys: boolean, depth = 0): PromptPiece[] {
  if (depth > MAX_DEPTH) {
    const expected = `values nested at most ${MAX_DEPTH} deep`;
    throw unexpected("invalid_request", "chat", expected, "deeper ones", { details: { param: "messages" } });
  }
  if (typeof value === "string") return quoted(value);
  if (Array.isArray(value)) {
    const items = value.map((item) => valuePieces(item, quoteKeys, depth + 1));
    return [plain("["), ...separated(items), plain("]")];
  }
  return isMapping(value) ? mappingPieces(value, quoteKeys, depth) : [plain(String(value))];
}

/** `<|tool>declaration:NAME{...}<tool|>` */
export function declarationPieces({ name, description = "", parameters }: ChatTool): PromptPiece[] {
  const schema = parameters !== undefined && Object.keys(parameters).length > 0 ? parameters : undefined;
  return [
    marked("<|tool>"),
    plain(`declaration:${name}{description:`),
    ...quoted(description),
    ...(schema === undefined ? [] : [plain(",parameters:"), ...parametersPieces(schema)]),
    plain("}"),
    marked("<tool|>"),
  ];
}

function parametersPieces({ properties, required, type }: Mapping): PromptPiece[] {
  const known = isMapping(properties) && Object.keys(properties).length > 0 ? properties : undefined;
  return [
    plain("{"),
    ...(known ? [plain("properties:{"), ...propertyPieces(known, 0), plain("},")] : []),
    ...(names(required).length > 0 ? [...requiredPieces(names(required)), plain(",")] : []),
    plain("type:"),
    ...quoted(upperType(type ?? "object")),
    plain("}"),
  ];
}

function propertyPieces(properties: Mapping, depth: number): PromptPiece[] {
  return separated(
    sortedEntries(properties).map(([key, value]) => [
      plain(`${key}:{`),
      ...separated(memberPieces(isMapping(value) ? value : {}, depth)),
      plain("}"),
    ]),
  );
}

/** What stands in a property's braces, in the order the reference template has. */
function memberPieces(schema: Mapping, depth: number): PromptPiece[][] {
  const { description, nullable, items, required } = schema;
  const type = upperType(schema.type);
  const members: PromptPiece[][] = [];
  if (depth > MAX_DEPTH) return [[plain("type:"), ...quoted(type)]];
  if (description) members.push([plain("description:"), ...quoted(String(description))]);
  if (type === "STRING" && Array.isArray(schema.enum) && schema.enum.length > 0) {
    members.push([plain("enum:"), ...valuePieces(schema.enum, true)]);
  }
  if (type === "ARRAY" && isMapping(items) && Object.keys(items).length > 0) {
    members.push([plain("items:{"), ...separated(itemPieces(items, depth + 1)), plain("}")]);
  }
  if (nullable) members.push([plain("nullable:true")]);
  if (type === "OBJECT") {
    const { properties } = schema;
    const inner = isMapping(properties) ? properties : withoutKeywords(schema);
    members.push([plain("properties:{"), ...propertyPieces(inner, depth + 1), plain("}")]);
    if (names(required).length > 0) members.push(requiredPieces(names(required)));
  }
  return [...members, [plain("type:"), ...quoted(type)]];
}

function itemPieces(items: Mapping, depth: number): PromptPiece[][] {
  return sortedEntries(items).flatMap(([key, value]) => {
    if (value === null) return [];
    if (key === "properties") {
      const inner = isMapping(value) ? propertyPieces(value, depth) : [];
      return [[plain("properties:{"), ...inner, plain("}")]];
    }
    if (key === "required") return [requiredPieces(names(value))];
    if (key === "type") {
      const upper = Array.isArray(value) ? value.map(upperType) : upperType(value);
      return [[plain("type:"), ...valuePieces(upper, true)]];
    }
    return [[plain(`${key}:`), ...valuePieces(value, true)]];
  });
}

const KEYWORDS: readonly string[] = ["description", "type", "properties", "required", "nullable"];

/** An object that lists its properties without saying so. */
function withoutKeywords(schema: Mapping): Mapping {
  return Object.fromEntries(Object.entries(schema).filter(([key]) => !KEYWORDS.includes(key)));
}

function requiredPieces(required: readonly string[]): PromptPiece[] {
  return [plain("required:["), ...separated(required.map(quoted)), plain("]")];
}

function names(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.map(String) : [];
}

/** Several types are one string that looks like a list of Python. */
function upperType(type: unknown): string {
  if (Array.isArray(type)) return `[${type.map((name) => `'${String(name).toUpperCase()}'`).join(", ")}]`;
  return typeof type === "string" ? type.toUpperCase() : "";
}

function separated(parts: readonly (readonly PromptPiece[])[]): PromptPiece[] {
  return parts.flatMap((part, i) => (i === 0 ? part : [plain(","), ...part]));
}

/** In the order of the names, capitals aside. */
function sortedEntries(value: Mapping): [string, unknown][] {
  const order = (key: string): string => key.toLowerCase();
  return Object.entries(value).sort(([a], [b]) => (order(a) < order(b) ? -1 : order(a) > order(b) ? 1 : 0));
}

export function isMapping(value: unknown): value is Mapping {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
