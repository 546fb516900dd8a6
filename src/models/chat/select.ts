import { type PsionicError, unexpected } from "../../core/error.ts";
import { gemma4Format } from "./gemma4.ts";
import { harmonyFormat } from "./harmony.ts";
import { gemma4Media, qwen35Media } from "./media.ts";
import { promptWriter, textOf } from "./pieces.ts";
import { qwen35Format } from "./qwen35.ts";
import { templateFormat } from "./template.ts";
import { plainParser } from "./think_parser.ts";
import {
  isRegular,
  type SimpleConversation,
  simpleConversation,
  type TurnStyle,
  turnStyles,
} from "./turns.ts";
import type { ChatFormat, ChatMessage, ChatOptions, ChatTokenizer, PromptPiece } from "./types.ts";

/** What a model file says that its chat format depends on. */
export type ChatModel = {
  readonly architecture: string;
  readonly template: string | undefined;
  readonly tokenizer: ChatTokenizer;
  /** A hyper-parameter of the file; absent: nothing is known of the model's size. */
  readonly setting?: (key: string) => unknown;
  /** Names that tell a model's size: its own and its file's. */
  readonly names?: readonly string[];
};

/**
 * The chat format of a model: Harmony for GPT-OSS; for Qwen 3.5 and Gemma 4 the file's template or our own renderer,
 * with a parser of theirs; else what the file's template writes, else the style whose marks the vocabulary has. Throws
 * `unsupported` where there is none, `file_malformed` where the template is broken.
 */
export function chatFormatFor(model: ChatModel): ChatFormat {
  const { architecture, tokenizer } = model;
  const template = model.template?.trim() === "" ? undefined : model.template;
  const own = template === undefined ? {} : { template };
  if (/^gpt[-_]?oss$/.test(architecture)) return harmonyFormat(tokenizer);
  if (architecture.startsWith("gemma4")) {
    const format = gemma4Format(tokenizer, { ...own, emptyThought: !isSmallGemma(model) });
    return { ...format, media: gemma4Media(model) };
  }
  if (/^qwen3_?5/.test(architecture)) {
    const format = qwen35Format(tokenizer, { ...own, thinks: !isSmallQwen(model) });
    return { ...format, media: qwen35Media(model) };
  }
  if (template !== undefined) return formatOf(template, tokenizer);
  const style = turnStyles.find(({ sign }) => tokenizer.idOf(sign) !== undefined);
  if (style !== undefined) return styleFormat(style, tokenizer);
  const expected = "a chat template in the model file, or turn marks in its vocabulary";
  throw unexpected("unsupported", "chat", expected, "neither", {
    fix: "Use /v1/completions with a prompt of your own",
  });
}

/** E2B and E4B, the models with an embedding for each layer. */
function isSmallGemma({ setting }: ChatModel): boolean {
  const width =
    setting?.("gemma4.embedding_length_per_layer_input") ?? setting?.("hidden_size_per_layer_input");
  return typeof width === "number" && width > 0;
}

/** 0.8B and 2B, which were trained to answer without thinking unless asked to. */
function isSmallQwen({ architecture, setting }: ChatModel): boolean {
  const width = setting?.(`${architecture}.embedding_length`) ?? setting?.("hidden_size");
  return !architecture.includes("moe") && typeof width === "number" && width <= 2048;
}

/** The file's template, behind our own renderer for what that is known to write in the same way. */
function formatOf(source: string, tokenizer: ChatTokenizer): ChatFormat {
  const template = templateFormat(source, tokenizer);
  const style = turnStyles.find(
    (candidate) =>
      tokenizer.idOf(candidate.sign) !== undefined &&
      PROBES.every((probe) => agrees(candidate, template, probe)),
  );
  if (style === undefined) return template;
  const readsEffort = template.reads("reasoning_effort");
  const { names } = template.capabilities;
  const render = (messages: readonly ChatMessage[], options: ChatOptions = {}): PromptPiece[] => {
    const named = names && messages.some(({ name }) => name !== undefined);
    const known = isRegular(messages) && !named && !hasVariables(options, readsEffort);
    const conversation = known ? simpleConversation(messages) : undefined;
    return conversation === undefined ? template.render(messages, options) : style.render(conversation);
  };
  return {
    ...template,
    name: style.name,
    render,
    ...promptWriter(tokenizer, render, () => style.marks),
  };
}

function hasVariables(
  { templateArguments, reasoningEffort, tools }: ChatOptions,
  readsEffort: boolean,
): boolean {
  const effort = readsEffort && reasoningEffort !== undefined;
  return effort || Object.keys(templateArguments ?? {}).length > 0 || (tools?.length ?? 0) > 0;
}

/** Conversations on which a style and a template must agree to the letter; odd white space and think blocks tell. */
const PROBES: readonly SimpleConversation[] = [
  { system: "", turns: [{ role: "user", content: " a\n" }] },
  { system: " S.\n", turns: [{ role: "user", content: "b" }] },
  {
    system: "",
    turns: [
      { role: "user", content: "a" },
      { role: "assistant", content: " b \n" },
      { role: "user", content: "c\n\nd" },
    ],
  },
  {
    system: "S",
    turns: [
      { role: "user", content: "a" },
      { role: "assistant", content: "<think>\nq\n</think>\n\nz" },
      { role: "user", content: "<think>b</think>" },
      { role: "assistant", content: "c" },
      { role: "user", content: "d" },
    ],
  },
];

function agrees(style: TurnStyle, template: ChatFormat, { system, turns }: SimpleConversation): boolean {
  const head: ChatMessage[] = system === "" ? [] : [{ role: "system", content: system }];
  try {
    return textOf(template.render([...head, ...turns])) === textOf(style.render({ system, turns }));
  } catch {
    // A template that refuses what the style writes is another format.
    return false;
  }
}

/** A style on its own, for a file without a template. */
function styleFormat(style: TurnStyle, tokenizer: ChatTokenizer): ChatFormat {
  const split = tokenizer.idOf("</think>") !== undefined;
  const thinks = split && style.sign === "<|im_start|>";
  const stop = tokenizer.idOf(style.marks[0]!);
  const render = (messages: readonly ChatMessage[], options: ChatOptions = {}): PromptPiece[] => {
    if ((options.tools?.length ?? 0) > 0) throw refusal(style, "tools", "a request without tools");
    const conversation = simpleConversation(messages);
    if (conversation === undefined) {
      throw refusal(
        style,
        "messages",
        "system, user and assistant messages, one of a user or assistant among them",
      );
    }
    const pieces = style.render(conversation);
    if (!thinks || options.templateArguments?.enable_thinking !== false) return pieces;
    return [...pieces, { text: "<think>\n\n</think>\n\n", special: true }];
  };
  return {
    name: style.name,
    capabilities: { reasoning: split, tools: false, names: false },
    reads: (variable) => thinks && variable === "enable_thinking",
    stopTokens: stop === undefined ? [] : [stop],
    reasoningEnds: split ? ["\n</think>\n\n"] : [],
    render,
    ...promptWriter(tokenizer, render, () => style.marks),
    parser: () => plainParser(tokenizer, { split }),
  };
}

function refusal(style: TurnStyle, param: string, expected: string): PsionicError {
  const fix =
    "The model file has no chat template that says more; use /v1/completions with a prompt of your own";
  return unexpected("invalid_request", `chat format ${style.name}`, expected, "something else", {
    fix,
    details: { param },
  });
}
