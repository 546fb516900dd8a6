import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import { codePoints } from "../choice.ts";
import type { TokenIds } from "../protocol.ts";
import type { AnswerFrame } from "./answer_frame.ts";
import { addCompletionLogprob, type CompletionLogprobs, emptyCompletionLogprobs } from "./logprobs.ts";
import type { ManyEvent } from "./many.ts";
import type { AnswerShape } from "./respond.ts";
import { sseEvent } from "./sse.ts";
import { usageOf } from "./usage.ts";

export type CompletionPrompt = {
  readonly tokens: TokenIds;
  /** How many of the first tokens the tokenizer put before a text; an echo does not show them. */
  readonly added: number;
};

export type CompletionAnswerOptions = AnswerFrame & {
  readonly model: string;
  readonly tokenizer: Tokenizer;
  readonly prompts: readonly CompletionPrompt[];
  /** Choices of each prompt; choice c of prompt p has index p * n + c. */
  readonly n: number;
  readonly echo: boolean;
  readonly logprobs: boolean;
  readonly includeUsage: boolean;
};

type Collected = { text: string; logprobs: CompletionLogprobs; finish: string | null; cause: string };

/** Answers of /v1/completions. */
export function completionAnswer(options: CompletionAnswerOptions): AnswerShape {
  const { tokenizer, n, prompts } = options;
  const head = {
    id: options.id,
    object: "text_completion",
    created: Math.floor(Date.now() / 1000),
    model: options.model,
    system_fingerprint: options.fingerprint,
  };
  const choices: Collected[] = Array.from({ length: prompts.length * n }, () => ({
    text: "",
    logprobs: emptyCompletionLogprobs(),
    finish: null,
    cause: "error",
  }));
  const echoed = options.echo
    ? prompts.map(({ tokens, added }) => tokenizer.decode(tokens.slice(added), { special: true }))
    : [];
  const echoedPoints = echoed.map(codePoints);
  const usageField = options.includeUsage ? { usage: null } : {};
  const chunk = (
    index: number,
    text: string,
    logprobs: CompletionLogprobs | null,
    finish: string | null,
  ): string =>
    sseEvent({ ...head, choices: [{ index, text, logprobs, finish_reason: finish }], ...usageField });

  /** What an event adds to a choice. */
  const pieces = (item: ManyEvent): { index: number; text: string; logprobs: CompletionLogprobs }[] => {
    const { event, plan } = item;
    if (event.type === "promptLogprobs" && options.echo) {
      const logprobs = promptLogprobs(tokenizer, prompts[plan]!, event.tokens);
      return indices(plan, n).map((index) => ({ index, text: "", logprobs }));
    }
    if (event.type !== "content") return [];
    const logprobs = emptyCompletionLogprobs();
    const start = echoedPoints[plan] ?? 0;
    for (const record of event.records ?? []) {
      addCompletionLogprob(tokenizer, logprobs, record.token, record, start + record.offset);
    }
    return [{ index: plan * n + event.choice, text: event.text, logprobs }];
  };

  return {
    opening: () =>
      echoed
        .map((text, p) =>
          indices(p, n)
            .map((i) => chunk(i, text, null, null))
            .join(""),
        )
        .join(""),
    chunk: (item) => {
      const { event, plan } = item;
      if (event.type === "finish") return chunk(plan * n + event.choice, "", null, event.reason);
      return pieces(item)
        .map(({ index, text, logprobs }) => chunk(index, text, options.logprobs ? logprobs : null, null))
        .join("");
    },
    closing: (summary) =>
      options.includeUsage ? sseEvent({ ...head, choices: [], usage: usageOf(summary) }) : "",
    collect: (item) => {
      const { event, plan } = item;
      if (event.type === "finish") {
        const choice = choices[plan * n + event.choice]!;
        choice.finish = event.reason;
        choice.cause = event.cause;
      }
      for (const { index, text, logprobs } of pieces(item)) {
        choices[index]!.text += text;
        append(choices[index]!.logprobs, logprobs);
      }
    },
    body: (summary) => ({
      ...head,
      choices: choices.map(({ text, logprobs, finish }, index) => ({
        index,
        text: (echoed[Math.floor(index / n)] ?? "") + text,
        logprobs: options.logprobs ? logprobs : null,
        finish_reason: finish,
      })),
      usage: usageOf(summary),
      ...options.debug?.(
        summary,
        choices.map(({ cause }) => cause),
      ),
    }),
  };
}

function indices(plan: number, n: number): number[] {
  return Array.from({ length: n }, (_, choice) => plan * n + choice);
}

function append(into: CompletionLogprobs, more: CompletionLogprobs): void {
  into.tokens.push(...more.tokens);
  into.token_logprobs.push(...more.token_logprobs);
  into.top_logprobs.push(...more.top_logprobs);
  into.text_offset.push(...more.text_offset);
}

type PromptTokens = Extract<ManyEvent["event"], { type: "promptLogprobs" }>["tokens"];

/** Entry i of `tokens` belongs to prompt token i + 1; the first token has none. */
function promptLogprobs(
  tokenizer: Tokenizer,
  prompt: CompletionPrompt,
  tokens: PromptTokens,
): CompletionLogprobs {
  const logprobs = emptyCompletionLogprobs();
  const decoder = tokenizer.streamDecoder({ special: true, continuation: false });
  let offset = 0;
  prompt.tokens.forEach((token, i) => {
    addCompletionLogprob(tokenizer, logprobs, token, i === 0 ? undefined : tokens[i - 1], offset);
    if (i >= prompt.added) offset += codePoints(decoder.push(token));
  });
  return logprobs;
}
