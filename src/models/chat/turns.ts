/** Formats that write one block per turn: ChatML, Llama 3, Gemma 3. Used where a file has no template of its own. */
import type { Tokenizer } from "../tokenizer/index.ts";
import { Markup } from "./markup.ts";
import { ThinkParser } from "./think_parser.ts";
import type { ChatFormat, ChatMessage } from "./types.ts";

type TurnStyle = {
  readonly name: string;
  /** A token whose presence in the vocabulary says that the model knows the style. */
  readonly sign: string;
  readonly stop: string;
  render(messages: readonly ChatMessage[]): string;
};

const chatMl: TurnStyle = {
  name: "chatml",
  sign: "<|im_start|>",
  stop: "<|im_end|>",
  render: (messages) =>
    `${messages.map((m) => `<|im_start|>${role(m)}\n${m.content}<|im_end|>\n`).join("")}<|im_start|>assistant\n`,
};

const llama3: TurnStyle = {
  name: "llama3",
  sign: "<|start_header_id|>",
  stop: "<|eot_id|>",
  render(messages) {
    const turn = (name: string, text: string): string =>
      `<|start_header_id|>${name}<|end_header_id|>\n\n${text}`;
    return (
      messages.map((m) => `${turn(role(m), m.content.trim())}<|eot_id|>`).join("") + turn("assistant", "")
    );
  },
};

const gemma3: TurnStyle = {
  name: "gemma3",
  sign: "<start_of_turn>",
  stop: "<end_of_turn>",
  render(messages) {
    const system = messages.filter((m) => role(m) === "system").map((m) => m.content);
    const turns = messages.filter((m) => role(m) !== "system");
    const blocks = turns.map((m, i) => {
      const text =
        i === 0 && system.length > 0 ? `${system.join("\n\n")}\n\n${m.content.trim()}` : m.content.trim();
      return `<start_of_turn>${m.role === "assistant" ? "model" : "user"}\n${text}<end_of_turn>\n`;
    });
    return `${blocks.join("")}<start_of_turn>model\n`;
  },
};

const styles: readonly TurnStyle[] = [chatMl, llama3, gemma3];

/** The style whose marker the vocabulary has. */
export function turnFormat(tokenizer: Tokenizer): ChatFormat | undefined {
  const style = styles.find((s) => isControlText(tokenizer, s.sign));
  if (!style) return undefined;
  const markup = new Markup(tokenizer);
  const stop = tokenizer.idOf(style.stop);
  return {
    name: style.name,
    capabilities: { reasoning: tokenizer.idOf("<think>") !== undefined, tools: false },
    stopTokens: stop === undefined ? [] : [stop],
    render: () => [],
    prompt: (messages) =>
      markup.encode(style.render(messages.map((m) => ({ ...m, content: markup.plain(m.content) })))),
    parser: () => new ThinkParser(tokenizer, false),
  };
}

function role(m: ChatMessage): string {
  return m.role === "developer" ? "system" : m.role;
}

function isControlText(tokenizer: Tokenizer, text: string): boolean {
  const id = tokenizer.idOf(text);
  return id !== undefined && tokenizer.isControl(id);
}
