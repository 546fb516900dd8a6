import { harmonyParser } from "./harmony_parser.ts";
import { toolNames } from "./harmony_tools.ts";
import type { ChatTokenizer, ParsedEvent } from "./types.ts";

export type FuzzCount = { readonly cases: number; readonly tokens: number; readonly unparsed: number };

/** Answers as models write them; the streams under test are these with tokens lost, doubled, moved and replaced. */
const ANSWERS: readonly string[] = [
  "<|channel|>analysis<|message|>Let me think é.<|end|><|start|>assistant<|channel|>final<|message|>Hi 🙂!<|return|>",
  '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":1}<|call|>',
  ' to=functions.f<|channel|>commentary json<|message|>{"a":"é"}<|call|>',
  "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant<|channel|>analysis to=browser.search code<|message|>x<|call|>",
  "<|channel|>commentary to=assistant<|channel|>final<|message|>ok<|return|>",
  "plain text, no markup at all\n",
  "<|channel|>final no message mark<|end|><|start|>functions.f to=assistant<|channel|>commentary<|message|>{}<|end|>",
];

/** Feeds mutated answers to the parser; an error names the seed and the case. Stops at the count or the time. */
export function fuzzHarmony(tokenizer: ChatTokenizer, seed: number, limit: FuzzLimit): FuzzCount {
  return fuzzStreams({ name: "harmony", answers: ANSWERS, tokenizer, seed, limit }, (stream, random) =>
    checkStream(tokenizer, stream, random(4) === 0),
  );
}

export type FuzzLimit = { readonly count: number } | { readonly durationMs: number };

type FuzzRun = {
  readonly name: string;
  /** Answers as models write them, marks included. */
  readonly answers: readonly string[];
  readonly tokenizer: ChatTokenizer;
  readonly seed: number;
  readonly limit: FuzzLimit;
};

/** Runs `check` on mutated answers; it returns a parser's count of unparsed tokens and throws where something is wrong. */
export function fuzzStreams(
  { name, answers, tokenizer, seed, limit }: FuzzRun,
  check: (stream: readonly number[], random: (n: number) => number) => number,
): FuzzCount {
  const random = randomSource(seed);
  const seeds = answers.map((text) => tokenizer.encode(text, { special: true, bos: false, eos: false }));
  const end = "durationMs" in limit ? performance.now() + limit.durationMs : Number.POSITIVE_INFINITY;
  const most = "count" in limit ? limit.count : Number.POSITIVE_INFINITY;
  let cases = 0;
  let tokens = 0;
  let unparsed = 0;
  while (cases < most && (cases % 64 !== 0 || performance.now() < end)) {
    const stream = mutate(seeds[random(seeds.length)]!, tokenizer.vocabularySize, random);
    try {
      unparsed += check(stream, random);
    } catch (cause) {
      throw new Error(`[fuzz] ${name}, seed ${seed}, case ${cases}: ${stream.join(" ")}`, { cause });
    }
    cases += 1;
    tokens += stream.length;
  }
  return { cases, tokens, unparsed };
}

/** Numbers below `n`, the same for the same seed (xorshift). */
export function randomSource(seed: number): (n: number) => number {
  let state = seed >>> 0 || 1;
  return (n) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
  };
}

function mutate(from: readonly number[], vocabularySize: number, random: (n: number) => number): number[] {
  const stream = [...from];
  for (let n = random(8); n > 0; n--) {
    const at = random(stream.length + 1);
    const kind = random(5);
    if (kind === 0) stream.splice(at, 1 + random(4));
    else if (kind === 1) stream.splice(at, 0, ...stream.slice(at, at + 1 + random(12)));
    // Ids just outside the vocabulary are tried too.
    else if (kind === 2) stream.splice(at, random(2), random(vocabularySize + 4) - 2);
    else if (kind === 3) stream.splice(at, 0, ...stream.splice(random(stream.length + 1), 6));
    else stream.length = at;
  }
  return stream;
}

/** Returns the parser's count of unparsed tokens; throws when text was lost, made up or malformed. */
function checkStream(tokenizer: ChatTokenizer, stream: readonly number[], stopped: boolean): number {
  const parser = harmonyParser(tokenizer, toolNames());
  const stop = stopped ? tokenizer.idOf("<|return|>") : undefined;
  const events = [...stream.flatMap((token) => [...parser.push(token)]), ...parser.finish(stop)];
  const { headerLength, droppedLength } = parser.account;
  const got = events.reduce((n, event) => n + lengthOf(event), headerLength + droppedLength);
  const expected = textLength(tokenizer, stream);
  if (got !== expected) throw new Error(`${expected} characters went in, ${got} are accounted for`);
  checkCalls(events);
  return parser.unparsed;
}

function lengthOf(event: ParsedEvent): number {
  const text = event.type === "toolCall" ? event.arguments : event.text;
  if (text === "" && event.type !== "toolCall") throw new Error("an event without text");
  return text.length;
}

/** Each call is announced once, with its name, before its arguments, and calls are numbered in order. */
export function checkCalls(events: readonly ParsedEvent[]): void {
  let calls = 0;
  for (const event of events) {
    if (event.type !== "toolCall") continue;
    if (event.name !== undefined && event.index !== calls++) throw new Error("a call out of order");
    if (event.index !== calls - 1) throw new Error("arguments without a call");
  }
}

/** UTF-16 units of the stream's text, decoded between control tokens. */
function textLength(tokenizer: ChatTokenizer, stream: readonly number[]): number {
  let length = 0;
  let run: Uint8Array[] = [];
  const flush = (): void => {
    length += new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(run)).length;
    run = [];
  };
  for (const token of stream) {
    const known = token >= 0 && token < tokenizer.vocabularySize;
    if (known && !tokenizer.isControl(token)) run.push(tokenizer.tokenBytes(token));
    else flush();
  }
  flush();
  return length;
}
