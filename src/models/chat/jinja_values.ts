import { Environment, type Interpreter } from "@huggingface/jinja";
import { unexpected } from "../../core/error.ts";
import { tooMuch } from "./jinja_limits.ts";

type Value = ReturnType<Interpreter["evaluate"]>;

/** Longest string that `replace` may make, UTF-16 units. */
const MAX_REPLACED = 1 << 26;

type Method = (args: Value[], scope: unknown) => Value;
/** Makes a method of a string from its text and the library's own. */
type Adapt = (text: string, own: Method) => Method;

/** Changes the library's value classes, which it does not export: they are taken from values. */
export function adaptValues(): void {
  adaptStrings({
    replace: (text, own) => (args, scope) => {
      checkReplace(text.length, args);
      return own(args, scope);
    },
    strip: stripping(true, true),
    lstrip: stripping(true, false),
    rstrip: stripping(false, true),
  });
  const truth: object = Object.getPrototypeOf(new Environment().set("truth", true)) as object;
  // Printed truth values are Python's.
  Object.defineProperty(truth, "toString", {
    configurable: true,
    value(this: Value): string {
      return this.value ? "True" : "False";
    },
  });
}

function adaptStrings(adapted: Readonly<Record<string, Adapt>>): void {
  const environment = new Environment();
  const prototype: object = Object.getPrototypeOf(environment.set("text", "")) as object;
  const makeFunction = environment.set("make", () => null).constructor as new (value: Method) => Value;
  const methodsOf = Object.getOwnPropertyDescriptor(prototype, "builtins")?.get;
  if (methodsOf === undefined) {
    throw unexpected("internal", "chat template", "string methods in the Jinja library", "none");
  }
  const done = new WeakSet<object>();
  Object.defineProperty(prototype, "builtins", {
    configurable: true,
    get(this: Value): Map<string, Value> {
      const methods = methodsOf.call(this) as Map<string, Value>;
      if (done.has(methods)) return methods;
      done.add(methods);
      for (const [name, adapt] of Object.entries(adapted)) {
        const own = methods.get(name)?.value as Method;
        methods.set(name, new makeFunction(adapt(String(this.value), own)));
      }
      return methods;
    },
  });
}

/** With an empty pattern `replace` multiplies two strings in one step, so the result is measured before it is made. */
function checkReplace(length: number, [from, to]: readonly Value[]): void {
  const pattern = typeof from?.value === "string" ? from.value.length : 0;
  const replacement = typeof to?.value === "string" ? to.value.length : 0;
  const most = length + ((length + 1) / Math.max(pattern, 1)) * replacement;
  if (most > MAX_REPLACED) throw tooMuch(`${MAX_REPLACED} characters`);
}

/** The library strips white space whatever characters are asked for. */
function stripping(left: boolean, right: boolean): Adapt {
  return (text, own) => (args, scope) => {
    const wanted: unknown = args[0]?.value;
    if (typeof wanted !== "string") return own(args, scope);
    const characters = new Set(wanted);
    const all = [...text];
    let from = 0;
    let to = all.length;
    while (left && from < to && characters.has(all[from]!)) from += 1;
    while (right && to > from && characters.has(all[to - 1]!)) to -= 1;
    return new Environment().set("stripped", all.slice(from, to).join(""));
  };
}
