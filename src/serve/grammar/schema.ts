import type { PsionicError } from "../../core/error.ts";
import { choice, type Expr, type Grammar, optional, repeat, rule, seq, text } from "./expr.ts";
import { jsonNotation, type Notation } from "./notation.ts";
import {
  dotted,
  isUnsatisfiable,
  pointerStep,
  refused,
  shown,
  unsatisfiable,
  unsupportedKeyword,
} from "./refusal.ts";
import { areDiscriminated, areDisjoint } from "./schema_disjoint.ts";
import {
  annotations,
  hasType,
  isHarmless,
  isSchema,
  isTypeName,
  type Schema,
  served,
  type TypeName,
  typeNames,
  typeOfKeyword,
} from "./schema_keywords.ts";
import { bothOf, type Merging, typesOf, valuesOf } from "./schema_merge.ts";
import {
  bounds,
  checkedOnValues,
  counts,
  hasMultiple,
  isWithin,
  limitsOf,
  numberExpr,
  type SchemaPlace,
  stringExpr,
  wholeNumber,
} from "./schema_scalars.ts";
import { checkValue } from "./schema_value.ts";

export type SchemaOptions = {
  /**
   * Keywords that are not served count as absent, and are named in `notes`; otherwise they are refused. What a schema is for
   * decides: an answer that was asked for in a form must have it, a tool's client checks what it gets.
   */
  readonly lenient?: boolean;
  /** How values are written; absent: as JSON. */
  readonly notation?: Notation;
  /** Distinguishes the rules of several schemas in one grammar. */
  readonly prefix?: string;
};

export type SchemaGrammar = Grammar & { readonly notes: readonly string[] };

const maxSchemas = 20_000;
const maxNesting = 128;
const maxReferences = 64;
/** Members looked at where schemas are put together or told apart; some tenths of a second. */
const mostWork = 200_000;
/** Items that a grammar counts one by one. */
const maxCounted = 10_000;
/** Properties whose names others must differ from, characters together. */
const maxNameLength = 20_000;
const longestName = 300;

/** The JSON texts of the values that a schema allows; throws `unsupported` that names keyword and place. */
export function schemaGrammar(schema: unknown, options: SchemaOptions = {}): SchemaGrammar {
  checkValue(schema);
  const reader = new SchemaReader(schema, options);
  const root = reader.read();
  return { rules: reader.rules, root, notes: [...new Set(reader.notes)] };
}

class SchemaReader {
  readonly rules: Map<string, Expr>;
  readonly notes: string[] = [];
  private readonly root: unknown;
  private readonly lenient: boolean;
  private readonly prefix: string;
  private readonly notation: Notation;
  /** Rules of schemas, by identity where a schema is the client's, by text where it was put together here. */
  private readonly byIdentity = new Map<object, string>();
  private readonly byText = new Map<string, string>();
  private readonly made = new WeakSet<object>();
  /** Rules that no value fits, and why. */
  private readonly impossible = new Map<string, PsionicError>();
  private count = 0;
  private depth = 0;
  /** Schemas put together here that are being read, within each other. */
  private merged = 0;
  private work = 0;

  constructor(root: unknown, { lenient = false, prefix = "schema", notation = jsonNotation }: SchemaOptions) {
    this.notation = notation;
    this.rules = new Map(notation.rules);
    this.root = root;
    this.lenient = lenient;
    this.prefix = prefix;
  }

  read(): Expr {
    if (this.root === false) return this.nothing("", "a schema that some value fits", "false");
    return this.expr(this.root, "");
  }

  /** A place that no value fits: refused, unless what cannot be is passed over. */
  private nothing(path: string, expected: string, got: string): Expr {
    if (this.lenient) return choice();
    throw unsatisfiable(expected, got, path);
  }

  /** The alternatives that some value fits; where there is none, the first one's reason is thrown. */
  private alternatives(parts: readonly (() => Expr)[]): Expr {
    const possible: Expr[] = [];
    let reason: unknown;
    for (const part of parts) {
      try {
        possible.push(part());
      } catch (error) {
        if (!isUnsatisfiable(error)) throw error;
        reason ??= error;
      }
    }
    if (possible.length === 0 && reason !== undefined) throw reason;
    return choice(...possible, ...(possible.length === 1 ? [choice()] : []));
  }

  /** What may be left out. Schemas that were put together may exclude it, which is no mistake. */
  private dispensable(read: () => Expr): Expr {
    try {
      return read();
    } catch (error) {
      if (this.merged > 0 && isUnsatisfiable(error)) return choice();
      throw error;
    }
  }

  private unsupported(keyword: string, path: string, fix?: string): void {
    if (this.lenient) {
      this.notes.push(dotted(path + pointerStep(keyword)));
      return;
    }
    // some are told with what they stand beside
    const [first = ""] = keyword.split(" ");
    const place = path + pointerStep(served.has(first) ? first : keyword);
    throw unsupportedKeyword("schema", keyword, place, fix);
  }

  private wrong(path: string, keyword: string, expected: string): Error {
    return refused("schema", expected, "something else", {
      keyword,
      path: `${path}/${keyword}`,
    });
  }

  /** A schema's rule; the same schema has one rule, so that references may go in circles. */
  private expr(schema: unknown, path: string): Expr {
    if (schema === true || schema === undefined) return this.notation.value;
    if (schema === false) return choice();
    if (!isSchema(schema))
      throw refused(
        "schema",
        "an object or a truth value",
        Array.isArray(schema) ? "an array" : String(typeof schema),
        { path },
      );
    const text = this.made.has(schema) ? JSON.stringify(schema) : undefined;
    const known = text === undefined ? this.byIdentity.get(schema) : this.byText.get(text);
    const failed = known === undefined ? undefined : this.impossible.get(known);
    if (failed) throw failed;
    if (known !== undefined) return rule(known);
    if (++this.count > maxSchemas) throw refused("schema", `at most ${maxSchemas} schemas`, "more", { path });
    if (++this.depth > maxNesting)
      throw refused("schema", `schemas nested at most ${maxNesting} deep`, "deeper ones", {
        path,
      });
    const name = `${this.prefix} ${this.count}`;
    if (text === undefined) this.byIdentity.set(schema, name);
    else this.byText.set(text, name);
    this.merged += text === undefined ? 0 : 1;
    try {
      this.rules.set(name, this.build(schema, path));
    } catch (error) {
      if (isUnsatisfiable(error)) this.impossible.set(name, error);
      throw error;
    } finally {
      this.depth -= 1;
      this.merged -= text === undefined ? 0 : 1;
    }
    return rule(name);
  }

  private both(a: unknown, b: unknown, path: string): unknown {
    const both = bothOf(a, b, this.merging(path), path);
    if (isSchema(both) && both !== a && both !== b) this.made.add(both);
    return both;
  }

  private merging(path: string): Merging {
    return {
      resolve: (schema) => this.resolved(schema, path),
      spend: (steps) => {
        this.work += steps;
        if (this.work <= mostWork) return;
        const fix = "Use fewer branches and properties where schemas are put together";
        throw refused("schema", "schemas that can be put together soon", "too many parts", { path, fix });
      },
    };
  }

  private build(schema: Schema, path: string): Expr {
    this.checkKeywords(schema, path);
    const { $ref, allOf, anyOf, oneOf, ...rest } = schema;
    if ($ref !== undefined) {
      const target = this.target($ref, path);
      const others = Object.keys(schema).filter((key) => key !== "$ref" && !annotations.has(key));
      if (others.length === 0) return this.expr(target, String($ref).slice(1));
      const { $ref: _, ...beside } = schema;
      return this.expr(this.both(target, this.own(beside), path), path);
    }
    if (allOf !== undefined) {
      const { allOf: _, ...beside } = schema;
      let all: unknown = this.own(beside);
      this.list(allOf, "allOf", path).forEach((one, i) => {
        if (isSchema(one)) this.checkKeywords(one, `${path}/allOf/${i}`);
        all = this.both(all, one, `${path}/allOf/${i}`);
      });
      return this.expr(all, path);
    }
    if (anyOf !== undefined && oneOf !== undefined)
      this.unsupported("oneOf", path, "Use either anyOf or oneOf");
    const keyword = anyOf === undefined ? "oneOf" : "anyOf";
    const branches = anyOf ?? oneOf;
    if (branches !== undefined) {
      const list = this.list(branches, keyword, path);
      if (keyword === "oneOf") this.checkOneOf(list, path);
      const beside = this.own(rest);
      return this.alternatives(
        list.map((one, i) => () => this.expr(this.both(one, beside, path), `${path}/${keyword}/${i}`)),
      );
    }
    return this.plain(schema, path);
  }

  /** A schema put together here. */
  private own(schema: Schema): Schema | true {
    const says = Object.keys(schema).some((key) => !annotations.has(key));
    if (!says) return true;
    this.made.add(schema);
    return schema;
  }

  private list(value: unknown, keyword: string, path: string): readonly unknown[] {
    if (!Array.isArray(value) || value.length === 0) throw this.wrong(path, keyword, "an array of schemas");
    return value;
  }

  private checkOneOf(list: readonly unknown[], path: string): void {
    const merging = this.merging(path);
    if (areDiscriminated(list, merging)) return;
    for (let i = 0; i < list.length; i++) {
      for (let j = i + 1; j < list.length; j++) {
        if (areDisjoint(list[i], list[j], merging)) continue;
        this.unsupported("oneOf", path, "Its branches are not known to exclude each other; use anyOf");
        return;
      }
    }
  }

  private checkKeywords(schema: Schema, path: string): void {
    for (const [key, value] of Object.entries(schema)) {
      if (served.has(key) || annotations.has(key) || key.startsWith("x-")) continue;
      if (isHarmless(key, value)) continue;
      if (key === "multipleOf" && value === 1 && typesOf(schema.type).every((type) => type === "integer"))
        continue;
      if (key === "multipleOf" && typeof value === "number" && !hasMultiple(value, schema))
        this.nothing(path, "bounds with a multiple between them", limitsOf(schema, [...bounds, key]));
      this.unsupported(key, path);
    }
  }

  /** What a `$ref` leads to: a place in the same schema. */
  private target(ref: unknown, path: string): unknown {
    if (typeof ref !== "string" || !/^#(?:\/|$)/.test(ref)) {
      throw unsupportedKeyword(
        "schema",
        "$ref",
        `${path}/$ref`,
        "Only references into the schema itself (#/$defs/...) are followed",
      );
    }
    let at: unknown = this.root;
    const steps = ref === "#" ? [] : ref.slice(2).split("/");
    for (const step of steps) {
      const name = decoded(step).replaceAll("~1", "/").replaceAll("~0", "~");
      const inside = typeof at === "object" && at !== null && Object.hasOwn(at, name);
      if (!inside)
        throw refused("schema", "references that lead somewhere", shown(ref), { keyword: "$ref", path });
      at = (at as Record<string, unknown>)[name];
    }
    return at;
  }

  private resolved(schema: Schema, path: string): Schema | boolean {
    let at: unknown = schema;
    for (let hops = 0; isSchema(at) && at.$ref !== undefined; hops++) {
      if (hops > maxReferences)
        throw refused("schema", "references that end", "a circle", { keyword: "$ref", path });
      const { $ref, ...beside } = at;
      const target = this.target($ref, path);
      at = Object.keys(beside).every((key) => annotations.has(key)) ? target : { allOf: [target, beside] };
    }
    if (typeof at === "boolean" || isSchema(at)) return at;
    throw refused("schema", "references to schemas", "one to something else", { keyword: "$ref", path });
  }

  /** A schema of one level: types with what limits them, or listed values. */
  private plain(schema: Schema, path: string): Expr {
    const types = this.typesFor(schema, path);
    const values = valuesOf(schema);
    if (values !== undefined) return this.listed(schema, values, types, path);
    if (types.length === typeNames.length - 1 && !Object.keys(schema).some((key) => typeOfKeyword(key)))
      return this.notation.value;
    if (types.length === 0) return this.nothing(path, "types that a value can have at once", "none");
    return this.alternatives(types.map((type) => () => this.typed(type, schema, path)));
  }

  /** The types a schema names; without any, those that its keywords are about; without these, all. */
  private typesFor(schema: Schema, path: string): readonly TypeName[] {
    const { type } = schema;
    if (type !== undefined) {
      const list: readonly unknown[] = Array.isArray(type) ? type : [type];
      const unknown = list.find((one) => !isTypeName(one));
      if (unknown !== undefined) throw this.wrong(path, "type", `one of ${typeNames.join(", ")}`);
      const types = typesOf(type);
      return types.includes("number") ? types.filter((one) => one !== "integer") : types;
    }
    const implied = new Set<string>();
    for (const key of Object.keys(schema)) {
      const type = typeOfKeyword(key);
      if (type !== undefined) implied.add(type);
    }
    if (implied.size > 0 && valuesOf(schema) === undefined) return [...implied].filter(isTypeName);
    return typeNames.filter((name) => name !== "integer");
  }

  /** Listed values, less those that the rest of the schema does not allow. */
  private listed(schema: Schema, values: readonly unknown[], types: readonly TypeName[], path: string): Expr {
    const structured = values.some((value) => typeof value === "object" && value !== null);
    for (const key of Object.keys(schema)) {
      const type = typeOfKeyword(key);
      const idle = (type === "object" || type === "array") && !structured;
      if (type === undefined || idle || checkedOnValues.has(key)) continue;
      this.unsupported(`${key} beside enum or const`, path, "List only the values that are allowed");
    }
    if (Object.hasOwn(schema, "enum") && !Array.isArray(schema.enum))
      throw this.wrong(path, "enum", "an array of values");
    const fitting = values.filter((value) => hasType(value, types) && isWithin(value, schema));
    if (fitting.length === 0)
      return this.nothing(path, "listed values that fit what stands beside them", "none");
    return this.notation.values(fitting);
  }

  private place(path: string): SchemaPlace {
    return {
      ...{ path, notation: this.notation, lenient: this.lenient },
      unsupported: (keyword, fix) => this.unsupported(keyword, path, fix),
      wrong: (keyword, expected) => this.wrong(path, keyword, expected),
      nothing: (expected, got) => this.nothing(path, expected, got),
    };
  }

  private typed(type: TypeName, schema: Schema, path: string): Expr {
    switch (type) {
      case "null":
        return text("null");
      case "boolean":
        return choice(text("true"), text("false"));
      case "string":
        return this.notation.string(stringExpr(schema, this.place(path)));
      case "integer":
      case "number":
        return numberExpr(type, schema, this.place(path));
      case "array":
        return this.array(schema, path);
      case "object":
        return this.object(schema, path);
    }
  }

  private array(schema: Schema, path: string): Expr {
    const min = wholeNumber(schema, "minItems", this.place(path)) ?? 0;
    const max = wholeNumber(schema, "maxItems", this.place(path)) ?? Infinity;
    const tuple = schema.prefixItems ?? (Array.isArray(schema.items) ? schema.items : []);
    if (!Array.isArray(tuple)) throw this.wrong(path, "prefixItems", "an array of schemas");
    const rest = Array.isArray(schema.items) ? (schema.additionalItems ?? true) : schema.items;
    if (max < min) return this.nothing(path, "counts that an array can have", limitsOf(schema, counts));
    const read = (of: unknown, isNeeded: boolean, at: string): Expr => {
      if (isNeeded && of === false) return this.nothing(at, "items that may be there", "false");
      return isNeeded ? this.expr(of, at) : this.dispensable(() => this.expr(of, at));
    };
    const first = tuple.slice(0, Math.min(tuple.length, max)).map((one, i) => ({
      of: read(one, i < min, `${path}/prefixItems/${i}`),
      optional: false,
    }));
    const needed = Math.max(0, min - first.length);
    const item = read(rest, needed > 0, `${path}/items`);
    const most = max - first.length;
    const counted = most === Infinity ? needed : most;
    if (counted > maxCounted)
      throw this.wrong(path, max === Infinity ? "minItems" : "maxItems", `at most ${maxCounted} items`);
    // behind a place that is left out nothing can follow, so what may be missing nests from the end
    const closed = rest === false;
    const before = first.length;
    const required: readonly { of: Expr; optional: boolean }[] = first.map((one) => one);
    const body = arrayBody(this.notation.comma, required, before, item, {
      needed: closed ? 0 : needed,
      most: closed ? 0 : most,
      min,
    });
    // where that is passed over
    if (closed && needed > 0) return choice();
    return seq(text("["), body, text("]"));
  }

  private object(schema: Schema, path: string): Expr {
    const properties = schema.properties ?? {};
    if (!isSchema(properties)) throw this.wrong(path, "properties", "an object of schemas");
    const required = schema.required ?? [];
    if (!Array.isArray(required) || required.some((name) => typeof name !== "string")) {
      throw this.wrong(path, "required", "an array of names");
    }
    const names = Object.keys(properties);
    const missing = [...new Set(required as string[])].filter((name) => !Object.hasOwn(properties, name));
    const others = schema.additionalProperties ?? (schema.properties === undefined && missing.length === 0);
    if (missing.length > 0 && schema.additionalProperties === false) {
      return this.nothing(`${path}/required`, "required properties that are allowed", shown(missing[0]!));
    }
    const must = new Set(required as string[]);
    const property = (name: string, value: Expr): Expr =>
      seq(this.notation.name(name), this.notation.colon, value);
    const items = [...names, ...missing].map((name) => {
      const named = Object.hasOwn(properties, name);
      const value = named ? properties[name] : (schema.additionalProperties ?? true);
      const at = named ? `${path}/properties${pointerStep(name)}` : `${path}/additionalProperties`;
      const isNeeded = must.has(name);
      const read = (): Expr => {
        if (!isNeeded || value !== false) return this.expr(value, at);
        return this.nothing(at, "a required property that may be there", "false");
      };
      return { of: property(name, isNeeded ? read() : this.dispensable(read)), optional: !isNeeded };
    });
    const body: Expr = {
      kind: "list",
      items,
      separator: this.notation.comma,
      ...(others === false ? {} : { more: this.other([...names, ...missing], others, path) }),
    };
    return seq(text("{"), body, text("}"));
  }

  private other(names: readonly string[], value: unknown, path: string): Expr {
    const length = names.reduce((sum, name) => sum + name.length, 0);
    if (length > maxNameLength || names.some((name) => name.length > longestName)) {
      throw refused(
        "schema",
        `names of at most ${longestName} characters, ${maxNameLength} together`,
        "longer ones",
        {
          keyword: "additionalProperties",
          path,
          fix: "Set additionalProperties to false",
        },
      );
    }
    return seq(
      this.notation.otherName(names),
      this.notation.colon,
      this.dispensable(() => this.expr(value, `${path}/additionalProperties`)),
    );
  }
}

type Counts = { readonly needed: number; readonly most: number; readonly min: number };

/** Places of a tuple in order, then items as often as is asked; fewer than the tuple has where `min` allows it. */
function arrayBody(
  comma: Expr,
  first: readonly { of: Expr }[],
  before: number,
  item: Expr,
  { needed, most, min }: Counts,
): Expr {
  const separated = (of: Expr): Expr => seq(comma, of);
  let tail: Expr;
  if (before > 0) tail = repeat(separated(item), needed, most);
  else if (most === 0) return text("");
  else {
    const all = seq(
      item,
      repeat(separated(item), Math.max(0, needed - 1), most === Infinity ? Infinity : most - 1),
    );
    return needed === 0 ? optional(all) : all;
  }
  let body = most === 0 ? text("") : tail;
  for (let i = before - 1; i >= 0; i--) {
    const place = i === 0 ? first[i]!.of : separated(first[i]!.of);
    body = seq(place, body);
    if (i >= min) body = optional(body);
  }
  return body;
}

function decoded(step: string): string {
  try {
    return decodeURIComponent(step);
  } catch {
    // a name with a % of its own
    return step;
  }
}

/** Any value, or any object. */
export function anyGrammar(kind: "value" | "object", notation: Notation = jsonNotation): Grammar {
  return { rules: notation.rules, root: kind === "value" ? notation.value : notation.object };
}
