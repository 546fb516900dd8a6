/** A JSON Schema as a client sends it. */
export type Schema = Readonly<Record<string, unknown>>;

/** Keywords that say nothing about which values are right. */
export const annotations: ReadonlySet<string> = new Set([
  ...["$schema", "$id", "id", "$comment", "$defs", "definitions", "$vocabulary"],
  ...["title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly"],
  ...["contentMediaType", "contentEncoding", "discriminator", "externalDocs", "xml", "propertyOrdering"],
  ...["enumNames", "enumDescriptions", "markdownDescription", "errorMessage", "strict", "name"],
]);

/** Keywords that the grammar holds to. */
export const served: ReadonlySet<string> = new Set([
  ...["type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"],
  ...["properties", "required", "additionalProperties"],
  ...["items", "prefixItems", "minItems", "maxItems"],
  ...["minLength", "maxLength", "pattern", "format"],
  ...["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
]);

/** Values with which a keyword that is not served asks for nothing. */
const harmless: Readonly<Record<string, (value: unknown) => boolean>> = {
  uniqueItems: (value) => value === false,
  nullable: (value) => value === false,
  minProperties: (value) => value === 0,
  patternProperties: isEmptyObject,
  dependentRequired: isEmptyObject,
  dependentSchemas: isEmptyObject,
  unevaluatedProperties: (value) => value === true || value === false,
  unevaluatedItems: (value) => value === true || value === false,
  additionalItems: (value) => value === true || value === false,
  propertyNames: (value) => value === true || isEmptyObject(value),
};

/** Types that a keyword without `type` beside it implies. */
const typesOfKeywords: Readonly<Record<string, string>> = {
  properties: "object",
  required: "object",
  additionalProperties: "object",
  items: "array",
  prefixItems: "array",
  minItems: "array",
  maxItems: "array",
  minLength: "string",
  maxLength: "string",
  pattern: "string",
  format: "string",
  minimum: "number",
  maximum: "number",
  exclusiveMinimum: "number",
  exclusiveMaximum: "number",
};

/** Whether a keyword that is not served asks for nothing with this value. */
export function isHarmless(keyword: string, value: unknown): boolean {
  return Object.hasOwn(harmless, keyword) && harmless[keyword]!(value);
}

export function typeOfKeyword(keyword: string): string | undefined {
  return Object.hasOwn(typesOfKeywords, keyword) ? typesOfKeywords[keyword] : undefined;
}

export const typeNames = ["string", "integer", "number", "boolean", "null", "object", "array"] as const;
export type TypeName = (typeof typeNames)[number];

export function isTypeName(value: unknown): value is TypeName {
  return typeNames.some((name) => name === value);
}

export function isSchema(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isEmptyObject(value: unknown): boolean {
  return isSchema(value) && Object.keys(value).length === 0;
}

/** Whether a listed value is of one of these types. */
export function hasType(value: unknown, types: readonly TypeName[]): boolean {
  const own: TypeName =
    value === null
      ? "null"
      : Array.isArray(value)
        ? "array"
        : typeof value === "number"
          ? Number.isInteger(value)
            ? "integer"
            : "number"
          : typeof value === "string" || typeof value === "boolean"
            ? typeof value === "string"
              ? "string"
              : "boolean"
            : "object";
  return types.includes(own) || (own === "integer" && types.includes("number"));
}
