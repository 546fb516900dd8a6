import { textOf } from "./pieces.ts";
import type { ChatTemplate } from "./template.ts";
import type { ChatMessage, ChatOptions, ChatTool, PromptPiece } from "./types.ts";

type Render = (messages: readonly ChatMessage[], options: ChatOptions) => readonly PromptPiece[];

/** Template variables that our renderers of families know. */
const VARIABLES: readonly string[] = ["enable_thinking", "preserve_thinking"];

/** Whether a template writes the probe conversations to the letter as `own` does, so that `own` may serve in its place. */
export function agreesWith(template: ChatTemplate, own: Render): boolean {
  if (template.names || template.reads("reasoning_effort")) return false;
  return TALKS.every((messages, i) =>
    OPTIONS.slice(0, i < 2 ? undefined : 2).every((options) => {
      try {
        return textOf(template.render(messages, options)) === textOf(own(messages, options));
      } catch {
        // one that refuses what the other writes is another format
        return false;
      }
    }),
  );
}

/** Whether a conversation is of the kind that the probes speak for. */
export function isProbed(messages: readonly ChatMessage[], { templateArguments = {} }: ChatOptions): boolean {
  const systemFirst = messages.every(
    ({ role }, i) => (role !== "system" && role !== "developer") || (i === 0 && role === "system"),
  );
  const plain = Object.entries(templateArguments).every(
    ([name, value]) => VARIABLES.includes(name) && typeof value === "boolean",
  );
  const tied = messages.every(({ role }, i) => role !== "tool" || followsCall(messages, i));
  return systemFirst && plain && tied && messages.some(({ role }) => role === "user");
}

/** Whether a tool message stands behind the calls of an answer. */
function followsCall(messages: readonly ChatMessage[], index: number): boolean {
  const before = messages[index - 1];
  if (before?.role === "tool") return true;
  return before?.role === "assistant" && (before.toolCalls?.length ?? 0) > 0;
}

const user = (content: string): ChatMessage => ({ role: "user", content });
const call = (id: string, args: unknown): { id: string; name: string; arguments: string } => ({
  id,
  name: "f",
  arguments: JSON.stringify(args),
});
const asks = (content: string, ids: readonly string[], reasoning?: string): ChatMessage => ({
  role: "assistant",
  content,
  ...(reasoning === undefined ? {} : { reasoning }),
  toolCalls: ids.map((id) =>
    call(id, { b: ["x", 1, { k: true }], a: "ö\n\"'", n: -1.5, t: true, z: null, o: {} }),
  ),
});
const gets = (id: string, content: string): ChatMessage => ({
  role: "tool",
  name: "f",
  toolCallId: id,
  content,
});
const says = (content: string, reasoning?: string): ChatMessage => ({
  role: "assistant",
  content,
  ...(reasoning === undefined ? {} : { reasoning }),
});

/** Odd white space, turns in a row, calls with and without text, results of all kinds, reasoning early and late. */
const TALKS: readonly (readonly ChatMessage[])[] = [
  [user(" a\n")],
  [{ role: "system", content: " S\n" }, user("a"), says(" b \n", "early"), user("c\n\nd")],
  [user("a"), asks("", ["1"], " late\n"), gets("1", '{"t": 20, "s": "x", "d": {"k": [null]}}')],
  [
    user("a"),
    asks("Look.", ["1", "2"]),
    gets("1", " sunny "),
    gets("2", "[1, 2]"),
    says("done", "r"),
    user("e"),
  ],
  [user("a"), asks("", ["1"], "one"), gets("1", "x"), asks("", ["2"], "two"), gets("2", "y")],
  [user("a"), asks("", ["1"]), gets("1", "x"), says("b"), says("c"), user("d")],
  [user("a"), asks("", ["1"]), gets("1", "x"), user("b")],
  [user("a"), asks("and text", ["1"]), gets("1", "x")],
];

const SCHEMA = {
  type: "object",
  properties: {
    s: { type: "string", description: "S <b> é", enum: ["x", "y"] },
    B: { type: ["integer", "null"], nullable: true },
    l: { type: "array", items: { type: "object", properties: { q: { type: "number" } }, required: ["q"] } },
    o: { type: "object", properties: { type: { type: "boolean", description: "t" } }, required: ["type"] },
    e: { type: "object" },
  },
  required: ["s", "B"],
};
const TOOLS: readonly ChatTool[] = [
  { name: "f", description: "Does f", parameters: SCHEMA },
  { name: "g", description: "Does g", parameters: { type: "object", properties: {} } },
];

/** The last two change the system turn and the end only, so the shortest conversations tell. */
const OPTIONS: readonly ChatOptions[] = [
  {},
  { tools: TOOLS, templateArguments: { enable_thinking: true } },
  { tools: TOOLS },
  { templateArguments: { enable_thinking: false } },
];
