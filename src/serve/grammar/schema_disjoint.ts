import { hasType, isSchema, type Schema, typeNames } from "./schema_keywords.ts";
import { commonTypes, equal, typesOf, valuesOf } from "./schema_merge.ts";

const mostDepth = 4;

/** Whether no value can match both, as far as types, listed values and required properties tell. */
export function areDisjoint(
  a: unknown,
  b: unknown,
  resolve: (schema: Schema) => Schema | boolean,
  depth = 0,
): boolean {
  if (a === false || b === false) return true;
  if (!isSchema(a) || !isSchema(b) || depth > mostDepth) return false;
  const [left, right] = [resolve(a), resolve(b)];
  if (!isSchema(left) || !isSchema(right)) return left === false || right === false;
  for (const keyword of ["anyOf", "oneOf"]) {
    for (const [one, other] of [
      [left, right],
      [right, left],
    ] as const) {
      const list = one[keyword];
      if (Array.isArray(list) && list.every((branch) => areDisjoint(branch, other, resolve, depth + 1)))
        return true;
    }
  }
  const types = [left, right].map(({ type }) => (type === undefined ? typeNames : typesOf(type)));
  if (commonTypes(types[0]!, types[1]!).length === 0) return true;
  const [values, others] = [valuesOf(left), valuesOf(right)];
  if (values && others) return !values.some((value) => others.some((other) => equal(value, other)));
  if (values && right.type !== undefined) return !values.some((value) => hasType(value, typesOf(right.type)));
  if (others && left.type !== undefined) return !others.some((value) => hasType(value, typesOf(left.type)));
  const onlyObjects = typesOf(left.type).join() === "object" && typesOf(right.type).join() === "object";
  return onlyObjects && differInProperty(left, right, resolve, depth);
}

function differInProperty(
  a: Schema,
  b: Schema,
  resolve: (schema: Schema) => Schema | boolean,
  depth: number,
): boolean {
  const { properties: left, required: needed } = a;
  const { properties: right, required: alsoNeeded } = b;
  if (!isSchema(left) || !isSchema(right) || !Array.isArray(needed) || !Array.isArray(alsoNeeded))
    return false;
  return Object.keys(left).some(
    (name) =>
      Object.hasOwn(right, name) &&
      needed.includes(name) &&
      alsoNeeded.includes(name) &&
      areDisjoint(left[name], right[name], resolve, depth + 1),
  );
}
