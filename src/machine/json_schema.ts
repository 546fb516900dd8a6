/** Our schemas as JSON Schema (draft 2020-12). */
import * as v from "valibot";
import { unexpected } from "../core/error.ts";
import type { AnyDocument } from "./documents.ts";
import { isPlainObject, type JsonSchema } from "./fields.ts";

/** As documents are written, every key there; or as they are read: what may be null may be missing, unknown keys are let be. */
export type Form = "written" | "read";

export function jsonSchemaOf(doc: AnyDocument, form: Form = "written"): JsonSchema {
  const schema = schemaOf(doc.schema, form);
  return { $schema: "https://json-schema.org/draft/2020-12/schema", $id: doc.id, ...schema };
}

const isSchema = (item: unknown): item is v.GenericSchema =>
  typeof item === "object" && item !== null && "kind" in item && item.kind === "schema";

/** What a leaf says of itself; undefined for what has parts. */
function described(schema: v.GenericSchema): JsonSchema | undefined {
  const metadata: Readonly<Record<string, unknown>> = v.getMetadata(schema);
  return isPlainObject(metadata.jsonSchema) ? metadata.jsonSchema : undefined;
}

function schemaOf(schema: v.GenericSchema, form: Form): JsonSchema {
  const leaf = described(schema);
  if (leaf) return leaf;
  if ("pipe" in schema && Array.isArray(schema.pipe)) {
    const parts = schema.pipe.slice(1).filter(isSchema);
    const last = parts.at(-1);
    if (last) return schemaOf(last, form);
  }
  if ("entries" in schema) return objectOf(schema.entries as v.ObjectEntries, form);
  if (schema.type === "array" && "item" in schema && isSchema(schema.item))
    return { type: "array", items: schemaOf(schema.item, form) };
  if (schema.type === "record" && "value" in schema && isSchema(schema.value))
    return { type: "object", additionalProperties: schemaOf(schema.value, form) };
  if ("wrapped" in schema && isSchema(schema.wrapped)) {
    const inner = schemaOf(schema.wrapped, form);
    return schema.type === "nullable" ? { anyOf: [inner, { type: "null" }] } : inner;
  }
  throw unexpected("internal", "jsonSchemaOf", "a schema made of our fields", schema.type);
}

/** `T?` is an optional without a default: left out, never null. */
function objectOf(entries: v.ObjectEntries, form: Form): JsonSchema {
  const fields = Object.entries(entries).map(([name, field]) => {
    const schema: unknown = field;
    if (!isSchema(schema)) throw unexpected("internal", "jsonSchemaOf", "a schema", name);
    const mayBeAbsent = schema.type === "optional" && "default" in schema && schema.default === undefined;
    return {
      name,
      mayBeAbsent: mayBeAbsent || (form === "read" && schema.type === "optional"),
      schema: mayBeAbsent ? presentOf(schema, form) : schemaOf(schema, form),
    };
  });
  return {
    type: "object",
    properties: Object.fromEntries(fields.map(({ name, schema }) => [name, schema])),
    required: fields.filter(({ mayBeAbsent }) => !mayBeAbsent).map(({ name }) => name),
    additionalProperties: form === "read",
  };
}

/** Takes the null away that is only read, not written. */
function presentOf(schema: v.GenericSchema, form: Form): JsonSchema {
  const inner = "wrapped" in schema ? schema.wrapped : undefined;
  const nullable = isSchema(inner) && "pipe" in inner && Array.isArray(inner.pipe) ? inner.pipe[0] : inner;
  if (isSchema(nullable) && "wrapped" in nullable && isSchema(nullable.wrapped)) {
    return form === "read" ? schemaOf(nullable, form) : schemaOf(nullable.wrapped, form);
  }
  throw unexpected("internal", "jsonSchemaOf", "a field that may be absent", schema.type);
}
