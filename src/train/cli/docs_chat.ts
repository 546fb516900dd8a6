import { join, resolve } from "node:path";
import { openDevice } from "../../backends/index.ts";
import { type ErrorCode, PsionicError, unexpected } from "../../core/error.ts";
import { type Document, readDocuments } from "../../data/corpora/document.ts";
import { defaultModelPath } from "../../models/default_model.ts";
import { command, decimalNumber, ExitError, list, UsageError, wholeNumber } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { readableBytes, readableCount } from "../../terminal/table.ts";
import { docsChatModels } from "../docs_chat/model.ts";
import { type DocsChatRun, type DocsChatWatcher, modelFile, trainDocsChat } from "../docs_chat/run.ts";
import { type ModelScore, scoreModel } from "../docs_chat/score_model.ts";
import { checkedDocsChat, type DocsChatSettings, docsChatDefaults } from "../docs_chat/settings.ts";
import { asFileFailure, writeJson } from "../durable.ts";
import { type TrainingBackend, trainingBackends } from "../plan.ts";
import { TrainingBar } from "./bar.ts";
import type { Given } from "./shown.ts";

/** Exit codes by what went wrong, those of `psionic train`. */
const exitCodes: Partial<Readonly<Record<ErrorCode, number>>> = {
  ...{ not_finite: 3, digest_mismatch: 4, file_malformed: 4, disk_full: 7, locked: 8 },
};

const value = (hint: string, description: string) =>
  ({ type: "string", valueHint: hint, description }) as const;

const text = (given: Given, name: string): string | undefined => {
  const found = given[name];
  return typeof found === "string" ? found : undefined;
};

/** Settings of a run by the names of their options, with the reader of each. */
const wholeSettings = [
  ...(["seed", "sequences", "length", "epochs", "rounds", "max_steps"] as const),
  ...(["time_budget_seconds", "warmup_steps", "checkpoint_steps"] as const),
];
const decimalSettings = ["learning_rate", "weight_decay", "fall_share", "finish_share"] as const;
const option = (setting: string): string => setting.replaceAll("_", "-");

const scoring = ["validation", "context", "questions", "question-seed"];

export const docsChat = command({
  meta: {
    name: "train docs-chat",
    description:
      "Train a small GPT-OSS chat model on documents and on questions about them, write it as GGUF, and score it",
  },
  args: {
    action: {
      ...{ type: "positional", required: false, valueHint: "ACTION" },
      description: "start (where nothing is named; goes on where the folder has a checkpoint), or score",
    },
    corpus: value(
      "FILE",
      "Documents to learn from, *.jsonl or *.jsonl.zst, with titles; score: those asked about",
    ),
    validation: value("FILE", "Documents that were not learnt from, for bits per byte"),
    out: value("FOLDER", `start: what is written: ${modelFile}, tokenizer.json, report.json, checkpoints`),
    gguf: value("FILE", "score: the model; default the built-in one"),
    model: {
      type: "enum",
      options: list(...Object.keys(docsChatModels)),
      description: "start: the shape; default docs_oss_13m",
    },
    epochs: value("N", `Times that the documents are read; default ${docsChatDefaults.epochs}`),
    rounds: value(
      "N",
      `Times that everything is asked about in each of them; default ${docsChatDefaults.rounds}`,
    ),
    "max-steps": value("N", "Steps in the place of epochs"),
    "time-budget-seconds": value(
      "SECONDS",
      `What steps may take: the rate comes down to 0 by then; 0: no limit; default ${docsChatDefaults.time_budget_seconds}`,
    ),
    sequences: value("N", `Sequences of a step; default ${docsChatDefaults.sequences}`),
    length: value("TOKENS", `Tokens of a sequence; default ${docsChatDefaults.length}`),
    "learning-rate": value("RATE", `Learning rate of AdamW; default ${docsChatDefaults.learning_rate}`),
    "weight-decay": value("DECAY", `Weight decay; default ${docsChatDefaults.weight_decay}`),
    "warmup-steps": value("N", `Steps over which the rate rises; default ${docsChatDefaults.warmup_steps}`),
    "fall-share": value(
      "SHARE",
      `Last share of the way over which the rate falls; default ${docsChatDefaults.fall_share}`,
    ),
    "finish-share": value(
      "SHARE",
      `Last share of the way on weights as the file holds them; default ${docsChatDefaults.finish_share}`,
    ),
    precision: {
      type: "enum",
      options: list("f32", "bf16"),
      description: "Type of the matrices in a step; default bf16",
    },
    "checkpoint-steps": value("N", `Steps between checkpoints; default ${docsChatDefaults.checkpoint_steps}`),
    seed: value("N", "Seed of initial values and of the order of data"),
    context: value("TOKENS", "Tokens of a window of held-out text; default 1024"),
    questions: value("N", "Questions `What is PEP n?` that are asked; default 200"),
    "question-seed": value("N", "Which of them; default 1"),
    backend: {
      type: "enum",
      options: list(...trainingBackends),
      description: "Where to compute; default cpu",
    },
    threads: value("N", "Threads of the CPU; 0: one per core"),
    json: { type: "boolean", description: "Write one JSON document to stdout" },
  },
  examples: [
    "psionic train docs-chat --corpus corpus-train.jsonl.zst --validation corpus-val.jsonl.zst --out docs-chat --backend cuda",
    "psionic train docs-chat score --corpus corpus-train.jsonl.zst --validation corpus-val.jsonl.zst --gguf docs-chat/model.gguf",
  ],
  async run({ args }) {
    const given = args as Given;
    const action = text(given, "action") ?? "start";
    const act = actions[action];
    if (!act) throw new UsageError(`expected ${Object.keys(actions).join(" or ")}, got ${action}`);
    for (const name of Object.keys(docsChat.args)) {
      if (name === "action" || given[name] === undefined || act.options.includes(name)) continue;
      throw new UsageError(`--${name} means nothing to ${action}`);
    }
    try {
      await act.run(given);
    } catch (cause) {
      const error = asFileFailure(cause, "train docs-chat");
      const code = error instanceof PsionicError ? exitCodes[error.code] : undefined;
      if (error instanceof PsionicError && code !== undefined) throw new ExitError(code, error);
      throw error;
    }
  },
});

type Action = { readonly options: readonly string[]; run(given: Given): Promise<void> };

const everywhere = ["corpus", "backend", "threads", "json", ...scoring];

const actions: Readonly<Record<string, Action>> = {
  start: {
    options: [
      ...everywhere,
      "out",
      "model",
      "precision",
      ...[...wholeSettings, ...decimalSettings].map(option),
    ],
    run: start,
  },
  score: { options: [...everywhere, "gguf"], run: score },
};

function required(given: Given, name: string): string {
  const found = text(given, name);
  if (found === undefined) throw new UsageError(`missing --${name}`);
  return resolve(found);
}

const backendOf = (given: Given): TrainingBackend => (given.backend as TrainingBackend | undefined) ?? "cpu";
const threadsOf = (given: Given): number => wholeNumber(text(given, "threads"), "--threads", 0, 1024) ?? 0;

function settingsOf(given: Given): DocsChatSettings {
  const asked: Record<string, number | string> = {};
  for (const name of wholeSettings) {
    const n = wholeNumber(text(given, option(name)), `--${option(name)}`, 0);
    if (n !== undefined) asked[name] = n;
  }
  for (const name of decimalSettings) {
    const n = decimalNumber(text(given, option(name)), `--${option(name)}`, 0, 1e30);
    if (n !== undefined) asked[name] = n;
  }
  for (const name of ["model", "precision"]) if (given[name] !== undefined) asked[name] = String(given[name]);
  return checkedDocsChat({ ...docsChatDefaults, ...asked } as DocsChatSettings);
}

type Scoring = {
  readonly validation: string | undefined;
  readonly context: number;
  readonly questions: number;
  readonly questionSeed: number;
};

function scoringOf(given: Given): Scoring {
  const validation = text(given, "validation");
  return {
    validation: validation === undefined ? undefined : resolve(validation),
    context: wholeNumber(text(given, "context"), "--context", 2, 4096) ?? 1024,
    questions: wholeNumber(text(given, "questions"), "--questions", 0, 10000) ?? 200,
    questionSeed: wholeNumber(text(given, "question-seed"), "--question-seed", 0) ?? 1,
  };
}

async function start(given: Given): Promise<void> {
  const begun = performance.now();
  const run: DocsChatRun = {
    corpus: required(given, "corpus"),
    out: required(given, "out"),
    settings: settingsOf(given),
    backend: backendOf(given),
    threads: threadsOf(given),
  };
  // what will be read at the end is better missed now
  const scoring = scoringOf(given);
  const validation = await documentsOf(scoring.validation);
  const result = await heard((watcher) => trainDocsChat(run, watcher));
  if (!result.complete) {
    const again = "the same command goes on from there";
    throw new PsionicError(
      "cancelled",
      `[train docs-chat] ended by a signal after step ${result.steps}; ${again}`,
    );
  }
  const scored = await scoresOf(given, result.path, scoring, validation);
  const total_seconds = (performance.now() - begun) / 1000;
  const report = {
    schema_version: "psionic.docs_chat_report.v1",
    settings: run.settings,
    ...{ backend: run.backend, ...result, scores: scored, total_seconds },
  };
  writeJson(join(run.out, "report.json"), report);
  if (given.json === true) return printJson(report);
  await print(
    [
      `model=${result.path}`,
      `steps=${result.steps}`,
      `tokens_per_second=${result.tokens_per_second === null ? "not measured" : Math.round(result.tokens_per_second)}`,
      `last_loss=${result.last_loss?.toFixed(4) ?? "none"}`,
      `train_seconds=${result.train_seconds.toFixed(1)}`,
      `total_seconds=${total_seconds.toFixed(1)}`,
      ...scoreLines(scored),
    ].join("\n"),
  );
}

async function score(given: Given): Promise<void> {
  const scoring = scoringOf(given);
  const validation = await documentsOf(scoring.validation);
  const path = text(given, "gguf") === undefined ? defaultModelPath() : required(given, "gguf");
  if (text(given, "corpus") === undefined && validation.length === 0)
    throw new UsageError("score takes --corpus, --validation, or both");
  const scored = await scoresOf(given, path, scoring, validation);
  if (given.json === true) return printJson(scored);
  await print([`model=${path}`, ...scoreLines(scored)].join("\n"));
}

async function documentsOf(path: string | undefined): Promise<Document[]> {
  const documents: Document[] = [];
  if (path === undefined) return documents;
  for await (const document of readDocuments(path)) documents.push(document);
  if (documents.length === 0) throw unexpected("invalid_request", path, "documents", "none");
  return documents;
}

async function scoresOf(
  given: Given,
  path: string,
  { context, questions, questionSeed }: Scoring,
  validation: readonly Document[],
): Promise<ModelScore> {
  const corpus = await documentsOf(text(given, "corpus"));
  const backend = backendOf(given);
  const device = backend === "cpu" ? openDevice("cpu", { threads: threadsOf(given) }) : openDevice(backend);
  const progress = new Progress({ format: String });
  try {
    return scoreModel(device, path, {
      ...{ corpus, validation, context, questions, seed: questionSeed },
      onDone: (label, done, total) => progress.update(label, done, total),
    });
  } finally {
    progress.end();
    device.close();
  }
}

function scoreLines({ text: t, answers, https }: ModelScore): string[] {
  return [
    ...(t ? [`bits_per_byte=${t.bits_per_byte.toFixed(4)}`, `validation_bytes=${t.bytes}`] : []),
    ...(answers
      ? [`questions=${answers.questions}`, `right=${answers.right}`, `share=${answers.share.toFixed(3)}`]
      : []),
    `why_does_https_matter=${https}`,
  ];
}

/** Shows a bar meanwhile; the first signal ends a run after its step, with a checkpoint, a second one the process. */
async function heard<T>(go: (watcher: DocsChatWatcher) => Promise<T>): Promise<T> {
  const bar = new TrainingBar();
  const progress = new Progress({ format: String });
  let stop: NodeJS.Signals | undefined;
  const hear = (signal: NodeJS.Signals): void => {
    if (stop !== undefined) process.exit(130);
    stop = signal;
    bar.line(`${signal}: ending after this step, with a checkpoint`);
  };
  process.on("SIGINT", hear).on("SIGTERM", hear);
  try {
    return await go({
      line: (line) => bar.line(line),
      merges: (done, total) => progress.update("vocabulary", done, total),
      plan: (p) => {
        progress.end();
        const sizes = `${readableBytes(p.stateBytes)} of state, ${readableBytes(p.stepBytes)} for a step`;
        bar.line(`${readableCount(p.parameters)} parameters, ${sizes}`);
      },
      step: (record, live) => bar.step(record, live),
      stopping: () => stop !== undefined,
    });
  } finally {
    bar.end();
    process.off("SIGINT", hear).off("SIGTERM", hear);
  }
}
