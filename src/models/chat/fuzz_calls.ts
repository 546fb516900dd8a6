import { checkCalls, type FuzzCount, type FuzzLimit, fuzzStreams } from "./fuzz.ts";
import { gemma4Parser } from "./gemma4_parser.ts";
import { qwen35Parser } from "./qwen35_parser.ts";
import type { ChatTokenizer, ChatTool, GenerationParser, ParsedEvent } from "./types.ts";

/** The tools that the answers below call. */
export const fuzzTools: readonly ChatTool[] = [
  {
    name: "f",
    parameters: {
      type: "object",
      properties: {
        a: { type: "string" },
        n: { type: "integer" },
        o: { type: "object" },
        l: { type: ["array", "null"] },
        b: { type: "boolean" },
      },
    },
  },
  { name: "g" },
];

const QWEN35: readonly string[] = [
  "<think>\nLet me think é.\n</think>\n\nHi 🙂!\n<|im_end|>",
  "Thoughts\n</think>\n\n<tool_call>\n<function=f>\n<parameter=a>\né\n two\n</parameter>\n<parameter=n>\n5\n</parameter>\n</function>\n</tool_call>",
  'I look.\n\n<tool_call>\n<function=f>\n<parameter=o>\n{"x": [1, "é"]}\n</parameter>\n<parameter=l>\nnull\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>',
  "no end of thought <tool_call>\n<function=g>\n<parameter=b>\ntrue\n</tool_call>",
  '<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>',
  "<tool_call>what is this</tool_call> text behind",
  "<tool_call>\n<function=f>\n<parameter=a>\n<think>a</think> and <tool_call> in a value\n</parameter>\n</function>\n</tool_call>",
];

const GEMMA4: readonly string[] = [
  "<|channel>thought\nLet me think é.\n<channel|>Hi 🙂!<turn|>",
  '<|channel>thought\n<channel|><|tool_call>call:f{a:<|"|>é\n"two"<|"|>,n:5,o:{x:[1,<|"|>é<|"|>,{}]},l:null,b:true}<tool_call|><|tool_response>',
  '<|tool_call>call:f{n:-1.5e3}<tool_call|><|tool_call>call:g{}<tool_call|><|tool_response>response:g{value:<|"|>x<|"|>}<tool_response|>',
  "I look.\n<|tool_call>call:f{a:\"quoted\",b:'it''s',l:[]}<tool_call|>",
  '<|tool_call>call:f{a:<|"|>open',
  "<|tool_call>what is this<tool_call|> text behind <channel|> and <|channel>thought\n<channel|>",
  "<|channel>analysis\nother name<channel|>text<|turn>model\nmore",
];

/** Feeds mutated answers to Qwen 3.5's parser; an error names the seed and the case. */
export function fuzzQwen35(tokenizer: ChatTokenizer, seed: number, limit: FuzzLimit): FuzzCount {
  const parser: MakeParser = (of, options) => qwen35Parser(of, options);
  return fuzzStreams({ name: "qwen35", answers: QWEN35, tokenizer, seed, limit }, (stream, random) =>
    checkStream(tokenizer, parser, { stream, random, repairs: false }),
  );
}

/** Feeds mutated answers to Gemma 4's parser; an error names the seed and the case. */
export function fuzzGemma4(tokenizer: ChatTokenizer, seed: number, limit: FuzzLimit): FuzzCount {
  const parser: MakeParser = (of, options) => gemma4Parser(of, options);
  return fuzzStreams({ name: "gemma4", answers: GEMMA4, tokenizer, seed, limit }, (stream, random) =>
    checkStream(tokenizer, parser, { stream, random, repairs: true }),
  );
}

type ParserOptions = { readonly tools: readonly ChatTool[]; readonly thinking: boolean };
type MakeParser = (tokenizer: ChatTokenizer, options: ParserOptions) => GenerationParser;
type Random = (n: number) => number;

/**
 * Reads the stream token by token, and again with neighbouring text tokens joined at random: both must say the same, in
 * valid events, and the arguments of every call but one that was cut must be JSON.
 */
function checkStream(
  tokenizer: ChatTokenizer,
  make: MakeParser,
  { stream, random, repairs }: { stream: readonly number[]; random: Random; repairs: boolean },
): number {
  const options = { thinking: random(2) === 0, tools: random(8) === 0 ? [] : fuzzTools };
  const stop = random(3) === 0 ? undefined : 0;
  const parser = make(tokenizer, options);
  const events = readAll(parser, stream, stop);
  for (const event of events) {
    if (event.type !== "toolCall" && event.text === "") throw new Error("an event without text");
  }
  checkCalls(events);
  if (options.tools.length === 0 && events.some(({ type }) => type === "toolCall")) {
    throw new Error("a call that nobody can run");
  }
  const answer = collect(events);
  const joined = joinedStream(tokenizer, stream, random);
  const again = collect(readAll(make(joined.tokenizer, options), joined.stream, stop));
  if (JSON.stringify(answer) !== JSON.stringify(again)) {
    throw new Error(`joined tokens say ${JSON.stringify(again)}, single ones ${JSON.stringify(answer)}`);
  }
  answer.calls.forEach(({ name, arguments: args }, i) => {
    if (name === "") throw new Error("a call without a name");
    // what the model ended is whole in Gemma 4's notation; else the last call may have been cut
    if (i < answer.calls.length - 1 || (repairs && stop !== undefined)) JSON.parse(args);
  });
  return parser.unparsed;
}

function readAll(parser: GenerationParser, stream: readonly number[], stop: number | undefined) {
  const events = stream.flatMap((token) => {
    const parsed = parser.push(token);
    const { region } = parser;
    if (region?.kind === "arguments" && region.tool === "") throw new Error("arguments of nobody");
    if (parser.inContent && region?.kind !== "content") throw new Error("content elsewhere");
    return [...parsed];
  });
  return [...events, ...parser.finish(stop)];
}

/** An answer's parts put together. */
export type CollectedAnswer = {
  readonly content: string;
  readonly reasoning: string;
  readonly calls: readonly { readonly name: string; readonly arguments: string }[];
};

export function collect(events: readonly ParsedEvent[]): CollectedAnswer {
  const answer = { content: "", reasoning: "", calls: [] as { name: string; arguments: string }[] };
  for (const event of events) {
    if (event.type !== "toolCall") answer[event.type] += event.text;
    else {
      answer.calls[event.index] ??= { name: event.name ?? "", arguments: "" };
      answer.calls[event.index]!.arguments += event.arguments;
    }
  }
  return answer;
}

/** Ids between the vocabulary and the joined tokens that stay unknown. */
const GAP = 8;

/** The stream with runs of text tokens cut into tokens of other lengths, and a tokenizer that has these. */
export function joinedStream(tokenizer: ChatTokenizer, stream: readonly number[], random: Random) {
  const base = tokenizer.vocabularySize + GAP;
  const made: Uint8Array[] = [];
  const out: number[] = [];
  let run: Uint8Array[] = [];
  const flush = (): void => {
    if (run.length === 0) return;
    out.push(base + made.length);
    made.push(Buffer.concat(run));
    run = [];
  };
  for (const token of stream) {
    const known = token >= 0 && token < tokenizer.vocabularySize;
    if (known && !tokenizer.isControl(token) && tokenizer.tokenText(token).startsWith("<0x")) {
      run.push(tokenizer.tokenBytes(token));
      if (random(4) === 0) flush();
    } else {
      flush();
      out.push(token);
    }
  }
  flush();
  const joined: ChatTokenizer = {
    ...tokenizer,
    vocabularySize: base + made.length,
    tokenBytes: (id) => (id < base ? tokenizer.tokenBytes(id) : made[id - base]!),
    isControl: (id) => id < base && (id >= tokenizer.vocabularySize || tokenizer.isControl(id)),
  };
  return { tokenizer: joined, stream: out };
}
