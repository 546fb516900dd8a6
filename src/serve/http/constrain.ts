import { PsionicError } from "../../core/error.ts";
import type { AnswerShape, AnswerWish, ChatFormat, ChatOptions, ChatTool } from "../../models/chat/index.ts";
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import {
  answerGrammar,
  compileGrammar,
  type Grammar,
  jsonGrammar,
  type Program,
  packTokens,
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
  const compile = (args: ReadonlyMap<string, Grammar>): Program => {
    const content = output ? { content: outputGrammar(output) } : {};
    const grammar = answerGrammar(shape, { ...content, arguments: args }, (mark) => tokenizer.idOf(mark));
    return named400(output?.field ?? "tools", () => compileGrammar(grammar));
  };
  const args = new Map(tools.map((tool, i) => [tool.name, argumentsGrammar(tool, i, use, ignored)] as const));
  try {
    return { program: compile(args), ignored };
  } catch (error) {
    if (output || use.strict?.size || args.size === 0) throw error;
    // together they are too much; the calls stay calls of these tools, their clients check the rest
    const any = jsonGrammar("object");
    return {
      program: compile(new Map([...args.keys()].map((name) => [name, any]))),
      ignored: ["tools.parameters"],
    };
  }
}

/** A tool that is strict is held to all of its schema; of others what is not served is left out and named. */
function argumentsGrammar(
  { name, parameters }: ChatTool,
  index: number,
  use: ToolUse,
  ignored: string[],
): Grammar {
  if (parameters === undefined || Object.keys(parameters).length === 0) return jsonGrammar("object");
  const prefix = `tool ${index}`;
  const schema = { type: "object", ...parameters };
  const field = `tools.${printable(name)}.parameters`;
  if (use.strict?.has(name)) return named400(field, () => checked(schemaGrammar(schema, { prefix })));
  try {
    const grammar = checked(schemaGrammar(schema, { prefix, lenient: true }));
    ignored.push(...grammar.notes.map((note) => `${field}.${printable(note)}`));
    return grammar;
  } catch (error) {
    if (!(error instanceof PsionicError)) throw error;
    ignored.push(field);
    return jsonGrammar("object");
  }
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
