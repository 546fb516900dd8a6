import { beforeAll, describe, expect, test } from "bun:test";
import Ajv from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { PsionicError } from "../../core/error.ts";
import { compileGrammar } from "./compile.ts";
import { schemaGrammar } from "./schema.ts";
import { commonSchemas, randomRoot } from "./testing/schemas.ts";
import { defaultVocabulary, openWalk, seeded, type Vocabulary } from "./testing/walk.ts";

const ajv = new Ajv({ strict: false, validateFormats: true });
addFormats.default(ajv);

let vocabulary: Vocabulary;
beforeAll(() => {
  vocabulary = defaultVocabulary();
});

/** Random answers under a schema: JSON that the schema allows, as another validator sees it. Gives how many were whole. */
function walks(schema: unknown, count: number, seed: number): number {
  const check = ajv.compile(schema as object | boolean);
  const walk = openWalk(vocabulary, schemaGrammar(schema));
  const random = seeded(seed);
  let whole = 0;
  for (let i = 0; i < count; i++) {
    const answer = walk(random, { patience: 15, most: 150 });
    if (!answer.whole) continue;
    whole += 1;
    const value: unknown = JSON.parse(answer.text);
    if (!check(value)) {
      throw new Error(
        `${JSON.stringify(schema)} does not allow ${answer.text}: ${ajv.errorsText(check.errors)}`,
      );
    }
  }
  return whole;
}

describe("answers match their schema", () => {
  for (const [name, schema] of commonSchemas) {
    test(name, () => {
      expect(walks(schema, 12, 7)).toBeGreaterThan(3);
    });
  }

  test("200 schemas at random", () => {
    let [schemas, whole, refused] = [0, 0, 0];
    for (let seed = 1; schemas < 200; seed++) {
      const schema = randomRoot(seeded(seed));
      try {
        whole += walks(schema, 2, seed);
        schemas += 1;
      } catch (error) {
        // a schema that nothing matches, or one whose alternatives are not told apart
        if (!(error instanceof PsionicError && error.code === "unsupported")) throw error;
        refused += 1;
      }
    }
    expect(whole).toBeGreaterThan(250);
    expect(refused).toBeLessThan(60);
  }, 60_000);
});

describe("what is not served is refused by name", () => {
  const cases: readonly (readonly [schema: unknown, words: string])[] = [
    [{ not: {} }, "not"],
    [{ type: "object", properties: { a: { if: true } } }, "[schema at #/properties/a/if]"],
    [{ type: "array", uniqueItems: true }, "uniqueItems"],
    [{ type: "array", contains: {} }, "contains"],
    [{ type: "object", patternProperties: { "^a": {} } }, "patternProperties"],
    [{ type: "object", minProperties: 1 }, "minProperties"],
    [{ type: "object", dependentRequired: { a: ["b"] } }, "dependentRequired"],
    [{ type: "object", propertyNames: { maxLength: 3 } }, "propertyNames"],
    [{ type: "number", multipleOf: 0.5 }, "multipleOf"],
    [{ type: "number", minimum: 0.5 }, "minimum that is no whole number"],
    [{ type: "string", format: "iri" }, "format iri"],
    [{ type: "string", pattern: "a", maxLength: 3 }, "maxLength beside pattern"],
    [{ type: "string", pattern: "(?=a)" }, "look-around"],
    [{ type: "string", pattern: "\\bword\\b" }, "word boundary"],
    [{ type: "string", nullable: true }, "nullable"],
    [{ oneOf: [{ type: "string" }, { type: "string", maxLength: 3 }] }, "oneOf"],
    [{ $ref: "other.json" }, "$ref"],
    [{ $ref: "#/nowhere" }, "references that lead somewhere"],
    [{ $ref: "#" }, "begin with themselves"],
    [{ allOf: [{ $ref: "#" }] }, "begin with themselves"],
    [{ type: "text" }, "type"],
    [{ type: "string", minLength: -1 }, "minLength"],
    [{ anyOf: [false, false] }, "some text matches"],
    [
      { type: "object", properties: { a: {} }, required: ["b"], additionalProperties: false },
      "required properties that are allowed",
    ],
    [{ enum: [] }, "listed values that fit"],
    [{ type: "string", enum: [1] }, "listed values that fit"],
    [5, "an object or a truth value"],
    [{ type: "object", properties: [] }, "properties"],
    [{ unknownKeyword: 1 }, "unknownKeyword"],
    [{ constructor: 1 }, "constructor"],
    [JSON.parse('{"__proto__": {"type": "string"}}'), "__proto__"],
    [{ const: Number.POSITIVE_INFINITY }, "numbers that a double holds"],
    [{ oneOf: Array.from({ length: 900 }, () => ({ pattern: "a" })) }, "oneOf"],
  ];
  for (const [schema, words] of cases) {
    test(JSON.stringify(schema), () => {
      expect(() => compileGrammar(schemaGrammar(schema))).toThrow(
        expect.objectContaining({ code: "unsupported", message: expect.stringContaining(words) }),
      );
    });
  }

  test("a member's name in a place is written as JSON pointers write it", () => {
    expect(() => schemaGrammar({ properties: { "a/b~c": { not: {} } } })).toThrow(
      "[schema at #/properties/a~1b~0c/not]",
    );
  });

  test("for tools it is passed over and named", () => {
    const { notes } = schemaGrammar(
      {
        type: "object",
        properties: {
          a: { type: "string", format: "iri" },
          b: { type: "array", uniqueItems: true },
          c: { pattern: "(?!x)y" },
        },
      },
      { lenient: true },
    );
    expect(notes).toEqual(["properties.a.format iri", "properties.b.uniqueItems", "properties.c.pattern"]);
  });
});

describe("a place that no value fits is refused by its pointer", () => {
  const cases: readonly (readonly [schema: unknown, pointer: string, words: string])[] = [
    [{ type: "integer", minimum: 5, maximum: 3 }, "", "minimum 5 and maximum 3"],
    [{ properties: { a: { minimum: 5, maximum: 3 } } }, "/properties/a", "minimum 5 and maximum 3"],
    [{ type: "number", exclusiveMinimum: 3, maximum: 3 }, "", "exclusiveMinimum 3 and maximum 3"],
    [{ type: "integer", exclusiveMinimum: 3, exclusiveMaximum: 4 }, "", "exclusiveMinimum 3"],
    [{ type: "integer", minimum: 1.2, maximum: 1.8 }, "", "a number between them"],
    [{ type: "number", minimum: 0.5, maximum: 0.25 }, "", "a number between them"],
    [
      { type: "integer", multipleOf: 5, minimum: 1, maximum: 4 },
      "",
      "minimum 1 and maximum 4 and multipleOf 5",
    ],
    [{ type: "number", multipleOf: 0, minimum: 1, maximum: 4 }, "", "multipleOf 0"],
    [{ type: "integer", multipleOf: 5, exclusiveMinimum: 5, exclusiveMaximum: 10 }, "", "multipleOf 5"],
    [{ type: "array", items: { type: "string", minLength: 3, maxLength: 2 } }, "/items", "minLength 3"],
    [{ type: "string", pattern: "^[a-z]{1,3}$", minLength: 5 }, "", "lengths that the pattern leaves"],
    [{ type: "array", minItems: 2, maxItems: 1 }, "", "minItems 2 and maxItems 1"],
    [{ type: "array", minItems: 1, items: false }, "/items", "items that may be there"],
    [{ type: "array", prefixItems: [{}], items: false, minItems: 2 }, "/items", "items that may be there"],
    [{ type: "object", required: ["b"], additionalProperties: false }, "/required", "b"],
    [{ properties: { a: false }, required: ["a"] }, "/properties/a", "false"],
    [{ type: "string", const: 5 }, "", "listed values"],
    [{ enum: [1, 2], minimum: 3 }, "", "listed values"],
    [{ allOf: [{ type: "string" }, { type: "integer" }] }, "", "types that a value can have"],
    [{ allOf: [{ minimum: 5 }, { maximum: 3 }], type: "integer" }, "", "minimum 5 and maximum 3"],
    [
      {
        anyOf: [
          { minimum: 5, maximum: 3 },
          { minItems: 2, maxItems: 1 },
        ],
      },
      "/anyOf/0",
      "minimum 5",
    ],
    [
      { properties: { a: { $ref: "#/$defs/x" } }, $defs: { x: { minimum: 2, maximum: 1 } } },
      "/$defs/x",
      "minimum",
    ],
    [false, "", "false"],
  ];
  for (const [schema, pointer, words] of cases) {
    test(JSON.stringify(schema), () => {
      expect(() => compileGrammar(schemaGrammar(schema))).toThrow(
        expect.objectContaining({
          code: "unsupported",
          message: expect.stringMatching(
            new RegExp(`^\\[schema at #${pointer.replaceAll("$", "\\$")}\\] .*${words}`),
          ),
          details: expect.objectContaining({ pointer, unsatisfiable: true }),
        }),
      );
    });
  }

  const served: readonly unknown[] = [
    { anyOf: [{ minimum: 5, maximum: 3 }, { type: "string" }] },
    { type: ["integer", "string"], minimum: 5, maximum: 3 },
    { type: "object", properties: { a: false } },
    { type: "array", prefixItems: [{ type: "null" }], items: false },
    // neither is a mistake by itself; together they leave the property out
    { allOf: [{ properties: { a: { enum: [1] } } }, { properties: { a: { enum: [2] } } }] },
    {
      properties: { a: { $ref: "#/$defs/x" }, b: { $ref: "#/$defs/x" } },
      $defs: { x: { anyOf: [{ minimum: 2, maximum: 1 }, true] } },
    },
  ];
  for (const schema of served) {
    test(`not ${JSON.stringify(schema)}`, () => {
      expect(() => compileGrammar(schemaGrammar(schema))).not.toThrow();
    });
  }
});
