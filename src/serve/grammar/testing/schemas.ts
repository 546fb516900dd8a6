/** Schemas for walks: made at random, and those that people send. */

type Random = () => number;

export function pick<T>(random: Random, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)]!;
}

function upTo(random: Random, most: number): number {
  return Math.floor(random() * (most + 1));
}

const names = ["a", "id", "name", "näme", "x-y", 'quo"te', "line\nbreak", "items", "日本", "ab", "abc"];
const formats = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
const patterns = [
  "^[a-z]{2,5}$",
  "^\\d{3}-\\d{4}$",
  "b+",
  "^(foo|bar)+$",
  '^["\\\\]x$',
  "^\\w+@\\w+$",
  "é$",
  "^.{3}$",
];

/** A schema of what is served, whose references lead to `#/$defs/node`. */
export function randomSchema(random: Random, depth = 0): unknown {
  const kinds = ["string", "string", "integer", "number", "boolean", "null", "enum", "const", "types"];
  const nested = ["object", "object", "object", "array", "array", "anyOf", "oneOf", "allOf", "ref"];
  const kind = pick(random, depth > 3 ? kinds : [...kinds, ...nested, ...nested]);
  const inner = (): unknown => randomSchema(random, depth + 1);
  switch (kind) {
    case "string":
      return randomString(random);
    case "integer":
    case "number":
      return { type: kind, ...randomBounds(random) };
    case "enum":
      return { enum: Array.from({ length: 1 + upTo(random, 4) }, () => randomValue(random)) };
    case "const":
      return { const: randomValue(random) };
    case "types":
      return {
        type: pick(random, [
          ["string", "null"],
          ["integer", "boolean"],
          ["number", "string"],
        ]),
      };
    case "object":
      return randomObject(random, depth);
    case "array":
      return randomArray(random, inner);
    case "anyOf":
      return { anyOf: Array.from({ length: 1 + upTo(random, 2) }, inner) };
    case "oneOf":
      return { oneOf: [{ type: "string", maxLength: 3 }, { type: "integer", minimum: 0 }, { type: "null" }] };
    case "allOf":
      return {
        allOf: [
          randomObject(random, 3),
          { type: "object", required: ["a"], properties: { a: { type: "boolean" } } },
        ],
      };
    case "ref":
      return { $ref: "#/$defs/node", ...(random() < 0.3 ? { description: "a node" } : {}) };
    default:
      return { type: kind };
  }
}

/** The same with the definitions that its references need. */
export function randomRoot(random: Random): unknown {
  const schema = randomSchema(random) as Record<string, unknown>;
  const node = {
    type: "object",
    properties: {
      value: { type: "integer", minimum: 0, maximum: 9 },
      next: { anyOf: [{ $ref: "#/$defs/node" }, { type: "null" }] },
      kids: { type: "array", items: { $ref: "#/$defs/node" }, maxItems: 2 },
    },
    required: ["value", "next"],
    additionalProperties: false,
  };
  return { ...schema, $defs: { node } };
}

function randomString(random: Random): unknown {
  const roll = random();
  if (roll < 0.2) return { type: "string", format: pick(random, formats) };
  if (roll < 0.4) return { type: "string", pattern: pick(random, patterns) };
  const minLength = upTo(random, 3);
  return { type: "string", minLength, maxLength: minLength + upTo(random, 8) };
}

function randomBounds(random: Random): object {
  const low = Math.floor((random() - 0.5) * 10 ** upTo(random, 5));
  const high = low + 1 + upTo(random, 10 ** upTo(random, 4));
  const roll = random();
  if (roll < 0.2) return {};
  if (roll < 0.4) return { minimum: low };
  if (roll < 0.5) return { maximum: high };
  if (roll < 0.6) return { exclusiveMinimum: low, exclusiveMaximum: high + 1 };
  return { minimum: low, maximum: high };
}

function randomValue(random: Random): unknown {
  const strings = ["", "yes", "no", "a\tb", '"', "ünï", "longer text with blanks"];
  return pick<unknown>(random, [...strings, 0, -1, 2.5, 1e21, true, false, null, [1, "x"], { k: [null] }]);
}

function randomObject(random: Random, depth: number): unknown {
  const own = names.filter(() => random() < 0.35);
  const properties = Object.fromEntries(own.map((name) => [name, randomSchema(random, depth + 1)]));
  const required = own.filter(() => random() < 0.5);
  const roll = random();
  return {
    type: "object",
    properties,
    required,
    ...(roll < 0.5
      ? { additionalProperties: false }
      : roll < 0.6
        ? { additionalProperties: { type: "boolean" } }
        : roll < 0.65
          ? { additionalProperties: true }
          : {}),
  };
}

function randomArray(random: Random, inner: () => unknown): unknown {
  const minItems = upTo(random, 2);
  const counts = random() < 0.8 ? { minItems, maxItems: minItems + upTo(random, 2) } : {};
  const tuple = random() < 0.2 ? { prefixItems: [inner(), inner()] } : {};
  return { type: "array", items: inner(), ...counts, ...tuple };
}

/** Schemas in the form in which libraries write them. */
export const commonSchemas: readonly (readonly [name: string, schema: unknown])[] = [
  ["any value", {}],
  ["true", true],
  ["an object of any kind", { type: "object" }],
  ["an empty object", { type: "object", properties: {}, additionalProperties: false }],
  [
    "pydantic: optional and nested",
    {
      $defs: {
        Address: {
          properties: {
            street: { title: "Street", type: "string", maxLength: 8 },
            zip: { anyOf: [{ type: "string", pattern: "^\\d{5}$" }, { type: "null" }], default: null },
          },
          required: ["street"],
          title: "Address",
          type: "object",
        },
        Color: { enum: ["red", "green"], title: "Color", type: "string" },
      },
      properties: {
        address: { $ref: "#/$defs/Address" },
        color: { allOf: [{ $ref: "#/$defs/Color" }], default: "red" },
        scores: { items: { type: "number", minimum: 0, maximum: 1 }, maxItems: 2, type: "array" },
      },
      required: ["address", "color"],
      title: "Person",
      type: "object",
    },
  ],
  [
    "zod: a discriminated union",
    {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      oneOf: [
        {
          type: "object",
          properties: {
            kind: { type: "string", const: "circle" },
            radius: { type: "integer", exclusiveMinimum: 0, maximum: 99 },
          },
          required: ["kind", "radius"],
          additionalProperties: false,
        },
        {
          type: "object",
          properties: {
            kind: { type: "string", const: "square" },
            side: { type: "integer", minimum: 1, maximum: 9 },
          },
          required: ["kind", "side"],
          additionalProperties: false,
        },
      ],
    },
  ],
  [
    "a linked list",
    {
      $ref: "#/$defs/node",
      $defs: {
        node: {
          type: "object",
          properties: {
            v: { type: "integer", minimum: 0, maximum: 9 },
            next: { anyOf: [{ $ref: "#/$defs/node" }, { type: "null" }] },
          },
          required: ["v", "next"],
          additionalProperties: false,
        },
      },
    },
  ],
  [
    "a tree through #",
    {
      type: "object",
      properties: { kids: { type: "array", items: { $ref: "#" }, maxItems: 2 } },
      required: ["kids"],
      additionalProperties: false,
    },
  ],
  [
    "expressions",
    {
      $ref: "#/definitions/e",
      definitions: {
        e: {
          anyOf: [
            { type: "integer", minimum: 0, maximum: 99 },
            {
              type: "object",
              properties: {
                op: { enum: ["+", "*"] },
                l: { $ref: "#/definitions/e" },
                r: { $ref: "#/definitions/e" },
              },
              required: ["op", "l", "r"],
              additionalProperties: false,
            },
          ],
        },
      },
    },
  ],
  [
    "references with signs of paths in names",
    { $ref: "#/$defs/a~1b%20c", $defs: { "a/b c": { type: "boolean" } } },
  ],
  [
    "many optional properties",
    {
      type: "object",
      properties: Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`p${i}`, { type: "boolean" }])),
    },
  ],
  [
    "names that begin alike, others besides",
    {
      type: "object",
      properties: { a: { type: "null" }, ab: { type: "null" }, abc: { type: "null" } },
      required: ["ab"],
      additionalProperties: { type: "integer", minimum: 0, maximum: 9 },
    },
  ],
  [
    "required without a schema",
    { type: "object", properties: { a: { type: "boolean" } }, required: ["a", "b"] },
  ],
  [
    "a tuple",
    {
      type: "array",
      prefixItems: [{ type: "boolean" }, { type: "null" }],
      items: { type: "integer", minimum: 1, maximum: 3 },
      minItems: 1,
      maxItems: 5,
    },
  ],
  [
    "a closed tuple",
    { type: "array", prefixItems: [{ type: "boolean" }, { type: "null" }], items: false, minItems: 2 },
  ],
  ["enum beside type and bounds", { type: "integer", enum: [1, 5, 10, "x"], minimum: 2 }],
  [
    "merged bounds",
    { allOf: [{ type: "integer", minimum: 0 }, { type: "number", maximum: 20 }, { minimum: 7 }] },
  ],
  [
    "merged objects",
    {
      allOf: [
        { type: "object", properties: { a: { type: "string" } }, required: ["a"] },
        { properties: { a: { maxLength: 3 }, b: { type: "boolean" } }, required: ["b"] },
      ],
    },
  ],
  [
    "anyOf beside properties",
    {
      type: "object",
      properties: { t: { type: "boolean" } },
      required: ["t"],
      anyOf: [
        { properties: { x: { const: 1 } }, required: ["x"] },
        { properties: { y: { const: 2 } }, required: ["y"] },
      ],
    },
  ],
  ["numbers within bounds that are left open", { type: "number", exclusiveMinimum: -1, exclusiveMaximum: 1 }],
  [
    "names that objects have anyway",
    JSON.parse(
      '{"type":"object","properties":{"toString":{"type":"boolean"},"constructor":{"const":1}},"required":["toString","constructor"],"additionalProperties":false}',
    ),
  ],
  ["numbers below a negative bound", { type: "number", maximum: -3 }],
  ["characters beyond ASCII", { type: "string", pattern: "^[ä-ü日本😀]{2,4}$" }],
  ["no characters beyond ASCII", { type: "string", pattern: "^[^\\u0080-\\u{10ffff}]{1,5}$" }],
];
