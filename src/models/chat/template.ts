import { unexpected } from "../../core/error.ts";
import { compileTemplate, isReserved, type Template } from "./jinja.ts";
import { templateLimits } from "./jinja_limits.ts";
import { promptWriter, textOf } from "./pieces.ts";
import { type TemplateText, templateText } from "./template_text.ts";
import { plainParser } from "./think_parser.ts";
import type {
  ChatFormat,
  ChatMessage,
  ChatOptions,
  ChatTokenizer,
  ContentPart,
  PromptPiece,
} from "./types.ts";

/** How much of a conversation's system texts the template takes. */
type SystemSupport = "anywhere" | "first" | "none";

/** A model file's template as a renderer. */
export type ChatTemplate = {
  /** Tools go to the template as it wants them; whether it does anything with them is its matter. */
  readonly render: (messages: readonly ChatMessage[], options?: ChatOptions) => PromptPiece[];
  readonly reads: (variable: string) => boolean;
  /** Names of authors get into the prompt. */
  readonly names: boolean;
  /** Whether a prompt of these options ends in an open `<think>`. */
  readonly opensThought: (options: ChatOptions) => boolean;
};

/**
 * Reads a model file's template; throws `file_malformed` where it is none. `marks`: texts of the format that messages
 * must not become even where the template does not use them.
 */
export function chatTemplate(
  source: string,
  tokenizer: ChatTokenizer,
  marks: readonly string[] = [],
): ChatTemplate {
  const renderer = makeRenderer(source, tokenizer, marks);
  const support = systemSupport(renderer);
  const developer = /['"]developer['"]/.test(source);
  const words = new Set(source.match(/\w+/g));
  return {
    render: (messages, options = {}) => {
      checkLength(messages, options);
      return renderer(placeSystem(messages, support, developer), options);
    },
    reads: (variable) => words.has(variable),
    names: writesNames(renderer),
    opensThought: (options) => opensThought(renderer, options),
  };
}

/** The format that a model file's own template describes; throws `file_malformed` where it is no template. */
export function templateFormat(source: string, tokenizer: ChatTokenizer): ChatFormat {
  const template = chatTemplate(source, tokenizer);
  const reasoning = tokenizer.idOf("</think>") !== undefined;
  const render = (messages: readonly ChatMessage[], options: ChatOptions = {}): PromptPiece[] => {
    refuseTools(options);
    return template.render(messages, options);
  };
  return {
    name: "template",
    capabilities: { reasoning, tools: false, names: template.names },
    reads: template.reads,
    stopTokens: [],
    reasoningEnds: reasoning ? ["\n</think>\n\n"] : [],
    render,
    ...promptWriter(tokenizer, render),
    parser: (options = {}) =>
      plainParser(tokenizer, { split: reasoning, thinking: reasoning && template.opensThought(options) }),
  };
}

type Renderer = (messages: readonly ChatMessage[], options: ChatOptions) => PromptPiece[];

function makeRenderer(source: string, tokenizer: ChatTokenizer, marks: readonly string[]): Renderer {
  const guarded = [source, ...marks].join("\n");
  const strict = rendererWith(source, tokenizer, templateText(tokenizer, guarded, false));
  // Only a template that builds control tokens from parts leaves some unmarked in a conversation that has none.
  const probe = tryRender(() => strict.text([{ role: "user", content: "a" }], {}));
  if (probe === undefined || !strict.marks.isComposed(probe)) return strict.pieces;
  return rendererWith(source, tokenizer, templateText(tokenizer, guarded, true)).pieces;
}

function rendererWith(source: string, tokenizer: ChatTokenizer, marks: TemplateText) {
  const template: Template = compileTemplate(source, marks.ofTemplate);
  const tokenText = (id: number | undefined): string =>
    id === undefined ? "" : marks.ofTemplate(tokenizer.tokenText(id));
  const fixed = { bos_token: tokenText(tokenizer.bos), eos_token: tokenText(tokenizer.eos) };
  // some templates know a level beyond high in its place
  const high = /['"]xhigh['"]/.test(source) && !/['"]high['"]/.test(source) ? "xhigh" : "high";
  const text = (messages: readonly ChatMessage[], options: ChatOptions): string => {
    const variables = {
      ...argumentsOf(options, marks, high),
      ...fixed,
      ...toolsOf(options, marks),
      messages: messages.map((message) => templateMessage(message, marks)),
      add_generation_prompt: true,
    };
    return template.render(variables, templateLimits(JSON.stringify(variables).length));
  };
  return { marks, text, pieces: (...args: Parameters<Renderer>) => marks.pieces(text(...args)) };
}

function tryRender<T>(render: () => T): T | undefined {
  try {
    return render();
  } catch {
    // A probe asks what the template can do; a refusal is an answer.
    return undefined;
  }
}

/**
 * A template is a program that nobody can leave half-way, so what goes into it is bounded: four UTF-16 units for each token that would
 * be looked at, so many in any case, and so many where the caller takes any number of tokens.
 */
const UNITS_PER_TOKEN = 4;
const LEAST_UNITS = 1 << 20;
const UNITS_UNBOUNDED = 1 << 22;

function checkLength(messages: readonly ChatMessage[], options: ChatOptions): void {
  const { mostTokens, tools = [], templateArguments = {} } = options;
  const most =
    mostTokens === undefined ? UNITS_UNBOUNDED : Math.max(UNITS_PER_TOKEN * mostTokens, LEAST_UNITS);
  let units = tools.length === 0 ? 0 : JSON.stringify(tools).length;
  units += JSON.stringify(templateArguments).length;
  for (const { content, reasoning = "", toolCalls = [], toolResponses = [] } of messages) {
    units += content.length + reasoning.length;
    for (const call of toolCalls) units += call.name.length + call.arguments.length;
    if (toolResponses.length > 0) units += JSON.stringify(toolResponses).length;
  }
  if (units <= most) return;
  throw unexpected(
    "invalid_request",
    "chat template",
    `a conversation of at most ${most} characters`,
    units,
    {
      fix: "The model file's own template writes it, as a whole; shorten it, or use /v1/completions with a prompt of your own",
      details: { param: "messages" },
    },
  );
}

function refuseTools({ tools = [] }: ChatOptions): void {
  if (tools.length === 0) return;
  const fix = "Leave tools out; GPT-OSS, Qwen 3.5 and Gemma 4 models support them";
  const details = { param: "tools" };
  throw unexpected("unsupported", "chat template", "a request without tools", `${tools.length} tools`, {
    fix,
    details,
  });
}

function opensThought(renderer: Renderer, { templateArguments, reasoningEffort }: ChatOptions): boolean {
  const options = {
    ...(templateArguments && { templateArguments }),
    ...(reasoningEffort && { reasoningEffort }),
  };
  const pieces = tryRender(() => renderer([{ role: "user", content: "a" }], options));
  return pieces !== undefined && textOf(pieces).trimEnd().endsWith("<think>");
}

/** Variables that the request's messages and the model file set. */
const OWN_VARIABLES: ReadonlySet<string> = new Set([
  "messages",
  "tools",
  "bos_token",
  "eos_token",
  "add_generation_prompt",
]);

function argumentsOf(
  options: ChatOptions,
  marks: TemplateText,
  high: "high" | "xhigh",
): Record<string, unknown> {
  const { reasoningEffort, templateArguments = {}, currentDate } = options;
  for (const name of Object.keys(templateArguments)) {
    if (!isReserved(name) && !OWN_VARIABLES.has(name)) continue;
    const details = { param: `chat_template_kwargs.${name}` };
    throw unexpected("invalid_request", "chat template", "a variable of the template's own", name, {
      details,
    });
  }
  return {
    ...(reasoningEffort && { reasoning_effort: reasoningEffort === "high" ? high : reasoningEffort }),
    ...(currentDate && { date_string: marks.ofMessage(currentDate, false) }),
    ...(markAll(templateArguments, marks) as Record<string, unknown>),
  };
}

/** Tools as OpenAI's API spells them, which is what templates write out. */
function toolsOf({ tools = [] }: ChatOptions, marks: TemplateText): Record<string, unknown> {
  if (tools.length === 0) return {};
  return { tools: tools.map((tool) => markAll({ type: "function", function: { ...tool } }, marks)) };
}

function templateMessage(message: ChatMessage, marks: TemplateText): Record<string, unknown> {
  const { role, content, reasoning, name, toolCallId, toolCalls = [] } = message;
  const text = (value: string): string => marks.ofMessage(value, role === "assistant");
  const calls = toolCalls.map((call) => ({
    ...(call.id !== undefined && { id: text(call.id) }),
    type: "function",
    function: { name: text(call.name), arguments: callArguments(call.arguments, marks) },
  }));
  return {
    role,
    content: message.parts?.map((part) => partOf(part, text)) ?? text(content),
    ...(reasoning !== undefined && { reasoning_content: text(reasoning) }),
    ...(name !== undefined && { name: text(name) }),
    ...(toolCallId !== undefined && { tool_call_id: text(toolCallId) }),
    ...(calls.length > 0 && { tool_calls: calls }),
    ...(message.toolResponses && { tool_responses: markAll(message.toolResponses, marks) }),
  };
}

function partOf(part: ContentPart, text: (value: string) => string): Record<string, unknown> {
  return part.type === "text" ? { type: "text", text: text(part.text) } : { type: part.type };
}

/** Templates write arguments with `tojson` or loop over them, so they get the value. */
function callArguments(text: string, marks: TemplateText): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // What is not JSON is shown to the model as it stands.
    value = text;
  }
  return markAll(value, marks);
}

/** Deeper values in template variables and arguments of calls are refused. */
const MAX_DEPTH = 100;

function markAll(value: unknown, marks: TemplateText, depth = 0): unknown {
  if (depth > MAX_DEPTH) {
    throw unexpected(
      "invalid_request",
      "chat template",
      `values nested at most ${MAX_DEPTH} deep`,
      "deeper ones",
    );
  }
  if (typeof value === "string") return marks.ofMessage(value, false);
  if (Array.isArray(value)) return value.map((item) => markAll(item, marks, depth + 1));
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).map(
    ([key, item]) => [marks.ofMessage(key, false), markAll(item, marks, depth + 1)] as const,
  );
  return Object.fromEntries(entries);
}

const NAME_PROBE = "psionicnameprobe";

/** Whether a user's name gets into the prompt: most templates have no place for it. */
function writesNames(renderer: Renderer): boolean {
  const pieces = tryRender(() => renderer([{ role: "user", content: "a", name: NAME_PROBE }], {}));
  return pieces !== undefined && textOf(pieces).includes(NAME_PROBE);
}

const SYSTEM_PROBE = "psionicsystemprobe";

/** Finds out by trying: templates refuse or forget system texts in ways of their own. */
function systemSupport(renderer: Renderer): SystemSupport {
  const user = { role: "user", content: "a" } as const;
  const system = { role: "system", content: SYSTEM_PROBE } as const;
  const keeps = (messages: readonly ChatMessage[]): boolean => {
    const pieces = tryRender(() => renderer(messages, {}));
    return pieces !== undefined && textOf(pieces).includes(SYSTEM_PROBE);
  };
  if (!keeps([system, user])) return "none";
  const later = [{ role: "system", content: "b" }, user, { role: "assistant", content: "c" }] as const;
  return keeps([...later, system, user]) ? "anywhere" : "first";
}

/** Puts system texts where the template takes them, so that none is lost. */
function placeSystem(
  messages: readonly ChatMessage[],
  support: SystemSupport,
  developer: boolean,
): readonly ChatMessage[] {
  const isSystem = ({ role }: ChatMessage): boolean => role === "system" || role === "developer";
  const named = messages.map((message) =>
    message.role === "developer" && !developer ? { ...message, role: "system" as const } : message,
  );
  if (support === "anywhere" || !named.some(isSystem)) return named;
  const rest = named.filter((message) => !isSystem(message));
  const texts = named.filter(isSystem).map(({ content }) => content);
  const content = texts.join("\n\n");
  if (support === "first") return [{ role: "system", content }, ...rest];
  const [first] = rest;
  if (first?.role === "user")
    return [{ ...first, content: `${content}\n\n${first.content}` }, ...rest.slice(1)];
  return [{ role: "user", content }, ...rest];
}
