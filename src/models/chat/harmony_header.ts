import { isBuiltIn, type ToolNames } from "./harmony_tools.ts";

/** A part of a header: the words behind a mark, or those at the header's beginning. */
export type HeaderPart = { readonly mark: "role" | "channel" | "constrain"; readonly text: string };

/** What the body of a message is to the client; `dropped` bodies are for nobody (a call to a tool we do not run). */
export type BodyKind =
  | { readonly kind: "content" | "reasoning"; readonly odd: boolean }
  | { readonly kind: "tool"; readonly name: string; readonly odd: false }
  | { readonly kind: "dropped"; readonly odd: boolean };

const CHANNELS = ["analysis", "commentary", "final"];
const CONTENT_TYPES = ["json", "code"];
const ROLES = ["assistant", "system", "developer", "user"];
/** Recipients that say nothing: the message is for the reader. */
const NOBODY = new Set(["assistant", "user", "all", "final", "analysis", "commentary"]);

/**
 * Reads a header. `hinted`: the role was given before, by `<|start|>assistant` at the end of the prompt, so a first
 * word that is no role is none. Parts may be missing, repeated (the last channel counts) and in any order.
 */
export function readHeader(parts: readonly HeaderPart[], hinted: boolean, names: ToolNames): BodyKind {
  let role: string | undefined;
  let channel: string | undefined;
  let recipient: string | undefined;
  for (const part of parts) {
    const words = wordsOf(part.text);
    if (part.mark === "channel" && words.length > 0) channel = takeChannel(words) ?? channel;
    if (part.mark === "role" && (!hinted || ROLES.includes(words[0] ?? ""))) role ??= takeRole(words);
    if (part.mark === "constrain") words.shift();
    for (let i = 0; i < words.length; i++) {
      const word = words[i]!;
      const named = word === "to=" ? words[++i] : word.startsWith("to=") ? word.slice(3) : bare(word, names);
      if (named !== undefined && !NOBODY.has(named)) recipient = named;
      // Without a channel mark the channel's name may still be there.
      else if (channel === undefined && CHANNELS.includes(word)) channel = word;
    }
  }
  if (role !== undefined && role !== "assistant") return { kind: "dropped", odd: true };
  if (recipient !== undefined) return callTo(recipient, names);
  if (channel === "analysis") return { kind: "reasoning", odd: false };
  return { kind: "content", odd: channel !== undefined && !CHANNELS.includes(channel) };
}

function wordsOf(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== "");
}

function takeChannel(words: string[]): string | undefined {
  // A recipient in the channel's place is none.
  return words[0]!.startsWith("to=") ? undefined : words.shift()!.split("<", 1)[0];
}

/** The author before `:name`; a first word that can only be a channel leaves the role out. */
function takeRole(words: string[]): string | undefined {
  const first = words[0];
  if (first === undefined || first.startsWith("to=") || CHANNELS.includes(first)) return undefined;
  words.shift();
  return first.split(":", 1)[0];
}

/** A recipient without `to=`. */
function bare(word: string, names: ToolNames): string | undefined {
  return word.startsWith("functions.") || isBuiltIn(word) || names.original(word) !== undefined
    ? word
    : undefined;
}

function callTo(recipient: string, names: ToolNames): BodyKind {
  const written = recipient.startsWith("functions.") ? recipient.slice("functions.".length) : recipient;
  const offered = names.original(written);
  if (offered !== undefined) return { kind: "tool", name: offered, odd: false };
  if (recipient !== written && written !== "") return { kind: "tool", name: written, odd: false };
  if (isBuiltIn(recipient) || recipient === "browser" || recipient.startsWith("container.")) {
    return { kind: "dropped", odd: true };
  }
  return { kind: "content", odd: true };
}

/** Longest header text that is waited for, UTF-16 units: behind a mark, and where no mark announced a header. */
const MAX_MARKED = 160;
const MAX_UNMARKED = 96;

/**
 * Whether text that stands where a header may can still be one. `announced`: a mark came before it, so unknown words
 * (tool authors, content types) are waited for; otherwise each word must be one of a header.
 */
export function couldBeHeader(text: string, announced: boolean): boolean {
  if (text.length > (announced ? MAX_MARKED : MAX_UNMARKED)) return false;
  if (announced) return !/[\n\r]/.test(text) && wordsOf(text).length <= 8;
  const words = wordsOf(text);
  const open = !/\s$/.test(text);
  return words.every((word, i) => isHeaderWord(word) || (open && i === words.length - 1 && startsWord(word)));
}

/** Whether the text of a header that got no message mark is nothing but header. */
export function isHeaderText({ mark, text }: HeaderPart): boolean {
  if (/[\n\r]/.test(text)) return false;
  const words = wordsOf(text);
  const first = words[0] ?? "";
  const rest = /^[\w.:$<>=-]*$/.test(first) && first.length < 64 ? words.slice(1) : words;
  return (mark === "constrain" && words.length <= 1) || rest.every((word) => isHeaderWord(word));
}

const WORDS = [...CHANNELS, ...CONTENT_TYPES, ...ROLES];

function isHeaderWord(word: string): boolean {
  return WORDS.includes(word) || /^(?:to=|:|functions\.)[\w.$-]*$/.test(word);
}

function startsWord(word: string): boolean {
  return ["to=", "functions.", ...WORDS].some((whole) => whole.startsWith(word));
}

/** Header and body of a part whose message mark was left out. */
export function splitMissingMessage({ mark, text }: HeaderPart): { header: string; body: string } {
  const first =
    mark === "channel" ? "analysis|commentary|final" : mark === "role" ? "assistant" : "json|code";
  const match = new RegExp(`^\\s*(?:${first})?\\s*(?:to=\\S+\\s*)?`).exec(text);
  const length = match?.[0].length ?? 0;
  return { header: text.slice(0, length), body: text.slice(length) };
}
