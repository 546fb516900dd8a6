import { canonicalJson } from "../../core/json.ts";
import { refused, unsupportedKeyword } from "./refusal.ts";
import { annotations, isSchema, isTypeName, type Schema, type TypeName } from "./schema_keywords.ts";

/** Branches that merging two lists of alternatives may give. */
const mostBranches = 1024;

/** What putting schemas together needs: where references lead, and an account of the work, which is bounded. */
export type Merging = {
  readonly resolve: (schema: Schema) => Schema | boolean;
  /** Throws when all of it is spent. */
  readonly spend: (steps: number) => void;
};

/** The schema of values that both allow. */
export function bothOf(a: unknown, b: unknown, merging: Merging, path: string): unknown {
  if (a === false || b === false) return false;
  if (a === true || a === undefined) return b;
  if (b === true || b === undefined || equal(a, b)) return a;
  if (!isSchema(a) || !isSchema(b)) throw refused("schema", "schemas", "another value", { path });
  const [left, right] = [merging.resolve(a), merging.resolve(b)];
  if (!isSchema(left) || !isSchema(right)) return bothOf(left, right, merging, path);
  merging.spend(sizeOf(left) + sizeOf(right));
  return merged(left, right, path);
}

function merged(a: Schema, b: Schema, path: string): Schema | false {
  const out: Record<string, unknown> = { ...a };
  for (const [key, value] of Object.entries(b)) {
    if (annotations.has(key)) continue;
    if (key === "__proto__") throw unsupportedKeyword("schema", key, path);
    if (!Object.hasOwn(a, key)) out[key] = value;
    else if (!equal(a[key], value)) {
      const both = Object.hasOwn(rules, key) ? rules[key] : undefined;
      if (!both) throw unsupportedKeyword("schema", `two of ${key}`, path, "Put them into one schema");
      out[key] = both(a[key], value, path);
    }
  }
  mergeObjects(a, b, out);
  mergeArrays(a, b, out);
  const values = valuesOf(a);
  const others = valuesOf(b);
  if (values && others) {
    delete out.const;
    const known = keysOf(others);
    out.enum = values.filter((value) => known.has(canonicalJson(value)));
  }
  return out;
}

/** Members, properties and listed values of a schema. */
function sizeOf(schema: Schema): number {
  const { properties, enum: values } = schema;
  const own = Object.keys(schema).length + Object.keys(recordOf(properties)).length;
  return own + (Array.isArray(values) ? values.length : 0);
}

/** Listed values as texts that are equal where they are. */
export function keysOf(values: readonly unknown[]): ReadonlySet<string> {
  return new Set(values.map(canonicalJson));
}

type Both = (a: unknown, b: unknown, path: string) => unknown;
const larger: Both = (a, b) => (typeof a === "number" && typeof b === "number" ? Math.max(a, b) : a);
const smaller: Both = (a, b) => (typeof a === "number" && typeof b === "number" ? Math.min(a, b) : a);
const first: Both = (a) => a;

const rules: Readonly<Record<string, Both>> = {
  type: (a, b) => commonTypes(typesOf(a), typesOf(b)),
  minimum: larger,
  exclusiveMinimum: larger,
  minLength: larger,
  minItems: larger,
  maximum: smaller,
  exclusiveMaximum: smaller,
  maxLength: smaller,
  maxItems: smaller,
  required: (a, b) => [...new Set([...listOf(a), ...listOf(b)])],
  anyOf: branches,
  oneOf: (_, __, path) => {
    throw unsupportedKeyword("schema", "two of oneOf", path, "Put them into one schema");
  },
  allOf: (a, b) => [...listOf(a), ...listOf(b)],
  // these are put together below
  ...{
    properties: first,
    additionalProperties: first,
    items: first,
    prefixItems: first,
    enum: first,
    const: first,
  },
};

function branches(a: unknown, b: unknown, path: string): unknown {
  const [left, right] = [listOf(a), listOf(b)];
  if (left.length * right.length > mostBranches) {
    throw refused("schema", `at most ${mostBranches} combinations of anyOf`, "more", {
      keyword: "anyOf",
      path,
    });
  }
  return left.flatMap((one) => right.map((other) => both(one, other)));
}

function both(a: unknown, b: unknown): unknown {
  if (a === true || a === undefined) return b;
  if (b === true || b === undefined) return a;
  return a === false || b === false ? false : { allOf: [a, b] };
}

/** What one side says of a property meets what the other says of it, be it by its name or as one of the others. */
function mergeObjects(a: Schema, b: Schema, out: Record<string, unknown>): void {
  const [left, right] = [recordOf(a.properties), recordOf(b.properties)];
  const names = new Set([...Object.keys(left), ...Object.keys(right)]);
  if (names.size === 0 && a.additionalProperties === undefined && b.additionalProperties === undefined)
    return;
  const of = (own: Schema, rest: unknown, name: string): unknown =>
    Object.hasOwn(own, name) ? own[name] : (rest ?? true);
  const properties = [...names].map(
    (name) =>
      [name, both(of(left, a.additionalProperties, name), of(right, b.additionalProperties, name))] as const,
  );
  if (names.size > 0) out.properties = Object.fromEntries(properties);
  if (a.additionalProperties !== undefined || b.additionalProperties !== undefined) {
    out.additionalProperties = both(a.additionalProperties, b.additionalProperties);
  }
}

function mergeArrays(a: Schema, b: Schema, out: Record<string, unknown>): void {
  const [left, right] = [listOf(a.prefixItems), listOf(b.prefixItems)];
  const count = Math.max(left.length, right.length);
  if (count > 0) {
    out.prefixItems = Array.from({ length: count }, (_, i) =>
      both(i < left.length ? left[i] : a.items, i < right.length ? right[i] : b.items),
    );
  }
  if (a.items !== undefined || b.items !== undefined) out.items = both(a.items, b.items) ?? true;
}

/** The values a schema lists; undefined where it lists none. */
export function valuesOf(schema: Schema): readonly unknown[] | undefined {
  if (Object.hasOwn(schema, "const")) return [schema.const];
  return Array.isArray(schema.enum) ? schema.enum : undefined;
}

export function typesOf(type: unknown): readonly TypeName[] {
  return (Array.isArray(type) ? type : [type]).filter(isTypeName);
}

export function commonTypes(a: readonly TypeName[], b: readonly TypeName[]): readonly TypeName[] {
  const common = a.filter((type) => b.includes(type) || (type === "integer" && b.includes("number")));
  if (a.includes("number") && b.includes("integer") && !common.includes("integer")) common.push("integer");
  return common;
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function recordOf(value: unknown): Schema {
  return isSchema(value) ? value : {};
}

/** Whether two JSON values are equal; the order of members does not count. */
export function equal(a: unknown, b: unknown): boolean {
  return a === b || Bun.deepEquals(a, b, true);
}
