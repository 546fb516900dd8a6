import { Environment, Interpreter, type parse } from "@huggingface/jinja";
import { type PsionicError, unexpected } from "../../core/error.ts";

type Value = ReturnType<Interpreter["evaluate"]>;
type Program = ReturnType<typeof parse>;

/** What one rendering may use. Published templates evaluate some hundreds of nodes a message. */
export type TemplateLimits = {
  /** Nodes evaluated. */
  readonly steps: number;
  /** UTF-16 units of any one string; also of what a list or mapping would be as text. */
  readonly stringUnits: number;
  /** Items of any one list. */
  readonly items: number;
  /** UTF-16 units of all strings that expressions came to, taken together. */
  readonly totalUnits: number;
  readonly milliseconds: number;
};

/** Limits for messages of `inputUnits` UTF-16 units in all. */
export function templateLimits(inputUnits: number): TemplateLimits {
  return {
    steps: 500_000 + 10 * inputUnits,
    stringUnits: (1 << 22) + 8 * inputUnits,
    items: 100_000,
    totalUnits: (1 << 25) + 256 * inputUnits,
    milliseconds: 1000 + inputUnits / 1000,
  };
}

/** Widths and separators in arguments of filters that multiply: one step may otherwise make a gigabyte. */
const MAX_ARGUMENT = 256;
const MULTIPLYING_FILTERS = new Set(["indent", "join", "tojson"]);

export function tooMuch(limit: string): PsionicError {
  const fix = "The model file's template does not end or writes too much; /v1/completions needs no template";
  return unexpected(
    "invalid_request",
    "chat template",
    `a rendering within ${limit}`,
    "one that needs more",
    {
      fix,
    },
  );
}

/**
 * Runs a template, counting what it evaluates and measuring every value. Values of the library live in Maps of its
 * own, so no expression reaches a JavaScript object or its prototype.
 */
export class BoundedInterpreter extends Interpreter {
  private readonly limits: TemplateLimits;
  private readonly arguments: WeakSet<object>;
  private readonly deadline: number;
  private steps = 0;
  private units = 0;
  /** Sizes of lists and mappings, which never change; namespaces do and are measured each time. */
  private readonly sizes = new WeakMap<object, number>();

  constructor(environment: Environment, boundedArguments: WeakSet<object>, limits: TemplateLimits) {
    super(environment);
    this.limits = limits;
    this.arguments = boundedArguments;
    this.deadline = performance.now() + limits.milliseconds;
  }

  override evaluate(...args: Parameters<Interpreter["evaluate"]>): Value {
    const { limits } = this;
    this.steps += 1;
    if (this.steps > limits.steps) throw tooMuch(`${limits.steps} steps`);
    // A loop over a long list costs much in one step, even with an empty body.
    const timed = this.steps % 64 === 0 || args[0]?.type === "For";
    if (timed && performance.now() > this.deadline) throw tooMuch(`${Math.round(limits.milliseconds)} ms`);
    const value = isTextFilter(args[0]) ? this.toText(args[0], args[1]) : super.evaluate(...args);
    this.measure(value);
    if (args[0] !== undefined && this.arguments.has(args[0])) checkArgument(value);
    return value;
  }

  /** Filters that make text of anything do so as in Python: `True`, `None`, `['a', 'b']`, and nothing of what is missing. */
  private toText(node: TextFilter, environment: Environment): Value {
    const operand = this.evaluate(node.operand, environment);
    const scope = new Environment(environment);
    const text = pythonText(operand, node.filter.value === "string");
    if (text === undefined) scope.setVariable(OPERAND, operand);
    else this.measure(scope.set(OPERAND, text));
    const named = { ...node, operand: { type: "Identifier", value: OPERAND } };
    return super.evaluate(named, scope);
  }

  private measure({ value }: Value): void {
    if (typeof value === "string") {
      checkLength(value.length, this.limits);
      this.units += value.length;
    } else if (Array.isArray(value)) {
      if (value.length > this.limits.items) throw tooMuch(`lists of ${this.limits.items} items`);
      this.units += value.length;
    } else if (!(value instanceof Map)) return;
    if (this.units > this.limits.totalUnits) throw tooMuch(`${this.limits.totalUnits} characters in all`);
    if (typeof value !== "string") checkLength(this.sizeOf(value, new Map()), this.limits);
  }

  /** About the length of a list or mapping as text. Shared parts count each time, as they would be written. */
  private sizeOf(
    container: readonly Value[] | ReadonlyMap<string, Value>,
    seen: Map<object, number>,
  ): number {
    const known = this.sizes.get(container) ?? seen.get(container);
    if (known !== undefined) return known;
    // A namespace may hold itself; the interpreter's own recursion ends that with an error.
    seen.set(container, 1);
    let size = 2;
    let fixed = true;
    const entries = Array.isArray(container) ? container.entries() : container;
    for (const [key, item] of entries as Iterable<[string | number, Value]>) {
      size += String(key).length + this.itemSize(item, seen);
      if (item.type === "NamespaceValue" || !this.isFixed(item)) fixed = false;
    }
    seen.set(container, size);
    if (fixed) this.sizes.set(container, size);
    return size;
  }

  private itemSize({ value }: Value, seen: Map<object, number>): number {
    if (typeof value === "string") return value.length + 4;
    if (Array.isArray(value) || value instanceof Map) return this.sizeOf(value, seen);
    return 8;
  }

  private isFixed({ value }: Value): boolean {
    return !(Array.isArray(value) || value instanceof Map) || this.sizes.has(value);
  }
}

/** A name that no template can write. */
const OPERAND = "operand of string";

type Node = NonNullable<Parameters<Interpreter["evaluate"]>[0]>;
type TextFilter = Node & { readonly operand: Node; readonly filter: { readonly value: string } };

const TEXT_FILTERS: readonly unknown[] = ["string", "upper", "lower", "trim"];

function isTextFilter(node: Node | undefined): node is TextFilter {
  if (node?.type !== "FilterExpression" || !("filter" in node)) return false;
  const { type, value } = node.filter as { readonly type?: unknown; readonly value?: unknown };
  return type === "Identifier" && TEXT_FILTERS.includes(value);
}

/** Undefined where the library makes the text; `json`: it does so of lists and mappings. */
function pythonText({ type, value }: Value, json: boolean): string | undefined {
  if (type === "BooleanValue") return value ? "True" : "False";
  if (type === "NullValue") return "None";
  if (type === "UndefinedValue") return "";
  if (typeof value === "number") return json ? undefined : String(value);
  if (!Array.isArray(value) || json) return undefined;
  const items = (value as readonly Value[]).map((item) =>
    typeof item.value === "string" ? `'${item.value}'` : (pythonText(item, false) ?? "..."),
  );
  return `[${items.join(", ")}]`;
}

function checkLength(units: number, limits: TemplateLimits): void {
  if (units > limits.stringUnits) throw tooMuch(`${limits.stringUnits} characters`);
}

function checkArgument({ value }: Value): void {
  const size = typeof value === "number" ? Math.abs(value) : typeof value === "string" ? value.length : 0;
  if (size > MAX_ARGUMENT) throw tooMuch(`filter arguments of ${MAX_ARGUMENT}`);
}

/** Arguments of multiplying filters. Throws where they are unpacked from a list, which hides them from the check. */
export function boundedArguments(program: Program): WeakSet<object> {
  const found = new WeakSet<object>();
  const seen = new Set<object>();
  const open: unknown[] = [program];
  while (open.length > 0) {
    const node = open.pop();
    if (typeof node !== "object" || node === null || seen.has(node)) continue;
    seen.add(node);
    const children = node instanceof Map ? [...node.keys(), ...node.values()] : Object.values(node);
    open.push(...children.filter((child) => typeof child === "object" && child !== null));
    if ("filter" in node) markArguments(node.filter, found);
  }
  return found;
}

type CallNode = {
  readonly callee?: { readonly value?: unknown };
  readonly args?: readonly { readonly type: string; readonly value?: unknown }[];
};

function markArguments(filter: unknown, found: WeakSet<object>): void {
  const { callee, args = [] } = filter as CallNode;
  if (!MULTIPLYING_FILTERS.has(String(callee?.value))) return;
  for (const argument of args) {
    if (argument.type.endsWith("SpreadExpression")) {
      throw new Error(`unpacked arguments of the filter ${String(callee?.value)}`);
    }
    const value = argument.type === "KeywordArgumentExpression" ? argument.value : argument;
    if (typeof value === "object" && value !== null) found.add(value);
  }
}
