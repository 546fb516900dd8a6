/**
 * Greedy answers of psionic and of llama.cpp (node-llama-cpp) to the same questions, token by token.
 * Usage: bun scripts/llama-answers.ts [-m FILE] [--corpus FILE] [--questions 20] [--threads 1]
 *        Without --corpus it is the question on HTTPS alone; with one, also so many questions `What is PEP n?`.
 * Output: a line per question, `same` or `differs` with both answers, and their number. Exit code 1 where any differs.
 */
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { openDevice } from "../src/backends/index.ts";
import { type Document, readDocuments } from "../src/data/corpora/document.ts";
import { harmonyOf } from "../src/models/chat/index.ts";
import { defaultModelPath } from "../src/models/default_model.ts";
import { greedy } from "../src/train/docs_chat/batched.ts";
import { plainQuestion } from "../src/train/docs_chat/questions.ts";
import { drawn, openForScores } from "../src/train/docs_chat/score.ts";
import { installPeer } from "./llama-install.ts";

/** What is used of node-llama-cpp, whose types are not installed with psionic. */
type Sequence = {
  readonly contextTokens: readonly number[];
  eraseContextTokenRanges(ranges: readonly { start: number; end: number }[]): Promise<void>;
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
};
type Peer = {
  loadModel(options: object): Promise<{
    createContext(options: object): Promise<{ getSequence(): Sequence }>;
    isEogToken(token: number): boolean;
  }>;
};
type LlamaModule = { getLlama(options: object): Promise<Peer> };

const { values } = parseArgs({
  options: {
    model: { type: "string", short: "m" },
    corpus: { type: "string" },
    questions: { type: "string", default: "20" },
    threads: { type: "string", default: "1" },
  },
});
const modelPath = values.model ?? defaultModelPath();
const threads = Number(values.threads);
const most = 96;

const questions = ["Why does HTTPS matter?"];
if (values.corpus !== undefined) {
  const documents: Document[] = [];
  for await (const document of readDocuments(values.corpus)) documents.push(document);
  questions.push(...drawn(documents, "PEP", Number(values.questions), 1).map(plainQuestion));
}

const { getLlama } = (await import(pathToFileURL(await installPeer()).href)) as LlamaModule;
const llama = await getLlama({
  ...{ gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: threads },
});
const peer = await llama.loadModel({ modelPath, gpuLayers: 0 });
const sequence = (await peer.createContext({ contextSize: 1024, batchSize: 512 })).getSequence();

const device = openDevice("cpu", { threads });
const { model, tokenizer } = openForScores(device, modelPath);
const chat = harmonyOf(tokenizer);
const stops = new Set([...chat.stopTokens, ...tokenizer.stopTokens]);
const prompts = questions.map((content) => chat.prompt([{ role: "user", content }]));
const ours = greedy(device, model, prompts, { stops, most, slots: 8 });

async function theirs(prompt: readonly number[]): Promise<number[]> {
  await sequence.eraseContextTokenRanges([{ start: 0, end: sequence.contextTokens.length }]);
  const tokens: number[] = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogTokens: true })) {
    if (stops.has(token) || peer.isEogToken(token) || tokens.push(token) >= most) break;
  }
  return tokens;
}

let same = 0;
for (const [i, question] of questions.entries()) {
  const [a, b] = [ours[i]!, await theirs(prompts[i]!)];
  const equal = a.join() === b.join();
  if (equal) same++;
  const [mine, other] = [a, b].map((ids) => tokenizer.decode(ids, { special: true, continuation: true }));
  console.log(
    equal ? `same     ${question} ${mine}` : `differs  ${question}\n  psionic ${mine}\n  llama   ${other}`,
  );
}
console.log(`${same} of ${questions.length} the same`);
process.exit(same === questions.length ? 0 : 1);
