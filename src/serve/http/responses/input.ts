import * as v from "valibot";
import type { ChatFormat, ChatMessage } from "../../../models/chat/index.ts";
import { describe, printable, validateAt } from "../body.ts";
import { badField } from "../errors.ts";
import { readContent, readText } from "../messages.ts";
import type { RequestLimits } from "../options.ts";
import { openReasoning } from "../reasoning_seal.ts";
import { maybe, oneOf, text } from "../schema.ts";
import { groupedName } from "../tools.ts";
import { Turns } from "../turns.ts";

/** An item of a request or an answer, as `input_items` lists it. */
export type Item = Readonly<Record<string, unknown>>;

/** What a request's `input` says. */
export type ResponseInput = {
  readonly messages: readonly ChatMessage[];
  readonly items: readonly Item[];
  /** Kinds of items that nobody here can read, as `input.web_search_call`. */
  readonly ignored: readonly string[];
};

export type InputFacts = {
  readonly limits: RequestLimits;
  /** Knows what becomes of media; without it they are refused. */
  readonly chat?: ChatFormat;
  /** The conversation so far. */
  readonly history: readonly ChatMessage[];
  /** The item with this id in an answer or request that is kept. */
  readonly findItem: (id: string) => Item | undefined;
  /** Id for the item at this place. */
  readonly itemId: (index: number) => string;
};

const messageItem = v.object(
  { role: oneOf("system", "developer", "user", "assistant"), content: v.optional(v.unknown()) },
  "an object",
);
const callId = v.pipe(text, v.minLength(1, "a call id"));
const callItem = v.object(
  {
    call_id: callId,
    name: v.pipe(text, v.minLength(1, "a name")),
    namespace: maybe(text),
    arguments: maybe(text),
    input: maybe(text),
  },
  "an object",
);
const outputItem = v.object({ call_id: callId, output: v.optional(v.unknown()) }, "an object");
const texts = maybe(v.array(v.object({ text: maybe(text) }, "an object"), "an array of texts"));
const reasoningItem = v.object({ content: texts, encrypted_content: maybe(text) }, "an object");

const inputForms = "a string or an array of items";

/** Reads `input`: messages, calls with their outputs, reasoning; consecutive parts of an answer become one message. */
export function readInput(input: unknown, facts: InputFacts): ResponseInput {
  const list: unknown = typeof input === "string" ? [{ role: "user", content: input }] : input;
  if (!Array.isArray(list)) throw badField("input", inputForms, describe(input));
  const { messages: most } = facts.limits;
  if (list.length + facts.history.length > most) {
    const got = `${list.length} after ${facts.history.length} messages of earlier turns`;
    throw badField("input", `at most ${most} items in a conversation`, got);
  }
  const turns = new Turns(facts.history);
  const ignored = new Set<string>();
  const items = list.map((sent: unknown, i): Item => {
    const param = typeof input === "string" ? "input" : `input[${i}]`;
    if (typeof sent !== "object" || sent === null || Array.isArray(sent)) {
      throw badField(param, "an item", describe(sent));
    }
    const item = resolve(sent as Item, param, facts);
    const unread = readItem(item, param, turns, facts);
    if (unread !== undefined) ignored.add(`input.${printable(unread)}`);
    return { ...listed(item), id: typeof item.id === "string" ? item.id : facts.itemId(i) };
  });
  return { messages: turns.messages(), items, ignored: [...ignored] };
}

/** An item as lists have it: with its type, a message's text as a part. */
function listed(item: Item): Item {
  const type = item.type ?? "message";
  if (type !== "message" || typeof item.content !== "string") return { ...item, type };
  const kind = item.role === "assistant" ? "output_text" : "input_text";
  return { ...item, type, content: [{ type: kind, text: item.content }] };
}

/** An item, or the one that a reference names. */
function resolve(item: Item, param: string, { findItem }: InputFacts): Item {
  const bare = item.type === undefined || item.type === null;
  const reference =
    item.type === "item_reference" || (bare && item.role === undefined && item.id !== undefined);
  if (!reference) return item;
  const found = typeof item.id === "string" ? findItem(item.id) : undefined;
  if (found !== undefined) return found;
  const fix = "Send the item itself; only answers that are stored can be referred to";
  throw badField(`${param}.id`, "the id of an item that is kept here", describe(item.id), fix);
}

/** Adds an item to the conversation; gives its type back when nobody here can read it. */
function readItem(item: Item, param: string, turns: Turns, { limits, chat }: InputFacts): string | undefined {
  const { type = "message" } = item;
  switch (type) {
    case null:
    case "message": {
      const { role, content } = validateAt(messageItem, item, param);
      const said = readContent(content, `${param}.content`, limits, { role, ...(chat ? { chat } : {}) });
      turns.say(role, said.content, said.parts);
      return undefined;
    }
    case "function_call":
    case "custom_tool_call": {
      const { call_id: id, name: own, namespace, arguments: args, input } = validateAt(callItem, item, param);
      const name = namespace ? groupedName({ namespace, name: own }) : own;
      const written = type === "function_call" ? (args ?? "{}") : JSON.stringify({ input: input ?? "" });
      turns.call({ id, name, arguments: written });
      return undefined;
    }
    case "function_call_output":
    case "custom_tool_call_output": {
      const { call_id: id, output } = validateAt(outputItem, item, param);
      const reader = { role: "tool", ...(chat ? { chat } : {}) };
      turns.result(id, readText(output, `${param}.output`, limits, reader), `${param}.call_id`);
      return undefined;
    }
    case "reasoning": {
      const { content, encrypted_content: sealed } = validateAt(reasoningItem, item, param);
      const plain = content?.map((part) => part.text ?? "").join("");
      const reasoning = plain || openReasoning(sealed ?? "");
      if (reasoning) turns.reason(reasoning);
      return reasoning === undefined && sealed ? "reasoning.encrypted_content" : undefined;
    }
    default:
      if (typeof type !== "string") throw badField(`${param}.type`, "a type", describe(type));
      return type;
  }
}
