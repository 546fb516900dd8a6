import { Environment, parse, tokenize } from "@huggingface/jinja";
import { PsionicError, unexpected } from "../../core/error.ts";
import { BoundedInterpreter, boundedArguments, type TemplateLimits, tooMuch } from "./jinja_limits.ts";
import { adaptValues } from "./jinja_values.ts";

/** Longest template, UTF-16 units; the longest published one has about 40,000. */
const MAX_TEMPLATE_UNITS = 1 << 18;
/** The library's scanner takes time quadratic in a run of white space. */
const MAX_BLANK_RUN = 1024;
const MAX_RANGE = 100_000;

export type Template = {
  readonly render: (variables: Readonly<Record<string, unknown>>, limits: TemplateLimits) => string;
};

/** Names that a template finds without anyone passing them. */
const BUILT_INS = ["true", "false", "none", "True", "False", "None"] as const;
const FUNCTIONS = ["namespace", "raise_exception", "range", "strftime_now"] as const;

/** Whether a variable of this name would replace what templates rely on. */
export function isReserved(name: string): boolean {
  return [...BUILT_INS, ...FUNCTIONS].some((taken) => taken === name);
}

/**
 * Parses a template from a model file, which is a program of an unknown author. `rewrite` changes the text that the
 * template itself has (not its code). Throws `file_malformed` where it is no template.
 */
export function compileTemplate(source: string, rewrite: (text: string) => string): Template {
  if (source.length > MAX_TEMPLATE_UNITS)
    throw malformed(`at most ${MAX_TEMPLATE_UNITS} characters`, source.length);
  if (new RegExp(`\\s{${MAX_BLANK_RUN}}`).test(source)) {
    throw malformed(`fewer than ${MAX_BLANK_RUN} blanks in a row`, "more");
  }
  let program: ReturnType<typeof parse>;
  let bounded: WeakSet<object>;
  try {
    const tokens = tokenize(source, { lstrip_blocks: true, trim_blocks: true });
    for (const token of tokens) {
      if (token.type === "Text" || token.type === "StringLiteral") token.value = rewrite(token.value);
    }
    program = parse(tokens);
    bounded = boundedArguments(program);
  } catch (cause) {
    throw malformed("a Jinja template", messageOf(cause), cause);
  }
  return {
    render: (variables, limits) => {
      const interpreter = new BoundedInterpreter(environment(variables), bounded, limits);
      return run(() => String(interpreter.run(program).value));
    },
  };
}

function malformed(expected: string, got: unknown, cause?: unknown): PsionicError {
  return unexpected("file_malformed", "chat template", expected, got, { cause });
}

/** What a template threw on purpose: its author's refusal of these messages. */
class TemplateRefusal extends Error {}

function run(render: () => string): string {
  try {
    return render();
  } catch (cause) {
    if (cause instanceof PsionicError) throw cause;
    const refused = cause instanceof TemplateRefusal;
    const expected = refused ? "messages that the model's template accepts" : "a template that renders";
    const details = { param: "messages" };
    throw unexpected("invalid_request", "chat template", expected, messageOf(cause), { cause, details });
  }
}

function messageOf(cause: unknown): string {
  const text = cause instanceof Error ? cause.message : String(cause);
  return JSON.stringify(text.slice(0, 300));
}

function environment(variables: Readonly<Record<string, unknown>>): Environment {
  const scope = new Environment();
  const values = [true, false, null, true, false, null];
  BUILT_INS.forEach((name, i) => {
    scope.set(name, values[i]);
  });
  scope.set("raise_exception", (text: unknown) => {
    throw new TemplateRefusal(String(text));
  });
  scope.set("range", boundedRange);
  scope.set("strftime_now", (format: unknown) => formatDate(new Date(), String(format).slice(0, 256)));
  for (const [name, value] of Object.entries(variables)) if (!isReserved(name)) scope.set(name, value);
  return scope;
}

function boundedRange(first: unknown, second?: unknown, step: unknown = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  if (
    !Number.isSafeInteger(start) ||
    !Number.isSafeInteger(stop) ||
    !Number.isSafeInteger(step) ||
    step === 0
  ) {
    throw new Error("range() takes integers and a step that is not zero");
  }
  const count = Math.max(0, Math.ceil((Number(stop) - Number(start)) / Number(step)));
  if (count > MAX_RANGE) throw tooMuch(`ranges of ${MAX_RANGE}`);
  return Array.from({ length: count }, (_, i) => Number(start) + i * Number(step));
}

/** The date codes of Python's strftime that templates use; local time. */
function formatDate(date: Date, format: string): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const named = (options: Intl.DateTimeFormatOptions): string => date.toLocaleDateString("en-US", options);
  const codes: Readonly<Record<string, () => string>> = {
    Y: () => String(date.getFullYear()),
    y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1),
    d: () => two(date.getDate()),
    H: () => two(date.getHours()),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    b: () => named({ month: "short" }),
    B: () => named({ month: "long" }),
    a: () => named({ weekday: "short" }),
    A: () => named({ weekday: "long" }),
    "%": () => "%",
  };
  return format.replace(/%([a-zA-Z%])/g, (all, code: string) =>
    Object.hasOwn(codes, code) ? codes[code]!() : all,
  );
}

adaptValues();
