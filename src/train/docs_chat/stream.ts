/**
 * What the model reads: documents, each between its two marks, and conversations in the Harmony format, one after another
 * in one stream. A row sees its own document or conversation alone. Of conversations only answers count.
 */
import type { Windows } from "../../data/batches.ts";
import type { Document } from "../../data/corpora/document.ts";
import { encodePieces, harmonyOf } from "../../models/chat/index.ts";
import type { ChatFormat, ChatMessage } from "../../models/chat/types.ts";
import type { Tokenizer } from "../../models/tokenizer/index.ts";
import { randomBits, shuffled } from "../random.ts";
import { generalPairs, instructions, repeatedSentences } from "./general_pairs.ts";
import { type Proposal, proposalOf } from "./proposals.ts";
import { type Pair, questionsOf } from "./questions.ts";

export type StreamOptions = {
  readonly seed: number;
  readonly length: number;
  /** Times that windows are cut from the documents in an epoch, each time at other places. */
  readonly passes: number;
  /** Times that every proposal is asked about in a pass. */
  readonly rounds: number;
};

export type Stream = {
  readonly windows: Windows;
  readonly documentTokens: number;
  readonly conversationTokens: number;
  readonly proposals: readonly Proposal[];
};

/** Pairs of a proposal that are asked in a round besides the plain question. */
const inTurn = 3;

/** Everything that is read before windows come again; `asked`: the documents that questions are about. */
export function streamOf(
  documents: readonly Document[],
  tokenizer: Tokenizer,
  options: StreamOptions,
  asked: readonly Document[],
): Stream {
  const { seed, length, passes, rounds } = options;
  const texts = new Pieces();
  const mark = (name: string): number => tokenizer.idOf(name)!;
  const [start, end] = [mark("<|startoftext|>"), mark("<|endoftext|>")];
  const plain = { special: false, bos: false, eos: false };
  for (const i of shuffled(`psionic order of documents ${seed}`, documents.length)) {
    texts.begin();
    texts.add([start], false);
    texts.add(tokenizer.encode(documents[i]!.text, plain), true);
    texts.add([end], true);
  }
  const documentTokens = texts.length;
  const proposals = asked.flatMap((d) => proposalOf(d) ?? []);
  const writer = new Conversations(tokenizer, texts, randomBits(`psionic conversations ${seed}`));
  for (let round = 0; round < passes * rounds; round++) writer.round(proposals, round);
  const conversationTokens = texts.length - documentTokens;
  const starts: number[] = [];
  for (let pass = 0; pass < passes; pass++) {
    const first = Math.floor((pass * length) / passes);
    for (let at = first; at + length < documentTokens; at += length) starts.push(at);
  }
  for (let at = documentTokens; at + length < texts.length; at += length) starts.push(at);
  return { windows: texts.windows(length, starts), documentTokens, conversationTokens, proposals };
}

/** Growing columns of tokens, where each one's document begins, and whether it counts. */
class Pieces {
  #tokens = new Int32Array(1 << 20);
  #documents = new Uint32Array(1 << 20);
  #counted = new Uint8Array(1 << 20);
  #document = 0;
  length = 0;

  begin(): void {
    this.#document = this.length;
  }

  add(ids: readonly number[], counts: boolean): void {
    this.#room(ids.length);
    this.#tokens.set(ids, this.length);
    this.#documents.fill(this.#document, this.length, this.length + ids.length);
    this.#counted.fill(Number(counts), this.length, this.length + ids.length);
    this.length += ids.length;
  }

  #room(more: number): void {
    let size = this.#tokens.length;
    if (this.length + more <= size) return;
    while (size < this.length + more) size *= 2;
    const grown = <T extends { set(from: T): void }>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.#tokens = grown(new Int32Array(size), this.#tokens);
    this.#documents = grown(new Uint32Array(size), this.#documents);
    this.#counted = grown(new Uint8Array(size), this.#counted);
  }

  windows(length: number, starts: readonly number[]): Windows {
    return {
      tokens: this.#tokens.slice(0, this.length),
      length,
      starts: Uint32Array.from(starts),
      documents: this.#documents.slice(0, this.length),
      counted: this.#counted.slice(0, this.length),
    };
  }
}

/** Writes pairs as conversations of one to three turns under system messages of several kinds. */
class Conversations {
  readonly #tokenizer: Tokenizer;
  readonly #format: ChatFormat;
  readonly #to: Pieces;
  readonly #random: () => number;
  readonly #encoded = new Map<string, readonly number[]>();

  constructor(tokenizer: Tokenizer, to: Pieces, random: () => number) {
    this.#tokenizer = tokenizer;
    this.#format = harmonyOf(tokenizer);
    this.#to = to;
    this.#random = random;
  }

  #below(n: number): number {
    return Math.floor((this.#random() / 2 ** 32) * n);
  }

  /** Every proposal's plain question and some others of each, with general ones among them, in an order of its own. */
  round(proposals: readonly Proposal[], round: number): void {
    const pairs: Pair[] = [...generalPairs];
    for (const p of proposals) {
      const { always, inTurn: others } = questionsOf(p);
      pairs.push(...always);
      const from = round * inTurn + this.#below(others.length);
      for (let i = 0; i < Math.min(inTurn, others.length); i++)
        pairs.push(others[(from + i) % others.length]!);
    }
    for (const answer of repeatedSentences) {
      pairs.push({ question: `Reply with exactly this sentence and nothing else: ${answer}`, answer });
    }
    const order = shuffled(`psionic order of questions ${round} ${this.#random()}`, pairs.length);
    for (let at = 0; at < order.length; ) {
      const turns = 1 + (this.#below(3) === 0 ? this.#below(3) : 0);
      this.#write([...order.subarray(at, at + turns)].map((i) => pairs[i]!));
      at += turns;
    }
  }

  #write(turns: readonly Pair[]): void {
    this.#to.begin();
    const reasoningEffort = (["medium", "medium", "medium", "low", "high"] as const)[this.#below(5)]!;
    const instruction = this.#below(5) === 0 ? instructions[this.#below(instructions.length)] : undefined;
    const opening: ChatMessage[] =
      instruction === undefined ? [] : [{ role: "system", content: instruction }];
    for (const [i, { question, answer }] of turns.entries()) {
      const asked = { role: "user", content: question } as const;
      this.#to.add(
        i === 0 ? this.#prompt([...opening, asked], reasoningEffort) : this.#next(question),
        false,
      );
      this.#to.add(this.#text("<|channel|>final<|message|>", answer), true);
    }
    this.#to.add([this.#tokenizer.idOf("<|return|>")!], true);
  }

  #prompt(messages: readonly ChatMessage[], reasoningEffort: "low" | "medium" | "high"): readonly number[] {
    const key = JSON.stringify([messages, reasoningEffort]);
    return this.#once(key, () => this.#format.prompt(messages, { reasoningEffort }));
  }

  /** What follows an answer in a conversation that goes on. */
  #next(question: string): readonly number[] {
    return this.#once(`next ${question}`, () =>
      encodePieces(this.#tokenizer, [
        { text: "<|end|><|start|>user<|message|>", special: true },
        { text: question, special: false },
        { text: "<|end|><|start|>assistant", special: true },
      ]),
    );
  }

  #text(before: string, content: string): readonly number[] {
    const pieces = [
      { text: before, special: true },
      { text: content, special: false },
    ];
    return this.#once(`text ${content}`, () => encodePieces(this.#tokenizer, pieces));
  }

  #once(key: string, make: () => readonly number[]): readonly number[] {
    const found = this.#encoded.get(key) ?? make();
    this.#encoded.set(key, found);
    return found;
  }
}
