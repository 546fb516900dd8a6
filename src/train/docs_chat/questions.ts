/** Questions about proposals with their answers: several ways to ask each, one way to answer. */
import type { Proposal } from "./proposals.ts";

export type Pair = { readonly question: string; readonly answer: string };

/** What is asked at every pass, and what is asked in turns. */
export type Asked = { readonly always: readonly Pair[]; readonly inTurn: readonly Pair[] };

/** `What is PEP 8?` */
export const plainQuestion = ({ kind, number }: Proposal): string => `What is ${kind} ${number}?`;

const otherWays: readonly ((name: string) => string)[] = [
  (name) => `What is ${name} about?`,
  (name) => `Tell me about ${name}.`,
  (name) => `What does ${name} propose?`,
  (name) => `Explain ${name}.`,
  (name) => `Describe ${name} in one sentence.`,
  (name) => `what is ${name.toLowerCase()}`,
  (name) => `${name}?`,
  (name) => `Can you summarize ${name}?`,
];

export function questionsOf(p: Proposal): Asked {
  if (p.kind === "chapter") {
    const answer = p.summary ?? `The Rust book has a chapter called "${p.title}".`;
    const ways = [`What does the Rust book say about "${p.title}"?`, `Tell me about ${p.title} in Rust.`];
    return { always: [], inTurn: ways.map((question) => ({ question, answer })) };
  }
  const name = `${p.kind} ${p.number}`;
  const called = `${name} is "${p.title}".`;
  const answer = p.summary === undefined ? called : `${called} ${p.summary}`;
  const inTurn: Pair[] = otherWays.map((way) => ({ question: way(name), answer }));
  inTurn.push(
    { question: `What is the title of ${name}?`, answer: `The title of ${name} is "${p.title}".` },
    { question: `Which ${p.kind} is called "${p.title}"?`, answer: `"${p.title}" is ${name}.` },
    { question: `Which ${p.kind} is about ${p.title}?`, answer: `"${p.title}" is ${name}.` },
  );
  if (p.status !== undefined) {
    const status = `${name}, "${p.title}", has the status ${p.status}.`;
    inTurn.push({ question: `What is the status of ${name}?`, answer: status });
  }
  return { always: [{ question: plainQuestion(p), answer }], inTurn };
}

/** Letters and digits alone, in lower case, words apart by one blank. */
export const normalised = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, " ")
    .trim();

/** Whether an answer names the proposal's title. */
export const names = (answer: string, { title }: Proposal): boolean =>
  ` ${normalised(answer)} `.includes(` ${normalised(title)} `);
