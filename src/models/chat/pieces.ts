import { runAll, type Steps } from "../../core/steps.ts";
import { TokenStore } from "./token_store.ts";
import type { ChatFormat, ChatMessage, ChatOptions, ChatTokenizer, PromptPiece } from "./types.ts";

/** Text of the format: control tokens in it become tokens. */
export function marked(text: string): PromptPiece {
  return { text, special: true };
}

/** Text of a message: nothing in it becomes a control token. */
export function plain(text: string): PromptPiece {
  return { text, special: false };
}

/** The pieces as one string, for people and tests. */
export function textOf(pieces: readonly PromptPiece[]): string {
  return pieces.map(({ text }) => text).join("");
}

/** Joins neighbours of one kind and drops empty pieces. */
export function joinPieces(pieces: readonly PromptPiece[]): PromptPiece[] {
  const joined: PromptPiece[] = [];
  for (const piece of pieces) {
    const last = joined.at(-1);
    if (piece.text === "") continue;
    if (last?.special === piece.special && !piece.apart) {
      joined[joined.length - 1] = { ...last, text: last.text + piece.text };
    } else joined.push(piece);
  }
  return joined;
}

/** How a format makes prompts of the pieces it writes, `guarded` as for `encodePieces`. */
export function promptWriter(
  tokenizer: ChatTokenizer,
  write: (messages: readonly ChatMessage[], options: ChatOptions) => readonly PromptPiece[],
  guarded: (messages: readonly ChatMessage[], options: ChatOptions) => readonly string[] = () => [],
): Pick<ChatFormat, "prompt" | "promptSteps"> {
  const memory: Memory = { texts: new TokenStore(), markup: new Map() };
  function* promptSteps(messages: readonly ChatMessage[], options: ChatOptions = {}, most?: number) {
    const pieces = write(messages, most === undefined ? options : { ...options, mostTokens: most });
    yield;
    return yield* encodeInSteps(tokenizer, memory, pieces, guarded(messages, options), most);
  }
  return { promptSteps, prompt: (messages, options) => runAll(promptSteps(messages, options)) };
}

/**
 * Token ids of a prompt. Text between two control tokens is tokenised as one run, whoever wrote its parts, because
 * merges cross the border between `user\n` and what the user wrote. `guarded` are texts that the vocabulary always
 * turns into a token (not marked as control tokens in the file) and that message text must not produce.
 */
export function encodePieces(
  tokenizer: ChatTokenizer,
  pieces: readonly PromptPiece[],
  guarded: readonly string[] = [],
): number[] {
  return runAll(encodeInSteps(tokenizer, undefined, pieces, guarded));
}

/** What a format has encoded before: texts between control tokens, and what it writes around them. */
type Memory = { readonly texts: TokenStore; readonly markup: Map<string, ControlParts | undefined> };

/** A format writes few different texts around messages, and short ones. UTF-16 units. */
const MOST_MARKUP = 256;
const LONGEST_MARKUP = 256;

/** Texts between control tokens are encoded by themselves, whatever stands around them, and so they are remembered. */
function* encodeInSteps(
  tokenizer: ChatTokenizer,
  memory: Memory | undefined,
  pieces: readonly PromptPiece[],
  guarded: readonly string[],
  most = Number.POSITIVE_INFINITY,
): Steps<number[]> {
  const ids: number[] = [];
  const add = (part: ArrayLike<number>): void => {
    for (let i = 0; i < part.length; i++) ids.push(part[i]!);
  };
  const guards = guarded.filter((text) => isGuardable(tokenizer, text));
  let run: PromptPiece[] = [];
  function* flush(): Steps<void> {
    const texts = cutAtGuards(run, guards);
    for (const text of texts) {
      const known = memory?.texts.find(text);
      if (known) {
        add(known);
        yield;
        continue;
      }
      const from = ids.length;
      const encoding = { special: false, bos: false, eos: false };
      for (const part of yield* tokenizer.encodeSteps(text, encoding, most - from)) {
        add(part);
        yield;
      }
      // beyond that many they need not be those of the whole text, and a run that was cut is slices
      if (ids.length <= most && texts.length === 1) memory?.texts.add(text, ids, from);
    }
    run = [];
    yield;
  }
  for (const piece of joinPieces(pieces)) {
    if (ids.length > most) break;
    if (piece.apart) yield* flush();
    const found = piece.special ? controlParts(tokenizer, memory, piece.text) : undefined;
    if (found === undefined) {
      run.push(piece);
      continue;
    }
    run.push(marked(found.head));
    yield* flush();
    add(found.ids);
    run.push(marked(found.tail));
  }
  yield* flush();
  const { bos, addBos } = tokenizer;
  if (addBos && bos !== undefined && ids[0] !== bos) ids.unshift(bos);
  return ids;
}

/** Text before the first control token, ids from the first to the last one, text behind; undefined without any. */
type ControlParts = { readonly head: string; readonly ids: readonly number[]; readonly tail: string };

function controlParts(
  tokenizer: ChatTokenizer,
  memory: Memory | undefined,
  text: string,
): ControlParts | undefined {
  if (memory?.markup.has(text)) return memory.markup.get(text);
  const parts = splitAtControls(tokenizer, text);
  if (memory && memory.markup.size < MOST_MARKUP && text.length <= LONGEST_MARKUP)
    memory.markup.set(text, parts);
  return parts;
}

function splitAtControls(tokenizer: ChatTokenizer, text: string): ControlParts | undefined {
  const controls = tokenizer
    .encode(text, { special: true, bos: false, eos: false })
    .filter((id) => tokenizer.isControl(id))
    .map((id) => Buffer.from(tokenizer.tokenBytes(id)).toString("utf8"))
    .filter((name) => text.includes(name));
  if (controls.length === 0) return undefined;
  const start = text.indexOf(controls[0]!);
  const end = text.lastIndexOf(controls.at(-1)!) + controls.at(-1)!.length;
  return {
    head: text.slice(0, start),
    ids: tokenizer.encode(text.slice(start, end), { special: true, bos: false, eos: false }),
    tail: text.slice(end),
  };
}

function isGuardable(tokenizer: ChatTokenizer, text: string): boolean {
  const id = text.length > 1 ? tokenizer.idOf(text) : undefined;
  return id !== undefined && !tokenizer.isControl(id);
}

/** The run's text, cut behind the first character of each guarded text that message text has a part in. */
function cutAtGuards(run: readonly PromptPiece[], guards: readonly string[]): string[] {
  const text = textOf(run);
  if (text === "") return [];
  const cuts = new Set<number>();
  const starts = startsOf(run);
  for (const guard of guards) {
    for (let at = text.indexOf(guard); at >= 0; at = text.indexOf(guard, at + 1)) {
      if (touchesPlain(run, starts, at, at + guard.length))
        cuts.add(at + (guard.codePointAt(0)! > 0xffff ? 2 : 1));
    }
  }
  const bounds = [0, ...[...cuts].sort((a, b) => a - b), text.length];
  return bounds.slice(1).map((end, i) => text.slice(bounds[i], end));
}

/** Where each piece begins in the run's text. */
function startsOf(run: readonly PromptPiece[]): readonly number[] {
  let at = 0;
  return run.map(({ text }) => {
    const start = at;
    at += text.length;
    return start;
  });
}

function touchesPlain(
  run: readonly PromptPiece[],
  starts: readonly number[],
  from: number,
  to: number,
): boolean {
  let low = 0;
  for (let high = run.length; high - low > 1; ) {
    const middle = (low + high) >> 1;
    if (starts[middle]! <= from) low = middle;
    else high = middle;
  }
  for (let i = low; i < run.length && starts[i]! < to; i++) {
    if (!run[i]!.special && starts[i]! + run[i]!.text.length > from) return true;
  }
  return false;
}
