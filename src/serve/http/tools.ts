import * as v from "valibot";
import type { ChatTool } from "../../models/chat/index.ts";
import { describe, printable, validateAt } from "./body.ts";
import { badField, unsupportedField } from "./errors.ts";
import type { ServedModel } from "./options.ts";
import { flag, maybe, text } from "./schema.ts";

/** Which tools an answer may or must call. */
export type ToolChoice =
  | {
      readonly kind: "none" | "auto" | "required" /** Absent: all that are offered. */;
      readonly only?: readonly string[];
    }
  | { readonly kind: "named"; readonly name: string };

/** The tools of a request that can be offered, and the names of those that cannot. */
export type OfferedTools = {
  readonly tools: readonly ChatTool[];
  readonly ignored: readonly string[];
  /** Names of those that are marked strict. */
  readonly strict: ReadonlySet<string>;
  /** Where a tool came from that was offered as one of a group, by the name it is offered under. */
  readonly grouped: ReadonlyMap<string, GroupedTool>;
};

export type GroupedTool = { readonly namespace: string; readonly name: string };

/** The name under which the model sees a tool of a group. */
export function groupedName({ namespace, name }: GroupedTool): string {
  return `${namespace}.${name}`;
}

/** Where an API puts the parts of a tool: whether it is a function, and the function's members. */
export type ToolForm = {
  readonly isFunction: (tool: { readonly type?: unknown }) => boolean;
  /** The member that holds the function; empty where the tool is the function. */
  readonly at: "" | "function";
  /** The member that holds the schema of the arguments. */
  readonly schema: "parameters" | "input_schema";
  /** Agents may offer the tools of one server as a group: `{type: "namespace", name, tools}`. */
  readonly groups?: true;
};

export const chatTools: ToolForm = {
  isFunction: ({ type }) => type === "function",
  at: "function",
  schema: "parameters",
};
export const responseTools: ToolForm = { ...chatTools, at: "", groups: true };
export const anthropicTools: ToolForm = {
  isFunction: ({ type }) => type === undefined || type === null || type === "custom",
  at: "",
  schema: "input_schema",
};

/** Agents with many servers behind them offer some hundred. */
const maxTools = 1024;
const name = v.pipe(
  text,
  v.minLength(1, "a name"),
  v.maxLength(256, "a name of at most 256 characters"),
  v.regex(/^[^\s<>|]+$/, "a name without white space and angle brackets"),
);
const argumentsSchema = maybe(
  v.pipe(
    // a record of valibot's takes arrays, too
    v.custom((schema) => !Array.isArray(schema), "a JSON schema object"),
    v.record(text, v.unknown(), "a JSON schema object"),
    v.check(({ type }) => admitsObjects(type), "a schema of objects, for arguments have names"),
  ),
);

/** Whether a schema's `type` leaves room for objects; one that is malformed is for the grammar to name. */
function admitsObjects(type: unknown): boolean {
  return Array.isArray(type) ? type.includes("object") : typeof type !== "string" || type === "object";
}

const functionTool = v.object(
  {
    name,
    description: maybe(text),
    parameters: argumentsSchema,
    input_schema: argumentsSchema,
    strict: maybe(flag),
  },
  "an object",
);

const group = v.object({ name, tools: v.array(v.unknown(), "an array of tools") }, "an object");

/** The functions among a request's tools; types that only other servers run are left out and named. */
export function readTools(tools: readonly unknown[] | null | undefined, form: ToolForm): OfferedTools {
  const offered = new Map<string, ChatTool>();
  const grouped = new Map<string, GroupedTool>();
  const ignored = new Set<string>();
  const strict = new Set<string>();
  const read = (list: readonly unknown[], where: string, namespace?: string): void => {
    list.forEach((tool, i) => {
      const param = `${where}[${i}]`;
      if (typeof tool !== "object" || tool === null) throw badField(param, "an object", describe(tool));
      const { type } = tool as { readonly type?: unknown };
      if (form.groups && namespace === undefined && type === "namespace") {
        const inner = validateAt(group, tool, param);
        read(inner.tools, `${param}.tools`, inner.name);
        return;
      }
      if (!form.isFunction(tool)) {
        if (typeof type !== "string") throw badField(`${param}.type`, "a type", describe(type));
        ignored.add(`tools.${printable(type)}`);
        return;
      }
      const { strict: isStrict, ...one } = readFunction(tool, param, form);
      for (const member of unusedMembers(tool, form)) ignored.add(member);
      const origin = namespace === undefined ? undefined : { namespace, name: one.name };
      const shown = origin ? { ...one, name: groupedName(origin) } : one;
      if (offered.has(shown.name)) {
        throw badField(`${param}.name`, "a name of its own", "the name of an earlier tool");
      }
      if (origin) grouped.set(shown.name, origin);
      offered.set(shown.name, shown);
      if (isStrict) strict.add(shown.name);
      if (offered.size > maxTools) throw badField("tools", `at most ${maxTools} tools`, "more");
    });
  };
  read(tools ?? [], "tools");
  return { tools: [...offered.values()], ignored: [...ignored], grouped, strict };
}

function readFunction(tool: object, param: string, form: ToolForm): ChatTool & { readonly strict: boolean } {
  const where = form.at === "" ? param : `${param}.${form.at}`;
  const inner: unknown = form.at === "" ? tool : (tool as Record<string, unknown>)[form.at];
  const { name: own, description, ...rest } = validateAt(functionTool, inner, where);
  const schema = rest[form.schema] ?? undefined;
  return {
    name: own,
    strict: rest.strict ?? false,
    ...(description ? { description } : {}),
    ...(schema === undefined ? {} : { parameters: schema }),
  };
}

/** Members of a checked function that nothing here reads, as `tools.cache_control`. */
function unusedMembers(tool: object, { at, schema }: ToolForm): string[] {
  const own = ["name", "description", "strict", schema];
  const beyond = (members: object, known: readonly string[], where: string) =>
    Object.entries(members)
      .filter(([name, value]) => value !== null && !known.includes(name))
      .map(([name]) => `${where}.${printable(name)}`);
  if (at === "") return beyond(tool, ["type", ...own], "tools");
  const inner = (tool as Readonly<Record<string, object>>)[at]!;
  return [...beyond(tool, ["type", at], "tools"), ...beyond(inner, own, `tools.${at}`)];
}

const words = ["none", "auto", "required"] as const;

/**
 * `tool_choice` as OpenAI's APIs spell it: a word, `{type: "function", name}` or `{type: "function", function: {name}}`, or
 * some of the tools, `{type: "allowed_tools", mode, tools}`, in chat within `allowed_tools`.
 */
export function readToolChoice(choice: unknown): ToolChoice | undefined {
  if (choice === undefined || choice === null) return undefined;
  const word = words.find((known) => known === choice);
  if (word) return { kind: word };
  const expected = 'none, auto, required, or {type: "function"} with a name';
  if (typeof choice !== "object") throw badField("tool_choice", expected, describe(choice));
  const { type, allowed_tools: allowed } = choice as Readonly<Record<string, unknown>>;
  if (type === "allowed_tools") {
    return allowed === undefined
      ? allowedTools(choice, "tool_choice")
      : allowedTools(allowed, "tool_choice.allowed_tools");
  }
  const named = functionName(choice);
  if (named === undefined) throw badField("tool_choice", expected, describe(choice));
  return { kind: "named", name: named };
}

/** The name in `{type: "function", name}` or `{type: "function", function: {name}}`. */
function functionName(named: unknown): string | undefined {
  if (typeof named !== "object" || named === null) return undefined;
  const { type, name: flat, function: inner } = named as Readonly<Record<string, unknown>>;
  const own = flat ?? (inner as { name?: unknown } | null | undefined)?.name;
  return type === "function" && typeof own === "string" ? own : undefined;
}

const allowedEntries = v.object(
  {
    mode: v.picklist(["auto", "required"], "auto or required"),
    tools: v.array(v.object({ type: text }, "a tool with a type"), "an array of tools"),
  },
  "an object with mode and tools",
);

/** Tools of types that are not served are left out here as they are among the tools. */
function allowedTools(choice: unknown, param: string): ToolChoice {
  const { mode, tools } = validateAt(allowedEntries, choice, param);
  const raw = (choice as { readonly tools: readonly unknown[] }).tools;
  const only = tools.flatMap(({ type }, i) => {
    if (type !== "function") return [];
    const own = functionName(raw[i]);
    if (own === undefined) throw badField(`${param}.tools[${i}]`, "a function with a name", "none");
    return own;
  });
  return { kind: mode, only };
}

/** What a checked choice makes of the offer. */
export type ToolUse = {
  readonly tools: readonly ChatTool[];
  /** The answer must call a tool, this one or one that it chooses; it begins with the call. */
  readonly forced?: { readonly tool?: string };
  /** The answer ends with its first call. */
  readonly single?: true;
  /** Tools whose arguments must match all of their schemas. */
  readonly strict?: ReadonlySet<string>;
};

/**
 * Puts tools and choice together; throws 400 for what this model's chat format cannot do. `parallel`: whether several
 * calls may follow one another.
 */
export function toolUse(
  { tools, ignored, strict, grouped }: OfferedTools,
  choice: ToolChoice | undefined,
  model: ServedModel,
  parallel: boolean | null | undefined = true,
): ToolUse {
  if (choice?.kind === "none") return { tools: [] };
  if (choice?.kind !== "named" && choice?.only) {
    const { kind, only } = choice;
    if (!only.every((name) => tools.some((tool) => tool.name === name)))
      throw badField("tool_choice", "names of tools in tools", "another name");
    const left = tools.filter(({ name }) => only.includes(name));
    return toolUse({ tools: left, ignored, strict, grouped }, { kind }, model, parallel);
  }
  const { chat } = model;
  if (tools.length === 0) {
    const harmless = choice === undefined || choice.kind === "auto";
    if (harmless) return { tools: [] };
    // What was asked to be called is among the tools that are not served.
    const got = ignored.length > 0 ? "only types that are not served" : "none";
    throw badField("tool_choice", "tools that can be called", got);
  }
  if (!chat.capabilities.tools) {
    const fix = 'Leave tools out, or set tool_choice to "none".';
    throw unsupportedField("tools", "tool calling", `This model's chat format has none. ${fix}`);
  }
  const use: ToolUse = { tools, strict, ...(parallel === false ? { single: true } : {}) };
  if (choice === undefined || choice.kind === "auto") return use;
  const tool = choice.kind === "named" ? choice.name : tools.length === 1 ? tools[0]!.name : undefined;
  if (tool !== undefined && !tools.some((offered) => offered.name === tool)) {
    throw badField("tool_choice", "the name of a tool in tools", "another name");
  }
  if (!chat.opening) {
    throw unsupportedField("tool_choice", "a forced call", "This model's chat format has none; use auto.");
  }
  return { ...use, forced: tool === undefined ? {} : { tool } };
}
