import { createInterface } from "node:readline";
import { PsionicError } from "../../core/error.ts";
import type { ChatMessage } from "../../models/chat/index.ts";
import { readStdin } from "../../models/cli/input.ts";
import { command, decimalNumber, UsageError, wholeNumber } from "../../terminal/command.ts";
import { colours, messages, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { visible } from "../../terminal/visible.ts";
import { type GenerationSummary, generate } from "../generation.ts";
import type { ServedModel } from "../http/options.ts";
import type { SamplingParams } from "../protocol.ts";
import { openServedModel } from "../served_model.ts";
import { engineArgs, engineOptions } from "./engine_options.ts";

const efforts = ["low", "medium", "high"] as const;

export const run = command({
  meta: {
    name: "run",
    description: "Chats with a model in the terminal. With -p, or with text on stdin, answers once and ends.",
  },
  args: {
    ...engineArgs,
    prompt: { type: "string", alias: "p", valueHint: "TEXT", description: "Answer this and end" },
    system: {
      type: "string",
      valueHint: "TEXT",
      description: "Instructions that stand before the conversation",
    },
    "max-tokens": {
      type: "string",
      alias: "n",
      valueHint: "N",
      description: "Longest answer; absent: to the end of the context",
    },
    temperature: {
      type: "string",
      valueHint: "X",
      description: "Absent or 0: the likeliest token every time",
    },
    "top-k": { type: "string", valueHint: "N", description: "Sample from the N likeliest tokens" },
    "top-p": {
      type: "string",
      valueHint: "X",
      description: "Sample from the likeliest tokens of this total probability",
    },
    "min-p": {
      type: "string",
      valueHint: "X",
      description: "Drop tokens below this part of the likeliest one's probability",
    },
    seed: { type: "string", valueHint: "N", description: "Seed of the sampler" },
    "reasoning-budget": {
      type: "string",
      // What serve answers with where a request names no effort.
      default: "0",
      valueHint: "N",
      description: "Reasoning effort: 0 low, 1 medium, 2 or more high",
    },
    reasoning: { type: "boolean", description: "Show the model's reasoning, on stderr" },
    json: { type: "boolean", description: "Print the one answer as JSON; with -p or stdin" },
  },
  examples: [
    "psionic run",
    "psionic run -p 'Why does HTTPS matter?'",
    "psionic run -m model.gguf --temperature 0.7 < question.txt",
  ],
  async run({ args }) {
    process.on("SIGINT", exitInterrupted);
    const budget = wholeNumber(args["reasoning-budget"], "--reasoning-budget", 0, 255)!;
    const maxTokens = wholeNumber(args["max-tokens"], "--max-tokens", 1);
    const sampling = samplingParams(args);
    const prompt = args.prompt ?? (process.stdin.isTTY ? undefined : await readStdin("-p TEXT"));
    if (prompt?.trim() === "") throw new UsageError("expected a prompt, got an empty one");
    if (prompt === undefined && args.json) throw new UsageError("--json needs -p or text on stdin");
    const progress = new Progress();
    const model = await openServedModel({ ...engineOptions(args), slots: 1 }, ({ stage, done, total }) =>
      progress.update(stage, done, total),
    ).finally(() => progress.end());
    for (const note of model.engine.info.notes ?? []) messages.info(note);
    const chat: Conversation = {
      ...{ model, sampling, maxTokens },
      effort: efforts[Math.min(budget, 2)]!,
      history: args.system === undefined ? [] : [{ role: "system", content: args.system }],
      showReasoning: args.reasoning ?? false,
    };
    process.off("SIGINT", exitInterrupted);
    try {
      if (prompt !== undefined) await answerOnce(chat, prompt, args.json ?? false);
      else await converse(chat);
    } finally {
      await model.engine.close(true);
    }
  },
});

/** Ctrl-C before there is an answer to stop. */
function exitInterrupted(): never {
  process.exit(130);
}

type Conversation = {
  readonly model: ServedModel;
  readonly sampling: SamplingParams;
  readonly maxTokens: number | undefined;
  readonly effort: (typeof efforts)[number];
  readonly history: ChatMessage[];
  readonly showReasoning: boolean;
};

type Answer = {
  readonly content: string;
  readonly reasoning: string;
  readonly finish: string;
  readonly summary: GenerationSummary | undefined;
};

function samplingParams(args: Readonly<Record<string, unknown>>): SamplingParams {
  const text = (name: string) => args[name] as string | undefined;
  const temperature = decimalNumber(text("temperature"), "--temperature", 0, 100);
  const topK = wholeNumber(text("top-k"), "--top-k", 0);
  const topP = decimalNumber(text("top-p"), "--top-p", 0, 1);
  const minP = decimalNumber(text("min-p"), "--min-p", 0, 1);
  const seed = wholeNumber(text("seed"), "--seed", 0);
  return {
    ...(temperature === undefined ? {} : { temperature }),
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
    ...(minP === undefined ? {} : { minP }),
    ...(seed === undefined ? {} : { seed }),
  };
}

async function answerOnce(chat: Conversation, prompt: string, json: boolean): Promise<void> {
  const abort = new AbortController();
  process.once("SIGINT", () => {
    abort.abort();
    process.once("SIGINT", exitInterrupted);
  });
  const answer = await ask(
    chat,
    prompt,
    abort.signal,
    json ? () => {} : (text) => process.stdout.write(text),
  );
  if (abort.signal.aborted) throw new PsionicError("cancelled", "stopped by Ctrl-C");
  if (json) {
    const { content, reasoning, finish, summary } = answer;
    await printJson({ content, ...(reasoning ? { reasoning } : {}), finish_reason: finish, ...summary });
    return;
  }
  process.stdout.write("\n");
  if (answer.summary) messages.info(speedLine(answer.summary));
}

/** Lines of a person until end of input. Ctrl-C stops an answer; where none runs, it ends the program. */
async function converse(chat: Conversation): Promise<void> {
  const { info } = chat.model.engine;
  messages.info(`${visible(info.model.name)}, context ${info.contextLength}. /new starts over, Ctrl-D ends.`);
  const lines = createInterface({ input: process.stdin, output: process.stderr, prompt: "> " });
  let abort: AbortController | undefined;
  lines.on("SIGINT", () => {
    if (!abort) exitInterrupted();
    abort.abort();
  });
  const first = chat.history.length;
  lines.prompt();
  for await (const line of lines) {
    if (line.trim() === "/new") chat.history.length = first;
    else if (line.trim() !== "") {
      abort = new AbortController();
      try {
        await ask(chat, line, abort.signal, (text) => process.stdout.write(text));
        process.stdout.write("\n");
      } catch (error) {
        // A full context or a bad request ends the turn, not the conversation.
        messages.error(error instanceof Error ? error.message : String(error));
        if (!(error instanceof PsionicError) || chat.model.engine.failure) throw error;
      }
      abort = undefined;
    }
    lines.prompt();
  }
}

/** One turn. The history grows by both sides of it, unless it fails. */
async function ask(
  { model, sampling, maxTokens, effort, history, showReasoning }: Conversation,
  prompt: string,
  signal: AbortSignal,
  write: (text: string) => unknown,
): Promise<Answer> {
  const { chat, tokenizer, engine } = model;
  const turn: ChatMessage[] = [...history, { role: "user", content: prompt }];
  const options = { reasoningEffort: effort };
  const request = {
    prompt: chat.prompt(turn, options),
    sampling,
    stopTokens: [...tokenizer.stopTokens, ...chat.stopTokens],
    choices: 1,
    ...(maxTokens === undefined ? {} : { maxTokens }),
  };
  const grey = colours(process.stderr)
    ? (text: string) => `\u001b[90m${text}\u001b[39m`
    : (text: string) => text;
  let content = "";
  let reasoning = "";
  let finish = "stop";
  let summary: GenerationSummary | undefined;
  const plan = { request, stops: [], parser: () => chat.parser(options, request.prompt) };
  for await (const event of generate(engine, plan, { signal })) {
    if (event.type === "content") {
      content += event.text;
      write(event.text);
    } else if (event.type === "reasoning") {
      reasoning += event.text;
      if (showReasoning) process.stderr.write(grey(event.text));
    } else if (event.type === "finish") finish = event.reason;
    else if (event.type === "end") summary = event.summary;
  }
  history.push({ role: "user", content: prompt }, { role: "assistant", content });
  return { content, reasoning, finish, summary };
}

function speedLine({ promptTokens, completionTokens, prefillMs, decodeMs }: GenerationSummary): string {
  const rate = (tokens: number, ms: number | undefined) =>
    ms ? `${Math.round((1000 * tokens) / ms)} tokens/s` : "-";
  return `${promptTokens} prompt tokens (${rate(promptTokens, prefillMs)}), ${completionTokens} tokens (${rate(completionTokens, decodeMs)})`;
}
