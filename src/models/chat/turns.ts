import { marked, plain } from "./pieces.ts";
import type { ChatMessage, PromptPiece } from "./types.ts";

/** A conversation that these formats write: an optional system text, then turns of the user and the assistant. */
export type SimpleConversation = {
  readonly system: string;
  readonly turns: readonly { readonly role: "user" | "assistant"; readonly content: string }[];
};

/** A format with one block for each turn. */
export type TurnStyle = {
  readonly name: string;
  /** A token of the vocabularies that know the style. */
  readonly sign: string;
  /** Control tokens of the style, the one that ends a turn first. */
  readonly marks: readonly string[];
  readonly render: (conversation: SimpleConversation) => PromptPiece[];
};

/** ChatML: Qwen 2 and 3 and many fine-tunes. */
export function chatMl(options: { name: string; defaultSystem?: string; dropThoughts?: true }): TurnStyle {
  const block = (role: string, text: string): PromptPiece[] => [
    marked(`<|im_start|>${role}\n`),
    plain(text),
    marked("<|im_end|>\n"),
  ];
  return {
    name: options.name,
    sign: "<|im_start|>",
    marks: ["<|im_end|>", "<|im_start|>", "<think>", "</think>"],
    render: ({ system, turns }) => {
      const instructions = system === "" ? (options.defaultSystem ?? "") : system;
      const said = (text: string): string => (options.dropThoughts ? withoutThoughts(text) : text);
      return [
        ...(instructions === "" ? [] : block("system", instructions)),
        ...turns.flatMap(({ role, content }) => block(role, role === "assistant" ? said(content) : content)),
        marked("<|im_start|>assistant\n"),
      ];
    },
  };
}

/** What Qwen 3 keeps of an earlier answer: the text behind its think block. */
function withoutThoughts(text: string): string {
  const end = text.lastIndexOf("</think>");
  return end < 0 ? text : text.slice(end + "</think>".length).replace(/^\n+/, "");
}

const llama3: TurnStyle = {
  name: "llama3",
  sign: "<|start_header_id|>",
  marks: ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>"],
  render: ({ system, turns }) => {
    const head = (role: string): PromptPiece => marked(`<|start_header_id|>${role}<|end_header_id|>\n\n`);
    const all = [...(system === "" ? [] : [{ role: "system", content: system }]), ...turns];
    return [
      marked("<|begin_of_text|>"),
      ...all.flatMap(({ role, content }) => [head(role), plain(content.trim()), marked("<|eot_id|>")]),
      head("assistant"),
    ];
  },
};

const gemma3: TurnStyle = {
  name: "gemma3",
  sign: "<start_of_turn>",
  marks: ["<end_of_turn>", "<start_of_turn>", "<bos>"],
  render: ({ system, turns }) => {
    // There is no system turn; its text leads the first turn of the user.
    const homeless = system !== "" && turns[0]?.role === "assistant";
    const all = homeless ? [{ role: "user", content: "" }, ...turns] : turns;
    return [
      marked("<bos>"),
      ...all.flatMap(({ role, content }, i) => [
        marked(`<start_of_turn>${role === "assistant" ? "model" : "user"}\n`),
        plain(i === 0 && system !== "" ? `${system}\n\n${content.trim()}` : content.trim()),
        marked("<end_of_turn>\n"),
      ]),
      marked("<start_of_turn>model\n"),
    ];
  },
};

/** Styles that a file's template is compared with; the first of a sign is the one for files without a template. */
export const turnStyles: readonly TurnStyle[] = [
  chatMl({ name: "chatml" }),
  chatMl({ name: "qwen3", dropThoughts: true }),
  chatMl({ name: "qwen2", defaultSystem: "You are a helpful assistant" }),
  chatMl({ name: "qwen2", defaultSystem: "You are a helpful assistant." }),
  llama3,
  gemma3,
];

/**
 * The conversation in the form the styles write, with all system texts, in order, before the first turn. Undefined
 * where it has tool messages or calls, or no turn.
 */
export function simpleConversation(messages: readonly ChatMessage[]): SimpleConversation | undefined {
  const system: string[] = [];
  const turns: { role: "user" | "assistant"; content: string }[] = [];
  for (const { role, content, toolCalls = [] } of messages) {
    if (role === "tool" || toolCalls.length > 0) return undefined;
    if (role === "system" || role === "developer") system.push(content);
    else turns.push({ role, content });
  }
  return turns.length === 0 ? undefined : { system: system.join("\n\n"), turns };
}

/** Whether system text comes only first, and user and assistant take turns from user to user. */
export function isRegular(messages: readonly ChatMessage[]): boolean {
  const first = messages[0]?.role;
  const turns = first === "system" || first === "developer" ? messages.slice(1) : messages;
  return (
    turns.length % 2 === 1 && turns.every(({ role }, i) => role === (i % 2 === 0 ? "user" : "assistant"))
  );
}
