import { unexpected } from "../../core/error.ts";
import type { ChatTool } from "./types.ts";

type Schema = Readonly<Record<string, unknown>>;

/** Names as the model sees them, and back. */
export type ToolNames = {
  /** The name to write for a tool the client calls `name`. */
  readonly written: (name: string) => string;
  /** The client's name of a tool, or undefined when no such tool was offered. */
  readonly original: (written: string) => string | undefined;
};

/** Tools that the model was trained with; their names stand without the `functions.` namespace. */
export function isBuiltIn(name: string): boolean {
  return name === "python" || /^browser\.\w+$/.test(name);
}

/** A name as a TypeScript identifier. */
function identifier(name: string): string {
  if (isBuiltIn(name)) return name;
  const kept = name.replace(/[ .-]/g, "_").replace(/[^A-Za-z0-9_$]/g, "");
  return kept === "" ? "_" : /^[0-9]/.test(kept) ? `_${kept}` : kept;
}

/** Two tools whose names become one identifier get `_2`, `_3` in the order they are offered. */
export function toolNames(tools: readonly ChatTool[] = []): ToolNames {
  const writtenOf = new Map<string, string>();
  const originalOf = new Map<string, string>();
  for (const { name } of tools) {
    if (writtenOf.has(name)) continue;
    const wanted = identifier(name);
    let written = wanted;
    for (let n = 2; originalOf.has(written); n++) written = `${wanted}_${n}`;
    writtenOf.set(name, written);
    originalOf.set(written, name);
  }
  return {
    written: (name) => writtenOf.get(name) ?? identifier(name),
    original: (written) => originalOf.get(written),
  };
}

/** The `# Tools` section of the developer message: one TypeScript signature for each tool. */
export function toolSection(tools: readonly ChatTool[], names: ToolNames): string {
  const signatures = tools.map((tool) => `${signature(tool, names)}\n`);
  return `# Tools\n\n## functions\n\nnamespace functions {\n\n${signatures.join("\n")}\n} // namespace functions`;
}

function signature({ name, description, parameters }: ChatTool, names: ToolNames): string {
  const head = comment(description);
  const properties = asSchema(parameters?.properties);
  const written = names.written(name);
  if (parameters === undefined || properties === undefined || Object.keys(properties).length === 0) {
    return `${head}type ${written} = () => any;`;
  }
  return `${head}type ${written} = (_: ${objectType(parameters, 0)}) => any;`;
}

function comment(text: unknown, indent = ""): string {
  if (typeof text !== "string" || text === "") return "";
  return text
    .split("\n")
    .map((line) => `${indent}// ${line}\n`)
    .join("");
}

/** Schemas come from clients; nesting beyond this depth is `any`. */
const MAX_DEPTH = 32;

function objectType(schema: Schema, depth: number): string {
  const properties = asSchema(schema.properties) ?? {};
  const required = new Set(Array.isArray(schema.required) ? schema.required : []);
  const indent = depth === 0 ? "" : "    ".repeat(depth);
  const lines = Object.entries(properties).map(([key, value]) =>
    property(key, asSchema(value) ?? {}, required.has(key), depth, indent),
  );
  return `{\n${lines.join("")}${"    ".repeat(Math.max(0, depth - 1))}}`;
}

function property(key: string, schema: Schema, required: boolean, depth: number, indent: string): string {
  const variants = unionOf(schema);
  const head = propertyComments(schema, indent);
  const name = `${indent}${key}${required ? "" : "?"}:`;
  const fallback = defaultComment(schema);
  if (variants === undefined) return `${head}${name} ${typeOf(schema, depth + 1)},${fallback}\n`;
  const lines = variants.map((variant) => {
    const note =
      typeof variant.description === "string" ? ` // ${variant.description.split("\n").join(" ")}` : "";
    return `${indent} | ${typeOf(variant, depth + 1)}${note}\n`;
  });
  return `${head}${name}\n${lines.join("")}${indent},${fallback}\n`;
}

function propertyComments(schema: Schema, indent: string): string {
  const title = typeof schema.title === "string" ? `${comment(schema.title, indent)}${indent}//\n` : "";
  const examples = Array.isArray(schema.examples) && schema.examples.length > 0 ? schema.examples : [];
  const shown = examples.map((example) => `${indent}// - ${json(example)}\n`).join("");
  return `${title}${comment(schema.description, indent)}${shown === "" ? "" : `${indent}// Examples:\n${shown}`}`;
}

function defaultComment(schema: Schema): string {
  const value = schema.default;
  if (value === undefined) return "";
  // A default that is one of the listed values stands bare, as the reference writes it.
  const bare = typeof value === "string" && Array.isArray(schema.enum);
  return ` // default: ${bare ? value : json(value)}`;
}

function unionOf(schema: Schema): Schema[] | undefined {
  const variants = schema.oneOf ?? schema.anyOf;
  if (!Array.isArray(variants) || variants.length === 0) return undefined;
  return variants.map((variant) => asSchema(variant) ?? {});
}

function typeOf(schema: Schema, depth: number): string {
  if (depth > MAX_DEPTH) return "any";
  const nullable = schema.nullable === true ? " | null" : "";
  const variants = unionOf(schema);
  if (variants !== undefined)
    return variants.map((variant) => typeOf(variant, depth + 1)).join(" | ") + nullable;
  const { type } = schema;
  if (Array.isArray(type)) {
    const names = type.map((name) => (name === "null" ? "null" : simpleType(String(name), schema, depth)));
    return names.join(" | ") + nullable;
  }
  return simpleType(typeof type === "string" ? type : "", schema, depth) + nullable;
}

function simpleType(type: string, schema: Schema, depth: number): string {
  switch (type) {
    case "string":
      return Array.isArray(schema.enum) && schema.enum.length > 0
        ? schema.enum.map((value) => json(value)).join(" | ")
        : "string";
    case "number":
    case "integer":
      return "number";
    case "boolean":
      return "boolean";
    case "array": {
      const items = asSchema(schema.items);
      if (items === undefined) return "Array<any>";
      return `${typeOf(items, depth)}[]`;
    }
    case "object":
      return objectType(schema, depth);
    default:
      return "any";
  }
}

/** A value of a schema on one line. */
function json(value: unknown): string {
  try {
    return JSON.stringify(value) ?? "null";
  } catch (cause) {
    const details = { param: "tools" };
    throw unexpected("invalid_request", "tools", "schemas of JSON values, not nested too deeply", cause, {
      details,
    });
  }
}

function asSchema(value: unknown): Schema | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Schema) : undefined;
}
