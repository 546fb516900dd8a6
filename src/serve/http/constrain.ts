import type { AnswerShape, AnswerWish, ChatFormat, ChatOptions } from "../../models/chat/index.ts";
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import {
  type CompiledGrammar,
  checkValue,
  type GrammarTask,
  inField,
  packTokens,
  type StructuredOutput,
} from "../grammar/index.ts";
import type { RequestConstraint } from "../protocol.ts";
import type { RouteContext } from "./context.ts";
import type { ServedModel } from "./options.ts";
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
export async function constrainAnswer(
  context: RouteContext,
  model: ServedModel,
  answer: Answer,
): Promise<ConstrainedAnswer> {
  const { chat, tokenizer } = model;
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
  inField("tools", () => checkValue(offered));
  if (output) inField(output.field, () => checkValue(output.source));
  const quote = tokenizer.idOf('<|"|>');
  const compiled = await compile(context, {
    ...{ kind: "answer", shape, marks: marksOf(shape, tokenizer) },
    ...(output ? { output } : {}),
    tools: { list: offered, strict: [...(use.strict ?? [])] },
    ...(quote === undefined ? {} : { quote }),
  });
  return {
    constraint: constraintOf(model, compiled, answer.started, answer.stops),
    ignored: compiled.ignored,
  };
}

/** The constraint of a text that may end with these tokens. */
export type Constrain = (stops: readonly number[]) => RequestConstraint;

/** Holds texts without any chat format to the form that was asked for. */
export async function constrainText(
  context: RouteContext,
  model: ServedModel,
  output: StructuredOutput | undefined,
): Promise<Constrain | undefined> {
  if (!output) return undefined;
  inField(output.field, () => checkValue(output.source));
  const compiled = await compile(context, { kind: "text", output });
  return (stops) => constraintOf(model, compiled, [], stops);
}

function compile({ state, client, signal }: RouteContext, task: GrammarTask): Promise<CompiledGrammar> {
  return state.grammars.compile(task, client, signal);
}

/** Tokens of the marks that a form names. */
function marksOf(shape: AnswerShape, tokenizer: Tokenizer): Record<string, number> {
  const marks: Record<string, number> = {};
  const look = (part: AnswerShape): void => {
    if (part.kind === "seq" || part.kind === "choice") part.of.forEach(look);
    else if (part.kind === "repeat") look(part.of);
    else if (part.kind === "mark") {
      const id = tokenizer.idOf(part.text);
      if (id !== undefined) marks[part.text] = id;
    }
  };
  look(shape);
  return marks;
}

function constraintOf(
  { tokenizer, chat }: ServedModel,
  { program, digest }: CompiledGrammar,
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
