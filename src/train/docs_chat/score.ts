/** What a model file is worth: bits per byte of held-out text, and right answers to `What is PEP n?`. */

import { unexpected } from "../../core/error.ts";
import type { Document } from "../../data/corpora/document.ts";
import { harmonyOf } from "../../models/chat/index.ts";
import { openModelFiles } from "../../models/files/source.ts";
import type { Model } from "../../models/model.ts";
import { openTokenizer } from "../../models/open_tokenizer.ts";
import { loadModel } from "../../models/registry.ts";
import type { Tokenizer } from "../../models/tokenizer/index.ts";
import type { Device } from "../../runtime/device.ts";
import { shuffled } from "../random.ts";
import { greedy, SequenceBatch } from "./batched.ts";
import { type Proposal, proposalOf } from "./proposals.ts";
import { names, plainQuestion } from "./questions.ts";

export type TextScore = {
  readonly documents: number;
  readonly bytes: number;
  readonly tokens: number;
  readonly bits_per_byte: number;
  /** Mean over tokens. */
  readonly nats_per_token: number;
  /** Tokens of a window; each token but the first is seen with at least half of them before it, where its document has so many. */
  readonly context: number;
};

export type Answered = {
  readonly question: string;
  readonly title: string;
  readonly answer: string;
  readonly right: boolean;
};

export type AnswerScore = {
  readonly questions: number;
  readonly right: number;
  readonly share: number;
  readonly answers: readonly Answered[];
};

/** Opens a GPT-OSS file; the caller frees the model. */
export function openForScores(device: Device, path: string): { model: Model; tokenizer: Tokenizer } {
  const files = openModelFiles(path);
  const tokenizer = openTokenizer(files);
  return { model: loadModel(device, files, {}), tokenizer };
}

type Opened = { readonly device: Device; readonly model: Model; readonly tokenizer: Tokenizer };

/** Rows of logits that are held at once. */
const mostRows = 4096;

/** Bits per byte of documents, each by itself, in windows that overlap by half. */
export function scoreText(
  { device, model, tokenizer }: Opened,
  documents: readonly Document[],
  context: number,
  onDone: (done: number) => void = () => {},
): TextScore {
  const begin = tokenizer.bos ?? tokenizer.eos;
  if (begin === undefined)
    throw unexpected("unsupported", "score", "a vocabulary with BOS or EOS", "neither");
  const slots = Math.max(1, Math.floor(mostRows / context));
  using batch = new SequenceBatch(device, model, slots, context);
  let [bytes, tokens, nats, done] = [0, 0, 0, 0];
  let waiting: { tokens: number[]; targets: number[] }[] = [];
  const run = (): void => {
    nats += batch.nats(waiting);
    waiting = [];
    onDone(done);
  };
  for (const { text } of documents) {
    const ids = [begin, ...tokenizer.encode(text, { special: false, bos: false, eos: false })];
    bytes += Buffer.byteLength(text);
    tokens += ids.length - 1;
    for (const window of windowsOver(ids, context)) {
      waiting.push(window);
      if (waiting.length === slots) run();
    }
    done++;
  }
  if (waiting.length > 0) run();
  return {
    ...{ documents: documents.length, bytes, tokens, context },
    bits_per_byte: nats / Math.LN2 / bytes,
    nats_per_token: nats / tokens,
  };
}

/** Every token but the first is the target of one window; windows after the first count their later half. */
function* windowsOver(
  ids: readonly number[],
  context: number,
): Generator<{ tokens: number[]; targets: number[] }> {
  const half = Math.max(1, Math.floor(context / 2));
  for (let from = 0, seen = 0; seen < ids.length - 1; from += half) {
    const tokens = ids.slice(from, Math.min(from + context, ids.length - 1));
    const targets = tokens.map((_, i) => (from + i >= seen ? ids[from + i + 1]! : -1));
    yield { tokens, targets };
    seen = from + tokens.length;
  }
}

/** Proposals of a kind in an order that the seed names, at most so many. */
export function drawn(
  documents: readonly Document[],
  kind: Proposal["kind"],
  count: number,
  seed: number,
): Proposal[] {
  const all = documents.flatMap((d) => proposalOf(d) ?? []).filter((p) => p.kind === kind);
  if (all.length === 0) throw unexpected("invalid_request", "score", `a corpus with a ${kind}`, "none");
  return [...shuffled(`psionic questions ${seed}`, all.length)].slice(0, count).map((i) => all[i]!);
}

const mostAnswerTokens = 96;

/** The model's greedy answers as a chat gives them; right where the proposal's title is named. */
export function scoreAnswers(
  { device, model, tokenizer }: Opened,
  proposals: readonly Proposal[],
  onDone?: (done: number) => void,
): AnswerScore {
  const questions = proposals.map(plainQuestion);
  const texts = answersTo({ device, model, tokenizer }, questions, onDone);
  const answers = proposals.map((p, i) => {
    const answer = texts[i]!;
    return { question: questions[i]!, title: p.title, answer, right: names(answer, p) };
  });
  const right = answers.filter((a) => a.right).length;
  return { questions: answers.length, right, share: right / answers.length, answers };
}

/** Greedy answers to single questions. */
export function answersTo(
  { device, model, tokenizer }: Opened,
  questions: readonly string[],
  onDone?: (done: number) => void,
): string[] {
  const chat = harmonyOf(tokenizer);
  const prompts = questions.map((content) => chat.prompt([{ role: "user", content }]));
  const stops = new Set([...chat.stopTokens, ...tokenizer.stopTokens]);
  const options = { stops, most: mostAnswerTokens, slots: 32 };
  return greedy(device, model, prompts, options, onDone).map((ids) => {
    const parser = chat.parser();
    const events = [...ids.flatMap((id) => parser.push(id)), ...parser.finish(undefined)];
    return events.map((e) => (e.type === "content" ? e.text : "")).join("");
  });
}
