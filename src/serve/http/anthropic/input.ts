import * as v from "valibot";
import type { ChatFormat, ChatMessage, ContentPart } from "../../../models/chat/index.ts";
import { describe, printable, validateAt } from "../body.ts";
import { badField } from "../errors.ts";
import { readMedia } from "../media.ts";
import { joinParts } from "../messages.ts";
import type { RequestLimits } from "../options.ts";
import { openReasoning } from "../reasoning_seal.ts";
import { maybe, text } from "../schema.ts";
import { Turns } from "../turns.ts";
import type { AnthropicFields } from "./request.ts";

export type AnthropicInput = {
  readonly messages: readonly ChatMessage[];
  /** Kinds of blocks that nobody here can read, and members nobody acts upon. */
  readonly ignored: readonly string[];
};

const textBlock = v.object({ text }, "a text block");
const thinkingBlock = v.object({ thinking: text, signature: maybe(text) }, "a thinking block");
const useBlock = v.object(
  {
    id: v.pipe(text, v.minLength(1, "an id")),
    name: v.pipe(text, v.minLength(1, "a name")),
    input: v.optional(v.unknown()),
  },
  "a tool_use block",
);
const resultBlock = v.object(
  { tool_use_id: v.pipe(text, v.minLength(1, "an id")), content: v.optional(v.unknown()) },
  "a tool_result block",
);

type Block = Readonly<Record<string, unknown>> & { readonly type: string };

/** Reads system text and messages; a user message may be results of tools, text, or both in any order. */
export function readAnthropic(
  body: AnthropicFields,
  limits: RequestLimits,
  chat: ChatFormat,
): AnthropicInput {
  const ignored = new Set<string>();
  const turns = new Turns();
  const reading: Reading = { turns, limits, ignored, chat };
  const system = textOf(body.system ?? "", "system", "system", reading);
  if (system !== "") turns.say("system", system);
  body.messages.forEach(({ role, content }, i) => {
    const param = `messages[${i}].content`;
    if (typeof content === "string") turns.say(role, content);
    else readBlocks(blocksOf(content, param, limits), role, param, reading);
  });
  return { messages: turns.messages(), ignored: [...ignored] };
}

type Reading = {
  readonly turns: Turns;
  readonly limits: RequestLimits;
  readonly ignored: Set<string>;
  readonly chat: ChatFormat;
};

function readBlocks(
  blocks: readonly Block[],
  role: "user" | "assistant" | "system",
  param: string,
  reading: Reading,
): void {
  const { turns, ignored, chat } = reading;
  let said: ContentPart[] = [];
  const flush = (): void => {
    const { content, parts } = joinParts(said);
    if (content !== "" || parts !== undefined) turns.say(role, content, parts);
    said = [];
  };
  blocks.forEach((block, i) => {
    const at = `${param}[${i}]`;
    if (block.cache_control) ignored.add("messages.content.cache_control");
    if (block.type === "text") {
      said.push({ type: "text", text: validateAt(textBlock, block, at).text });
      return;
    }
    if (block.type === "image" || block.type === "document") {
      said.push(readMedia(block.type, at, chat, role));
      return;
    }
    flush();
    switch (block.type) {
      case "thinking": {
        const { thinking, signature } = validateAt(thinkingBlock, block, at);
        turns.reason(thinking || openReasoning(signature ?? "") || "");
        break;
      }
      case "tool_use": {
        const { id, name, input } = validateAt(useBlock, block, at);
        if (role !== "assistant")
          throw badField(`${at}.type`, "tool_use in an assistant message only", "another role");
        turns.call({ id, name, arguments: JSON.stringify(input ?? {}) });
        break;
      }
      case "tool_result": {
        const { tool_use_id: id, content } = validateAt(resultBlock, block, at);
        if (role !== "user")
          throw badField(`${at}.type`, "tool_result in a user message only", "another role");
        if (block.is_error) ignored.add("messages.content.is_error");
        const result = textOf(content ?? "", `${at}.content`, "tool", reading);
        turns.result(id, result, `${at}.tool_use_id`);
        break;
      }
      default:
        // what a tool of Anthropic's own servers wrote into the history
        ignored.add(`messages.content.${printable(block.type)}`);
    }
  });
  flush();
}

function blocksOf(content: unknown, param: string, limits: RequestLimits): Block[] {
  if (!Array.isArray(content)) throw badField(param, "a string or an array of blocks", describe(content));
  if (content.length > limits.partsPerMessage) {
    throw badField(param, `at most ${limits.partsPerMessage} blocks`, String(content.length));
  }
  return content.map((block: unknown, i) => {
    const type: unknown =
      typeof block === "object" && block !== null ? (block as { type?: unknown }).type : undefined;
    if (typeof type === "string") return block as Block;
    throw badField(`${param}[${i}].type`, "the type of a block", describe(type));
  });
}

/** Text, or text blocks put together. */
function textOf(
  content: unknown,
  param: string,
  role: "system" | "tool",
  { limits, ignored, chat }: Reading,
): string {
  if (typeof content === "string") return content;
  return blocksOf(content, param, limits)
    .map((block, i) => {
      if (block.cache_control) ignored.add(`${param.replace(/\[.*$/, "")}.cache_control`);
      if (block.type === "text") return validateAt(textBlock, block, `${param}[${i}]`).text;
      // media outside of what a user says are refused, whatever the lane
      if (block.type === "image" || block.type === "document")
        readMedia(block.type, `${param}[${i}]`, chat, role);
      if (role === "system") throw badField(`${param}[${i}].type`, "text", "another type");
      // what a tool of Anthropic's own servers found, or a pointer to one
      ignored.add(`messages.content.content.${printable(block.type)}`);
      return "";
    })
    .join("");
}
