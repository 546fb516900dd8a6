import { canonicalJson } from "../../core/json.ts";
import { hasType, isSchema, type Schema, typeNames } from "./schema_keywords.ts";
import { commonTypes, keysOf, type Merging, typesOf, valuesOf } from "./schema_merge.ts";

const mostDepth = 4;

/** Whether every branch has a required property of the same name with listed values that no other branch has. */
export function areDiscriminated(branches: readonly unknown[], merging: Merging): boolean {
  const schemas = branches.map((branch) => (isSchema(branch) ? merging.resolve(branch) : branch));
  const [first] = schemas;
  if (!isSchema(first) || !isSchema(first.properties)) return false;
  return Object.keys(first.properties).some((name) => {
    const seen = new Set<string>();
    return schemas.every((schema) => {
      const values = isSchema(schema) ? discriminator(schema, name, merging) : undefined;
      if (values === undefined) return false;
      merging.spend(1 + values.length);
      const keys = keysOf(values);
      const isNew = [...keys].every((key) => !seen.has(key));
      for (const key of keys) seen.add(key);
      return isNew;
    });
  });
}

/** The listed values of a property that an object must have. */
function discriminator(schema: Schema, name: string, merging: Merging): readonly unknown[] | undefined {
  const { type, properties, required } = schema;
  const isNeeded = type === "object" && Array.isArray(required) && required.includes(name);
  if (!isNeeded || !isSchema(properties) || !Object.hasOwn(properties, name)) return undefined;
  const property = properties[name];
  const resolved = isSchema(property) ? merging.resolve(property) : property;
  return isSchema(resolved) ? valuesOf(resolved) : undefined;
}

/** Whether no value can match both, as far as types, listed values and required properties tell. */
export function areDisjoint(a: unknown, b: unknown, merging: Merging, depth = 0): boolean {
  if (a === false || b === false) return true;
  if (!isSchema(a) || !isSchema(b) || depth > mostDepth) return false;
  const [left, right] = [merging.resolve(a), merging.resolve(b)];
  if (!isSchema(left) || !isSchema(right)) return left === false || right === false;
  for (const keyword of ["anyOf", "oneOf"]) {
    for (const [one, other] of [
      [left, right],
      [right, left],
    ] as const) {
      const list = one[keyword];
      if (Array.isArray(list) && list.every((branch) => areDisjoint(branch, other, merging, depth + 1)))
        return true;
    }
  }
  const types = [left, right].map(({ type }) => (type === undefined ? typeNames : typesOf(type)));
  if (commonTypes(types[0]!, types[1]!).length === 0) return true;
  const [values, others] = [valuesOf(left), valuesOf(right)];
  merging.spend(1 + (values?.length ?? 0) + (others?.length ?? 0));
  if (values && others) {
    const known = keysOf(others);
    return !values.some((value) => known.has(canonicalJson(value)));
  }
  if (values && right.type !== undefined) return !values.some((value) => hasType(value, typesOf(right.type)));
  if (others && left.type !== undefined) return !others.some((value) => hasType(value, typesOf(left.type)));
  const onlyObjects = typesOf(left.type).join() === "object" && typesOf(right.type).join() === "object";
  return onlyObjects && differInProperty(left, right, merging, depth);
}

function differInProperty(a: Schema, b: Schema, merging: Merging, depth: number): boolean {
  const { properties: left, required: needed } = a;
  const { properties: right, required: alsoNeeded } = b;
  if (!isSchema(left) || !isSchema(right) || !Array.isArray(needed) || !Array.isArray(alsoNeeded))
    return false;
  return Object.keys(left).some(
    (name) =>
      Object.hasOwn(right, name) &&
      needed.includes(name) &&
      alsoNeeded.includes(name) &&
      areDisjoint(left[name], right[name], merging, depth + 1),
  );
}
