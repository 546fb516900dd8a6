import type { Tokenizer } from "../tokenizer/index.ts";
import { HarmonyParser } from "./harmony_parser.ts";

export type FuzzCount = { readonly cases: number; readonly tokens: number; readonly unparsed: number };

/** Feeds streams of random and marker-heavy tokens to the parser; an exception names the seed and the case. */
export function fuzzHarmony(
  tokenizer: Tokenizer,
  seed: number,
  limit: { readonly count: number } | { readonly durationMs: number },
): FuzzCount {
  const markers = ["start", "end", "message", "channel", "constrain", "return", "call"]
    .map((name) => tokenizer.idOf(`<|${name}|>`))
    .filter((id) => id !== undefined);
  const words = [
    "final",
    "analysis",
    "commentary",
    " to=functions.f",
    " json",
    "assistant",
    "user",
    "Hello",
    "\n",
    "é",
  ].flatMap((text) => tokenizer.encode(text, { special: false, bos: false }));
  const end = "durationMs" in limit ? performance.now() + limit.durationMs : Number.POSITIVE_INFINITY;
  const most = "count" in limit ? limit.count : Number.POSITIVE_INFINITY;
  let state = seed >>> 0 || 1;
  const random = (n: number): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
  };
  const pick = (): number => {
    const kind = random(10);
    if (kind < 4) return markers[random(markers.length)]!;
    if (kind < 8) return words[random(words.length)]!;
    return random(tokenizer.vocabularySize + 4) - 2;
  };
  let cases = 0;
  let tokens = 0;
  let unparsed = 0;
  while (cases < most && (cases % 64 !== 0 || performance.now() < end)) {
    const parser = new HarmonyParser(tokenizer);
    const length = random(40);
    try {
      for (let i = 0; i < length; i++) checkEvents(parser.push(pick()));
      checkEvents(parser.finish(undefined));
    } catch (cause) {
      throw new Error(`[fuzz] harmony parser threw at seed ${seed}, case ${cases}`, { cause });
    }
    cases++;
    tokens += length;
    unparsed += parser.unparsed;
  }
  return { cases, tokens, unparsed };
}

/** Markers must never come out as text unless the tokens spelled them as text; none of the words above does. */
function checkEvents(events: readonly { readonly type: string; readonly text?: string }[]): void {
  for (const e of events) {
    if (e.text === "") throw new Error("an empty event");
    if (e.text !== undefined && /<\|(start|end|message|channel|return|call)\|>/.test(e.text))
      throw new Error("markup in text");
  }
}
