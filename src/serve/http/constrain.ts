import { PsionicError } from "../../core/error.ts";
import type {
  AnswerShape,
  AnswerWish,
  ArgumentNotation,
  ChatFormat,
  ChatOptions,
  ChatTool,
} from "../../models/chat/index.ts";
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import {
  answerGrammar,
  anyGrammar,
  checkValue,
  compileGrammar,
  type Grammar,
  gemmaNotation,
  type Notation,
  type Program,
  packTokens,
  qwenArguments,
  type SchemaGrammar,
  type SchemaOptions,
  schemaGrammar,
} from "../grammar/index.ts";
import type { RequestConstraint } from "../protocol.ts";
import { printable } from "./body.ts";
import type { ServedModel } from "./options.ts";
import { named400, outputGrammar, type StructuredOutput } from "./structured.ts";
import type { ToolUse } from "./tools.ts";

export type ConstrainedAnswer = {
  readonly constraint?: RequestConstraint;
  /** Parts of the schemas of tools that the answer is not held to. */
  readonly ignored: readonly string[];
};

type Answer = {
  readonly output?: StructuredOutput | undefined;
  readonly use: ToolUse;
  readonly options: ChatOptions;
  readonly prompt: readonly number[];
  /** Tokens of the answer that the server wrote. */
  readonly started: readonly number[];
  /** Tokens that may end the answer where it may end. */
  readonly stops: readonly number[];
};

/** Holds an answer to the form that was asked for and its calls to the schemas of their tools. */
export function constrainAnswer(model: ServedModel, answer: Answer): ConstrainedAnswer {
  const { chat } = model;
  const { output, use, options, prompt } = answer;
  const { tools, forced } = use;
  const called = tools.length > 0 && chat.shape !== undefined;
  if (output === undefined && !called) return { ignored: [] };
  const wish: AnswerWish = {
    text: forced ? "none" : output ? "own" : "free",
    calls: !called ? "none" : use.single ? "one" : "several",
    ...(forced?.tool === undefined ? {} : { tool: forced.tool }),
  };
  const shape = chat.shape?.(wish, options, prompt) ?? textShape(chat, options, prompt);
  const wanted = forced?.tool === undefined ? tools : tools.filter(({ name }) => name === forced.tool);
  const offered = called ? wanted : [];
  const strict = [...(use.strict ?? [])];
  named400("tools", () => checkValue(offered));
  if (output) named400(output.field, () => checkValue(output.source));
  const key = JSON.stringify([shape, output?.kind, output?.source, offered, strict]);
  const { program, digest, ignored } = remembered(model.tokenizer, key, () =>
    compileAnswer(model, shape, output, offered, use),
  );
  return { constraint: constraintOf(model, program, digest, answer.started, answer.stops), ignored };
}

/** Holds a text without any chat format to the form that was asked for. */
export function constrainText(
  model: ServedModel,
  output: StructuredOutput | undefined,
  stops: readonly number[],
): RequestConstraint | undefined {
  if (!output) return undefined;
  named400(output.field, () => checkValue(output.source));
  const key = JSON.stringify(["text", output.kind, output.source]);
  const { program, digest } = remembered(model.tokenizer, key, () => ({
    program: named400(output.field, () => compileGrammar(outputGrammar(output))),
    ignored: [],
  }));
  return constraintOf(model, program, digest, [], stops);
}

function constraintOf(
  { tokenizer, chat }: ServedModel,
  program: Program,
  digest: string,
  consumed: readonly number[],
  stops: readonly number[],
): RequestConstraint {
  const marks = (chat.marks ?? []).flatMap((mark) => tokenizer.idOf(mark) ?? []);
  return { program, digest, consumed, stops, vocabulary: () => packTokens(tokenizer, new Set(marks)) };
}

/** Answers of formats that tell nothing more: a think block where the vocabulary has its marks, then the text. */
function textShape(chat: ChatFormat, options: ChatOptions, prompt: readonly number[]): AnswerShape {
  const content: AnswerShape = { kind: "content" };
  if (!chat.capabilities.reasoning) return content;
  const text = (value: string): AnswerShape => ({ kind: "text", text: value });
  const blank: AnswerShape = { kind: "choice", of: [text("\n\n"), text("\n"), text("")] };
  const close: AnswerShape = {
    kind: "seq",
    of: [{ kind: "free" }, { kind: "mark", text: "</think>" }, blank],
  };
  if (chat.parser(options, prompt).region?.kind === "reasoning") return { kind: "seq", of: [close, content] };
  const thought: AnswerShape = { kind: "seq", of: [{ kind: "mark", text: "<think>" }, close] };
  return { kind: "seq", of: [{ kind: "repeat", of: thought, min: 0, max: 1 }, content] };
}

type Compiled = { readonly program: Program; readonly ignored: readonly string[] };

function compileAnswer(
  { tokenizer }: ServedModel,
  shape: AnswerShape,
  output: StructuredOutput | undefined,
  tools: readonly ChatTool[],
  use: ToolUse,
): Compiled {
  const ignored: string[] = [];
  const notations = notationsOf(shape);
  const quote = tokenizer.idOf('<|"|>');
  const writing: Writing = {
    notation: (tool) => notations.get(tool) ?? "json",
    gemma: quote === undefined ? undefined : gemmaNotation(quote),
  };
  const compile = (args: ReadonlyMap<string, Grammar>): Program => {
    const content = output ? { content: outputGrammar(output) } : {};
    const grammar = answerGrammar(shape, { ...content, arguments: args }, (mark) => tokenizer.idOf(mark));
    return named400(output?.field ?? "tools", () => compileGrammar(grammar));
  };
  const args = new Map(
    tools.map((tool, i) => [tool.name, argumentsGrammar(tool, i, use, { ignored, writing })] as const),
  );
  try {
    return { program: compile(args), ignored };
  } catch (error) {
    if (output || use.strict?.size || args.size === 0) throw error;
    // together they are too much; the calls stay calls of these tools, their clients check the rest
    const any = new Map(tools.map((tool) => [tool.name, anyArguments(tool, writing)]));
    return {
      program: compile(any),
      ignored: ["tools.parameters"],
    };
  }
}

/** A tool that is strict is held to all of its schema; of others what is not served is left out and named. */
function argumentsGrammar(
  tool: ChatTool,
  index: number,
  use: ToolUse,
  { ignored, writing }: { readonly ignored: string[]; readonly writing: Writing },
): Grammar {
  const { name, parameters } = tool;
  if (parameters === undefined || Object.keys(parameters).length === 0) return anyArguments(tool, writing);
  const prefix = `tool ${index}`;
  const schema = { type: "object", ...parameters };
  const field = `tools.${printable(name)}.parameters`;
  const read = (options: SchemaOptions): SchemaGrammar => {
    const { gemma } = writing;
    switch (writing.notation(name)) {
      case "json":
        return schemaGrammar(schema, options);
      case "gemma4":
        return schemaGrammar(schema, gemma ? { ...options, notation: gemma } : options);
      case "qwen35":
        // of the whole only its parameters are written, so what else it says is looked at here
        return {
          ...qwenArguments({ name, parameters: schema }, options),
          notes: schemaGrammar(schema, options).notes,
        };
    }
  };
  if (use.strict?.has(name)) return named400(field, () => checked(read({ prefix })));
  try {
    const grammar = checked(read({ prefix, lenient: true }));
    ignored.push(...grammar.notes.map((note) => `${field}.${printable(note)}`));
    return grammar;
  } catch (error) {
    if (!(error instanceof PsionicError)) throw error;
    ignored.push(field);
    return anyArguments(tool, writing);
  }
}

/** How the model's format writes arguments. */
type Writing = {
  readonly notation: (tool: string) => ArgumentNotation;
  readonly gemma: Notation | undefined;
};

function anyArguments({ name }: ChatTool, { notation, gemma }: Writing): Grammar {
  if (notation(name) === "qwen35") return qwenArguments({ name }, {});
  return anyGrammar("object", notation(name) === "gemma4" ? gemma : undefined);
}

function notationsOf(shape: AnswerShape, found = new Map<string, ArgumentNotation>()) {
  if (shape.kind === "arguments") found.set(shape.tool, shape.notation);
  else if (shape.kind === "seq" || shape.kind === "choice")
    for (const part of shape.of) notationsOf(part, found);
  else if (shape.kind === "repeat") notationsOf(shape.of, found);
  return found;
}

/** A grammar that can be compiled on its own. */
function checked<G extends Grammar>(grammar: G): G {
  compileGrammar(grammar);
  return grammar;
}

/** Compiled grammars of a model's requests, the one used longest ago first. */
const compiled = new WeakMap<Tokenizer, Map<string, Compiled & { readonly digest: string }>>();
const mostRemembered = 64;

function remembered(tokenizer: Tokenizer, key: string, compile: () => Compiled) {
  const digest = new Bun.CryptoHasher("sha256").update(key).digest("hex");
  const known = compiled.get(tokenizer) ?? new Map<string, Compiled & { readonly digest: string }>();
  compiled.set(tokenizer, known);
  const entry = known.get(digest) ?? { ...compile(), digest };
  known.delete(digest);
  known.set(digest, entry);
  const oldest = known.keys().next().value;
  if (known.size > mostRemembered && oldest !== undefined) known.delete(oldest);
  return entry;
}
