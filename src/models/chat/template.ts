/** Chat templates from model files: hostile programs, run by an interpreter that counts. */
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { PsionicError, unexpected } from "../../core/error.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { Markup } from "./markup.ts";
import { ThinkParser } from "./think_parser.ts";
import type { ChatFormat, ChatMessage, ChatOptions } from "./types.ts";

const MAX_TEMPLATE_CHARACTERS = 1 << 20;
/** Nodes that one rendering may evaluate; the largest published templates need some thousands a message. */
const MAX_STEPS = 2_000_000;
/** Characters of any one string that a template makes. */
const MAX_STRING = 1 << 26;
const MAX_RANGE = 100_000;

/** Counts what it evaluates; values live in Maps of the library, so no host object or prototype can be reached. */
class BoundedInterpreter extends Interpreter {
  #steps = 0;

  override evaluate(...args: Parameters<Interpreter["evaluate"]>): ReturnType<Interpreter["evaluate"]> {
    if (++this.#steps > MAX_STEPS) throw tooMuch(`${MAX_STEPS} steps`);
    const value = super.evaluate(...args);
    if (typeof value.value === "string" && value.value.length > MAX_STRING)
      throw tooMuch(`${MAX_STRING} characters`);
    return value;
  }
}

function tooMuch(limit: string): PsionicError {
  return unexpected("invalid_request", "chat template", `a rendering within ${limit}`, "one that needs more");
}

/** What a template threw on purpose: its author's refusal of these messages. */
class TemplateRefusal extends Error {}

export type Template = (variables: Readonly<Record<string, unknown>>) => string;

/** Parses a template; throws `file_malformed` when it is none. */
export function compileTemplate(source: string): Template {
  if (source.length > MAX_TEMPLATE_CHARACTERS) {
    throw unexpected(
      "file_malformed",
      "chat template",
      `at most ${MAX_TEMPLATE_CHARACTERS} characters`,
      source.length,
    );
  }
  let program: ReturnType<typeof parse>;
  try {
    program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  } catch (cause) {
    throw unexpected("file_malformed", "chat template", "a Jinja template", String(cause), { cause });
  }
  return (variables) => {
    try {
      const interpreter = new BoundedInterpreter(environment(variables));
      return String(interpreter.run(program).value);
    } catch (cause) {
      if (cause instanceof PsionicError) throw cause;
      const what =
        cause instanceof TemplateRefusal ? "messages that the model's template takes" : "a rendering";
      const text = cause instanceof Error ? cause.message : String(cause);
      throw unexpected("invalid_request", "chat template", what, text.slice(0, 300), { cause });
    }
  };
}

function environment(variables: Readonly<Record<string, unknown>>): Environment {
  const env = new Environment();
  for (const [name, value] of [
    ["true", true],
    ["false", false],
    ["none", null],
  ] as const) {
    env.set(name, value);
    env.set(name[0]!.toUpperCase() + name.slice(1), value);
  }
  env.set("raise_exception", (text: unknown) => {
    throw new TemplateRefusal(String(text));
  });
  env.set("range", boundedRange);
  env.set("strftime_now", strftimeNow);
  for (const [name, value] of Object.entries(variables)) env.set(name, value);
  return env;
}

function boundedRange(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  if (step === 0) throw new Error("range() with a step of zero");
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (count > MAX_RANGE) throw tooMuch(`ranges of ${MAX_RANGE}`);
  return Array.from({ length: count }, (_, i) => start + i * step);
}

/** The date codes that templates use. */
function strftimeNow(format: string): string {
  const now = new Date();
  const two = (n: number): string => String(n).padStart(2, "0");
  const name = (options: Intl.DateTimeFormatOptions): string => now.toLocaleDateString("en-US", options);
  const codes: Readonly<Record<string, string>> = {
    Y: String(now.getFullYear()),
    m: two(now.getMonth() + 1),
    d: two(now.getDate()),
    H: two(now.getHours()),
    M: two(now.getMinutes()),
    S: two(now.getSeconds()),
    b: name({ month: "short" }),
    B: name({ month: "long" }),
    a: name({ weekday: "short" }),
    A: name({ weekday: "long" }),
    y: two(now.getFullYear() % 100),
    "%": "%",
  };
  return format.replace(/%([a-zA-Z%])/g, (all, code: string) => codes[code] ?? all);
}

/** The format that a model's own template describes. */
export function templateFormat(source: string, tokenizer: Tokenizer): ChatFormat {
  const template = compileTemplate(source);
  const markup = new Markup(tokenizer);
  const text = (id: number | undefined): string => (id === undefined ? "" : tokenizer.tokenText(id));
  const thinks = tokenizer.idOf("<think>") !== undefined;
  let promptOpensThought = false;
  return {
    name: "template",
    capabilities: { reasoning: thinks, tools: false },
    stopTokens: [],
    prompt(messages, options = {}) {
      const rendered = template({
        ...{ messages: messages.map((m) => templateMessage(m, markup)), add_generation_prompt: true },
        ...{ bos_token: text(tokenizer.bos), eos_token: text(tokenizer.eos) },
        ...templateArguments(options),
      });
      promptOpensThought = thinks && rendered.trimEnd().endsWith("<think>");
      return markup.encode(rendered);
    },
    render: () => [],
    parser: () => new ThinkParser(tokenizer, promptOpensThought),
  };
}

function templateArguments({ reasoningEffort, templateArguments }: ChatOptions): Record<string, unknown> {
  return { ...(reasoningEffort && { reasoning_effort: reasoningEffort }), ...templateArguments };
}

function templateMessage(m: ChatMessage, markup: Markup): Record<string, unknown> {
  const calls = m.toolCalls?.map((call) => ({
    id: call.id ?? "",
    type: "function",
    function: { name: markup.plain(call.name), arguments: parsedArguments(call.arguments, markup) },
  }));
  return {
    role: m.role,
    content: markup.plain(m.content),
    ...(m.reasoning !== undefined && { reasoning_content: markup.plain(m.reasoning) }),
    ...(m.name !== undefined && { name: markup.plain(m.name) }),
    ...(m.toolCallId !== undefined && { tool_call_id: markup.plain(m.toolCallId) }),
    ...(calls && calls.length > 0 && { tool_calls: calls }),
  };
}

/** Templates apply `tojson` to arguments, so they are handed over as a value. */
function parsedArguments(text: string, markup: Markup): unknown {
  const plain = markup.plain(text);
  try {
    return JSON.parse(plain);
  } catch {
    return plain; // arguments that are not JSON are shown to the model as they stand
  }
}
