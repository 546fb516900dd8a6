/** Our schemas as JSON Schema (draft 2020-12), as documents are written. */
import * as v from "valibot";
import { unexpected } from "../core/error.ts";
import type { AnyDocument } from "./documents.ts";
import { isPlainObject, type JsonSchema } from "./fields.ts";

export function jsonSchemaOf(doc: AnyDocument): JsonSchema {
  return { $schema: "https://json-schema.org/draft/2020-12/schema", $id: doc.id, ...written(doc.schema) };
}

const isSchema = (item: unknown): item is v.GenericSchema =>
  typeof item === "object" && item !== null && "kind" in item && item.kind === "schema";

/** What a leaf says of itself; undefined for what has parts. */
function described(schema: v.GenericSchema): JsonSchema | undefined {
  const metadata: Readonly<Record<string, unknown>> = v.getMetadata(schema);
  return isPlainObject(metadata.jsonSchema) ? metadata.jsonSchema : undefined;
}

function written(schema: v.GenericSchema): JsonSchema {
  const leaf = described(schema);
  if (leaf) return leaf;
  if ("pipe" in schema && Array.isArray(schema.pipe)) {
    const parts = schema.pipe.slice(1).filter(isSchema);
    const last = parts.at(-1);
    if (last) return written(last);
  }
  if ("entries" in schema) return objectOf(schema.entries as v.ObjectEntries);
  if (schema.type === "array" && "item" in schema && isSchema(schema.item))
    return { type: "array", items: written(schema.item) };
  if ("wrapped" in schema && isSchema(schema.wrapped)) {
    const inner = written(schema.wrapped);
    return schema.type === "nullable" ? { anyOf: [inner, { type: "null" }] } : inner;
  }
  throw unexpected("internal", "jsonSchemaOf", "a schema made of our fields", schema.type);
}

/** `T?` is an optional without a default: left out, never null. */
function objectOf(entries: v.ObjectEntries): JsonSchema {
  const fields = Object.entries(entries).map(([name, field]) => {
    const schema: unknown = field;
    if (!isSchema(schema)) throw unexpected("internal", "jsonSchemaOf", "a schema", name);
    const mayBeAbsent = schema.type === "optional" && "default" in schema && schema.default === undefined;
    return { name, mayBeAbsent, schema: mayBeAbsent ? presentOf(schema) : written(schema) };
  });
  return {
    type: "object",
    properties: Object.fromEntries(fields.map(({ name, schema }) => [name, schema])),
    required: fields.filter(({ mayBeAbsent }) => !mayBeAbsent).map(({ name }) => name),
    additionalProperties: false,
  };
}

/** Takes the null away that is only read, not written. */
function presentOf(schema: v.GenericSchema): JsonSchema {
  const inner = "wrapped" in schema ? schema.wrapped : undefined;
  const nullable = isSchema(inner) && "pipe" in inner && Array.isArray(inner.pipe) ? inner.pipe[0] : inner;
  if (isSchema(nullable) && "wrapped" in nullable && isSchema(nullable.wrapped))
    return written(nullable.wrapped);
  throw unexpected("internal", "jsonSchemaOf", "a field that may be absent", schema.type);
}
