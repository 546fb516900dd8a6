/** Typed documents: a schema id, fields in their order, and how their digest is made. */
import * as v from "valibot";
import { sha256 } from "../core/digest.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import { orderedJson } from "../core/json.ts";
import type { ExactJson } from "../core/json_reader.ts";
import { exactly, isPlainObject, record } from "./fields.ts";

/** SHA-256 of prefix and compact JSON, the document's own digest emptied. */
export type DigestRule = {
  readonly field: string;
  readonly prefix: string;
  /** What stands in the digest's own place meanwhile. */
  readonly empty?: null;
  /** Local paths of bindings are left out. */
  readonly stripPaths?: true;
  /** Keys that are left out. */
  readonly omit?: readonly string[];
};

function versioned<Id extends string, F extends v.ObjectEntries>(id: Id, fields: F) {
  return record({ schema_version: exactly(id), ...fields });
}

/** `Own`: name of the field with the document's own digest. */
export type Document<Id extends string, F extends v.ObjectEntries, Own extends string> = {
  readonly id: Id;
  readonly schema: ReturnType<typeof versioned<Id, F>>;
  readonly digest: (DigestRule & { readonly field: Own }) | undefined;
};

/** Any document, as the registry lists them. */
export type AnyDocument = {
  readonly id: string;
  readonly schema: v.GenericSchema;
  readonly digest: DigestRule | undefined;
};

/** What a document holds. */
export type Content<D extends { readonly schema: v.GenericSchema }> = v.InferOutput<D["schema"]>;

export function document<
  const Id extends string,
  F extends v.ObjectEntries,
  const Own extends string = never,
>(id: Id, fields: F, digest?: DigestRule & { readonly field: Own }): Document<Id, F, Own> {
  return { id, schema: versioned(id, fields), digest };
}

/** The digest by a rule; `value` has its keys in order. */
export function digestOf(rule: DigestRule, value: object): string {
  const emptied: Record<string, unknown> = { ...value, [rule.field]: rule.empty === null ? null : "" };
  for (const key of rule.omit ?? []) delete emptied[key];
  return sha256(rule.prefix + orderedJson(rule.stripPaths ? withoutPaths(emptied) : emptied));
}

/** Checks what we are about to write, puts its keys in order and fills in version and digest. */
export function sealed<Id extends string, F extends v.ObjectEntries, Own extends string>(
  doc: Document<Id, F, Own>,
  content: Omit<Content<Document<Id, F, Own>>, "schema_version" | Own>,
): Content<Document<Id, F, Own>> {
  const rule = doc.digest;
  const given = { ...content, schema_version: doc.id, ...(rule && { [rule.field]: "0".repeat(64) }) };
  const value = parsed(doc, given, doc.id, "internal");
  return rule ? { ...value, [rule.field]: digestOf(rule, value) } : value;
}

/** Throws `file_malformed`, naming the field. */
export function parsed<S extends v.GenericSchema>(
  doc: { readonly schema: S },
  value: unknown,
  where: string,
  code: "file_malformed" | "internal" = "file_malformed",
): v.InferOutput<S> {
  const result = v.safeParse(doc.schema, value, { abortEarly: true });
  if (result.success) return result.output;
  throw misfit(result.issues[0], where, code);
}

export function misfit(
  issue: v.BaseIssue<unknown>,
  where: string,
  code: "file_malformed" | "internal" = "file_malformed",
): PsionicError {
  const path = v.getDotPath(issue) ?? "the document";
  const got =
    issue.input === undefined
      ? "nothing"
      : typeof issue.input === "string"
        ? quoted(issue.input)
        : kind(issue.input);
  return unexpected(code, where, `${path}: ${issue.message.replace(/^expected /, "")}`, got);
}

const quoted = (text: string): string => JSON.stringify(text.slice(0, 60));

function kind(x: unknown): string {
  if (x === null) return "null";
  if (Array.isArray(x)) return "a list";
  if (typeof x === "number" || typeof x === "bigint" || typeof x === "boolean") return String(x);
  return isPlainObject(x) ? "an object" : "a number with a fraction";
}

/** Reads a document of known kind and recomputes its digest. Throws `file_malformed` or `digest_mismatch`. */
export function verified<S extends v.GenericSchema>(
  doc: { readonly schema: S; readonly digest: DigestRule | undefined },
  value: ExactJson,
  where: string,
): v.InferOutput<S> {
  const content = parsed(doc, value, where);
  const rule = doc.digest;
  if (rule === undefined) return content;
  const fields: Record<string, unknown> = isPlainObject(content) ? content : {};
  const found = fields[rule.field];
  const computed = digestOf(rule, fields);
  if (found === computed) return content;
  throw new PsionicError("digest_mismatch", `[${where}] expected ${rule.field} ${computed}, got ${found}`);
}

/** Drops `materialized_path` wherever a binding has one. */
export function withoutPaths(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutPaths);
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value).filter(([key]) => key !== "materialized_path");
  return Object.fromEntries(kept.map(([key, member]) => [key, withoutPaths(member)]));
}

/** SHA-256 of a prefix and parts, each followed by `|`. */
export function idOf(prefix: string, parts: readonly string[]): string {
  return sha256(prefix + parts.map((part) => `${part}|`).join(""));
}
