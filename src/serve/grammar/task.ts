import { PsionicError } from "../../core/error.ts";
import type { AnswerShape, ArgumentNotation, ChatTool } from "../../models/chat/index.ts";
import { answerGrammar } from "./answer.ts";
import { compileGrammar } from "./compile.ts";
import type { Grammar } from "./expr.ts";
import { parseGbnf } from "./gbnf.ts";
import { gemmaNotation, type Notation } from "./notation.ts";
import { packProgram } from "./pack.ts";
import { qwenArguments } from "./qwen_arguments.ts";
import { inField, shownName } from "./refusal.ts";
import { regexExpr } from "./regex.ts";
import { anyGrammar, type SchemaGrammar, type SchemaOptions, schemaGrammar } from "./schema.ts";

/** What the text of an answer must be, and the field that asks for it. */
export type StructuredOutput = {
  readonly field: string;
  readonly kind: "json_object" | "json_schema" | "regex" | "choice" | "grammar" | "tagged_structure";
  readonly source: unknown;
  /** A schema's name. */
  readonly name?: string;
};

/** The tools that an answer may call. */
export type OfferedTools = {
  readonly list: readonly ChatTool[];
  /** Names of those that are held to all of their schema. */
  readonly strict: readonly string[];
};

/** What an answer must keep to, as plain data that JSON can write: all that its program follows from. */
export type GrammarTask =
  | { readonly kind: "text"; readonly output: StructuredOutput }
  | {
      readonly kind: "answer";
      readonly shape: AnswerShape;
      readonly output?: StructuredOutput;
      readonly tools: OfferedTools;
      /** Tokens of the marks that the shape names; marks that are missing are spelled. */
      readonly marks: Readonly<Record<string, number>>;
      /** The token around Gemma 4's strings. */
      readonly quote?: number;
    };

export type CompiledTask = {
  /** As `packProgram` writes it. */
  readonly program: Int32Array<ArrayBuffer>;
  /** Parts of the schemas of tools that the answer is not held to. */
  readonly ignored: readonly string[];
};

/** The program of a task; throws `unsupported` with the `field` of the request that asks for what is not served. */
export function compileTask(task: GrammarTask): CompiledTask {
  if (task.kind === "answer") return compileAnswer(task);
  const { output } = task;
  const program = inField(output.field, () => compileGrammar(outputGrammar(output)));
  return { program: packProgram(program), ignored: [] };
}

/** The texts that are asked for. */
function outputGrammar({ field, kind, source }: StructuredOutput): Grammar {
  return inField(field, () => {
    switch (kind) {
      case "json_object":
        return anyGrammar("object");
      case "json_schema":
      case "tagged_structure":
        return schemaGrammar(source);
      case "regex": {
        const root = regexExpr(String(source), { what: "pattern", encoding: "utf8", search: false });
        return { rules: new Map(), root };
      }
      case "choice":
        return { rules: new Map(), root: { kind: "words", of: source as readonly string[] } };
      case "grammar":
        return parseGbnf(String(source));
    }
  });
}

type AnswerTask = Extract<GrammarTask, { kind: "answer" }>;

function compileAnswer({ shape, output, tools, marks, quote }: AnswerTask): CompiledTask {
  const ignored: string[] = [];
  const notations = notationsOf(shape);
  const writing: Writing = {
    notation: (tool) => notations.get(tool) ?? "json",
    gemma: quote === undefined ? undefined : gemmaNotation(quote),
  };
  const compile = (args: ReadonlyMap<string, Grammar>): Int32Array<ArrayBuffer> => {
    const content = output ? { content: outputGrammar(output) } : {};
    const idOf = (mark: string) => (Object.hasOwn(marks, mark) ? marks[mark] : undefined);
    const grammar = answerGrammar(shape, { ...content, arguments: args }, idOf);
    return packProgram(inField(output?.field ?? "tools", () => compileGrammar(grammar)));
  };
  const strict = new Set(tools.strict);
  const args = new Map(
    tools.list.map(
      (tool, i) =>
        [tool.name, argumentsGrammar(tool, i, { strict: strict.has(tool.name), ignored, writing })] as const,
    ),
  );
  try {
    return { program: compile(args), ignored };
  } catch (error) {
    if (output || strict.size > 0 || args.size === 0) throw error;
    // together they are too much; the calls stay calls of these tools, their clients check the rest
    const any = new Map(tools.list.map((tool) => [tool.name, anyArguments(tool, writing)]));
    return { program: compile(any), ignored: ["tools.parameters"] };
  }
}

/** How the model's format writes arguments. */
type Writing = {
  readonly notation: (tool: string) => ArgumentNotation;
  readonly gemma: Notation | undefined;
};

type Held = { readonly strict: boolean; readonly ignored: string[]; readonly writing: Writing };

/** A tool that is strict is held to all of its schema; of others what is not served is left out and named. */
function argumentsGrammar(tool: ChatTool, index: number, { strict, ignored, writing }: Held): Grammar {
  const { name, parameters } = tool;
  if (parameters === undefined || Object.keys(parameters).length === 0) return anyArguments(tool, writing);
  const prefix = `tool ${index}`;
  const schema = { type: "object", ...parameters };
  const field = `tools.${shownName(name)}.parameters`;
  const read = (options: SchemaOptions): SchemaGrammar => {
    const { gemma } = writing;
    switch (writing.notation(name)) {
      case "json":
        return schemaGrammar(schema, options);
      case "gemma4":
        return schemaGrammar(schema, gemma ? { ...options, notation: gemma } : options);
      case "qwen35": {
        // of the whole only its parameters are written, so what else it says is looked at first, with its places
        const { notes } = schemaGrammar(schema, options);
        return { ...qwenArguments({ name, parameters: schema }, options), notes };
      }
    }
  };
  if (strict) return inField(field, () => checked(read({ prefix })));
  try {
    const grammar = checked(read({ prefix, lenient: true }));
    ignored.push(...grammar.notes.map((note) => `${field}.${shownName(note)}`));
    return grammar;
  } catch (error) {
    if (!(error instanceof PsionicError)) throw error;
    ignored.push(field);
    return anyArguments(tool, writing);
  }
}

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
