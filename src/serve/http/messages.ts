import * as v from "valibot";
import type { ChatFormat, ChatMessage, ContentPart } from "../../models/chat/index.ts";
import { describe } from "./body.ts";
import { badField, unsupportedField } from "./errors.ts";
import { isMedia, mediaRefusal, readMedia } from "./media.ts";
import type { RequestLimits } from "./options.ts";
import { maybe, oneOf, text } from "./schema.ts";

const toolCall = v.object(
  {
    id: maybe(text),
    type: maybe(oneOf("function")),
    function: v.object({ name: v.pipe(text, v.minLength(1, "a name")), arguments: maybe(text) }, "an object"),
  },
  "an object",
);

/** Messages as clients send them; `content` is checked in `readMessages`, which can name its parts. */
export function messagesSchema(limits: RequestLimits) {
  const message = v.object(
    {
      role: oneOf("system", "developer", "user", "assistant", "tool"),
      content: v.optional(v.unknown()),
      name: maybe(text),
      reasoning_content: maybe(text),
      reasoning: maybe(text),
      refusal: maybe(text),
      tool_calls: maybe(
        v.pipe(v.array(toolCall, "an array of tool calls"), v.maxLength(128, "at most 128 tool calls")),
      ),
      tool_call_id: maybe(text),
      function_call: v.optional(v.unknown()),
      audio: v.optional(v.unknown()),
    },
    "an object with role and content",
  );
  return v.pipe(
    v.array(message, "an array of messages"),
    v.minLength(1, "at least one message"),
    v.maxLength(limits.messages, `at most ${limits.messages} messages`),
  );
}

type WireMessage = v.InferOutput<ReturnType<typeof messagesSchema>>[number];

/** Messages for the chat format: text only, tool results with the names of the tools that gave them. */
export function readMessages(
  messages: readonly WireMessage[],
  limits: RequestLimits,
  chat?: ChatFormat,
): ChatMessage[] {
  const toolNames = new Map<string, string>();
  return messages.map((message, i) => {
    const param = `messages[${i}]`;
    refuseLegacy(message, param);
    const said = contentOf(message, `${param}.content`, limits, chat);
    const { content } = said;
    const { role } = message;
    if (role === "assistant") {
      for (const call of message.tool_calls ?? []) if (call.id) toolNames.set(call.id, call.function.name);
      return assistantMessage(message, content);
    }
    if (role === "tool") return toolMessage(message, content, param, toolNames);
    return { role, ...said, ...(message.name ? { name: message.name } : {}) };
  });
}

const members: Readonly<Record<WireMessage["role"], readonly string[]>> = {
  system: ["role", "content"],
  developer: ["role", "content"],
  user: ["role", "content"],
  assistant: [
    ...["role", "content", "refusal", "reasoning_content", "reasoning", "tool_calls"],
    // refused where they say something
    ...["function_call", "audio"],
  ],
  tool: ["role", "content", "name", "tool_call_id"],
};

/**
 * Members of checked messages and of their parts that nothing here reads, as `messages.weight`: each name once. `names`:
 * whether the chat format writes who said something.
 */
export function unusedMembers(messages: readonly object[], names: boolean): string[] {
  const unused = new Set<string>();
  for (const message of messages as readonly WireMessage[]) {
    const known = members[message.role];
    for (const [name, value] of Object.entries(message)) {
      if (value === null || known.includes(name) || (names && name === "name")) continue;
      unused.add(`messages.${name}`);
    }
    if (!Array.isArray(message.content)) continue;
    for (const part of message.content as readonly object[]) {
      for (const name of Object.keys(part)) {
        const known = name === "type" || name === "text" || name === "refusal";
        if (!known && !(name === "thinking" && thoughtOf(part) !== undefined))
          unused.add(`messages.content.${name}`);
      }
    }
  }
  return [...unused];
}

function assistantMessage(message: WireMessage, content: string): ChatMessage {
  const reasoning = message.reasoning_content ?? message.reasoning ?? thoughtsOf(message.content);
  const calls = message.tool_calls ?? [];
  return {
    role: "assistant",
    content,
    ...(message.name ? { name: message.name } : {}),
    ...(reasoning ? { reasoning } : {}),
    ...(calls.length === 0
      ? {}
      : {
          toolCalls: calls.map(({ id, function: { name, arguments: args } }) => ({
            ...(id ? { id } : {}),
            name,
            arguments: args ?? "{}",
          })),
        }),
  };
}

/** Text of a part that has reasoning, as clients of several APIs keep it; undefined for other parts. */
function thoughtOf(part: unknown): string | undefined {
  if (typeof part !== "object" || part === null || !("type" in part)) return undefined;
  if (part.type === "thinking" && "thinking" in part && typeof part.thinking === "string")
    return part.thinking;
  if (part.type === "reasoning" && "text" in part && typeof part.text === "string") return part.text;
  return undefined;
}

function thoughtsOf(content: unknown): string | undefined {
  return Array.isArray(content) ? content.map((part) => thoughtOf(part) ?? "").join("") : undefined;
}

/** Parts of a history that would be lost without a word. */
function refuseLegacy(message: WireMessage, param: string): void {
  if (message.function_call !== undefined && message.function_call !== null) {
    throw unsupportedField(`${param}.function_call`, "the old form of function calls", "Use tool_calls.");
  }
  if (message.audio !== undefined && message.audio !== null) {
    throw unsupportedField(`${param}.audio`, "audio", "This model reads text only.");
  }
}

function toolMessage(
  message: WireMessage,
  content: string,
  param: string,
  toolNames: ReadonlyMap<string, string>,
): ChatMessage {
  const id = message.tool_call_id ?? undefined;
  const name = message.name ?? (id === undefined ? undefined : toolNames.get(id));
  if (!name) {
    const expected = "a name, or the tool_call_id of a call in an earlier assistant message";
    throw badField(id === undefined ? `${param}.tool_call_id` : `${param}.name`, expected, "neither");
  }
  return { role: "tool", content, name, ...(id === undefined ? {} : { toolCallId: id }) };
}

/** Content as `readContent` takes it; `null` only where an assistant said nothing. */
function contentOf(message: WireMessage, param: string, limits: RequestLimits, chat?: ChatFormat): Content {
  const { content, role } = message;
  if ((content === null || content === undefined) && role === "assistant") {
    return { content: message.refusal ?? "" };
  }
  return readContent(content, param, limits, {
    role,
    ...(chat ? { chat } : {}),
    thoughts: role === "assistant",
  });
}

/** Text, and where there are media all parts in order. */
export type Content = { readonly content: string; readonly parts?: readonly ContentPart[] };

/** Who says it, and the format that knows what becomes of media; without it there are none. */
type PartReader = {
  readonly role: string;
  readonly chat?: ChatFormat;
  /** Parts with reasoning may stand there; they are no content. */
  readonly thoughts?: boolean;
};

/** Text, or text parts put together without a separator; `param` is where they stand in the body. Media are refused. */
export function readText(
  content: unknown,
  param: string,
  limits: RequestLimits,
  reader: PartReader = { role: "tool" },
): string {
  return readContent(content, param, limits, reader).content;
}

/** The same, with the media that the reader's format has a place for. */
export function readContent(
  content: unknown,
  param: string,
  limits: RequestLimits,
  reader: PartReader,
): Content {
  if (typeof content === "string") return { content };
  if (!Array.isArray(content)) {
    throw badField(param, "a string or an array of parts", describe(content));
  }
  if (content.length > limits.partsPerMessage) {
    throw badField(param, `at most ${limits.partsPerMessage} parts`, String(content.length));
  }
  return joinParts(content.map((part, i) => readPart(part, `${param}[${i}]`, reader)));
}

/** Parts as content. */
export function joinParts(parts: readonly ContentPart[]): Content {
  const content = parts.map((part) => (part.type === "text" ? part.text : "")).join("");
  return parts.every(({ type }) => type === "text") ? { content } : { content, parts };
}

function readPart(part: unknown, param: string, reader: PartReader): ContentPart {
  if (typeof part !== "object" || part === null) throw badField(param, "a part with a type", describe(part));
  const { type, text: partText, refusal } = part as { type?: unknown; text?: unknown; refusal?: unknown };
  if (type === "text" || type === "input_text" || type === "output_text") {
    if (typeof partText === "string") return { type: "text", text: partText };
    throw badField(`${param}.text`, "a string", describe(partText));
  }
  if (reader.thoughts && thoughtOf(part) !== undefined) return { type: "text", text: "" };
  if (type === "refusal" && typeof refusal === "string") return { type: "text", text: refusal };
  if (!isMedia(type)) throw badField(`${param}.type`, "text", describe(type));
  if (reader.chat === undefined) throw mediaRefusal(String(type), param);
  return readMedia(type, param, reader.chat, reader.role);
}
