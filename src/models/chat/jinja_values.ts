import { Environment, type Interpreter } from "@huggingface/jinja";
import { unexpected } from "../../core/error.ts";
import { tooMuch } from "./jinja_limits.ts";

type Value = ReturnType<Interpreter["evaluate"]>;

/** Longest string that `replace` may make, UTF-16 units. */
const MAX_REPLACED = 1 << 26;

/** Changes two things in the library's value classes, which it does not export: they are taken from values. */
export function adaptValues(): void {
  boundReplace();
  const truth: object = Object.getPrototypeOf(new Environment().set("truth", true)) as object;
  // Printed truth values are Python's.
  Object.defineProperty(truth, "toString", {
    configurable: true,
    value(this: Value): string {
      return this.value ? "True" : "False";
    },
  });
}

/**
 * Makes `replace` check the length of its result first: with an empty pattern it multiplies two strings in one step.
 */
function boundReplace(): void {
  const environment = new Environment();
  const prototype: object = Object.getPrototypeOf(environment.set("text", "")) as object;
  const makeFunction = environment.set("make", () => null).constructor as new (value: unknown) => Value;
  const getter = Object.getOwnPropertyDescriptor(prototype, "builtins")?.get;
  if (getter === undefined) {
    throw unexpected("internal", "chat template", "string methods in the Jinja library", "none");
  }
  const bounded = new WeakSet<object>();
  Object.defineProperty(prototype, "builtins", {
    configurable: true,
    get(this: Value): Map<string, Value> {
      const methods = getter.call(this) as Map<string, Value>;
      if (bounded.has(methods)) return methods;
      bounded.add(methods);
      const text = String(this.value);
      const replace = methods.get("replace")?.value as (args: Value[], scope: unknown) => Value;
      const checked = (args: Value[], scope: unknown): Value => {
        checkReplace(text.length, args);
        return replace(args, scope);
      };
      methods.set("replace", new makeFunction(checked));
      return methods;
    },
  });
}

function checkReplace(length: number, [from, to]: readonly Value[]): void {
  const pattern = typeof from?.value === "string" ? from.value.length : 0;
  const replacement = typeof to?.value === "string" ? to.value.length : 0;
  const most = length + ((length + 1) / Math.max(pattern, 1)) * replacement;
  if (most > MAX_REPLACED) throw tooMuch(`${MAX_REPLACED} characters`);
}
