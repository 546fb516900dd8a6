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
    [{ type: "object", properties: { a: { if: true } } }, "properties.a.if"],
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
    [{ type: "object", properties: { a: false }, required: ["a"] }, "some text matches"],
    [
      { type: "object", properties: { a: {} }, required: ["b"], additionalProperties: false },
      "required properties that are allowed",
    ],
    [{ enum: [] }, "values of the type"],
    [{ type: "string", enum: [1] }, "values of the type"],
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
