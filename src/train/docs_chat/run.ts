/** The recipe from a corpus to a chat model in a folder: tokenizer, stream, steps with a finish on the file's formats, GGUF, scores. */
import { appendFileSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { measureTensorCores, openDevice } from "../../backends/index.ts";
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { canonicalJson } from "../../core/json.ts";
import type { Windows } from "../../data/batches.ts";
import type { Document } from "../../data/corpora/document.ts";
import { readDocuments } from "../../data/corpora/document.ts";
import { fileDigest } from "../../data/corpora/manifest.ts";
import { loadCheckpoint, type RunIdentity, removeOldCheckpoints, saveCheckpoint } from "../checkpoint.ts";
import { writeJson } from "../durable.ts";
import { gptOss } from "../models/gpt_oss.ts";
import { adamWGroups } from "../optimizer/config.ts";
import { checkMemory, type MemoryPlan, planMemory, type TrainingBackend } from "../plan.ts";
import { keepLines, keepSteps, type Live } from "../run.ts";
import { lockRun } from "../run_root.ts";
import { type StepRecord, Trainer, type TrainerConfig } from "../trainer.ts";
import { valuesOf, writeModel } from "./export.ts";
import { docsChatModels, formatOf } from "./model.ts";
import type { DocsChatSettings } from "./settings.ts";
import { type Stream, streamOf } from "./stream.ts";
import { learnTokenizer, type TrainedTokenizer } from "./tokenizer.ts";

export type DocsChatRun = {
  readonly corpus: string;
  readonly out: string;
  readonly settings: DocsChatSettings;
  readonly backend: TrainingBackend;
  readonly threads: number;
};

/** What a run tells whoever watches it. */
export type DocsChatWatcher = {
  line?(text: string): void;
  /** Of the vocabulary. */
  merges?(done: number, total: number): void;
  plan?(plan: MemoryPlan): void;
  step?(record: StepRecord, live: Live): void;
  /** Asked between steps; a run that is to stop writes a checkpoint first. */
  stopping?(): boolean;
};

export type DocsChatResult = {
  readonly path: string;
  readonly steps: number;
  /** Whether all of the way was gone, not ended by a signal. */
  readonly complete: boolean;
  /** Of all steps of the run, whatever processes made them, as the losses and seconds; null where there are none. */
  readonly tokens_per_second: number | null;
  readonly first_loss: number | null;
  readonly last_loss: number | null;
  /** Mean loss of the rows of held-out windows, in nats, at checkpoints; null where none were held out. */
  readonly held_out: readonly HeldOutLine[];
  readonly train_seconds: number;
  readonly document_tokens: number;
  readonly conversation_tokens: number;
};

/** File of a run's model. */
export const modelFile = "model.gguf";

/** Lines of a run's steps, and of its losses on held-out windows, which a run that goes on adds to. */
const figureFiles = { steps: "steps.jsonl", heldOut: "held_out.jsonl" } as const;

type StepLine = {
  readonly step: number;
  readonly loss: number;
  readonly tokens: number;
  readonly duration_ms: number;
};
type HeldOutLine = { readonly step: number; readonly loss: number };

/** Every how many documents one is left out of training, for the losses that are shown on the way. */
const heldOutEvery = 64;
const heldOutWindows = 96;
/** Times that windows are cut from the documents at other places before those come again. */
const passes = 4;

type Material = {
  readonly tokenizer: TrainedTokenizer;
  readonly stream: Stream;
  readonly heldOut: Windows | undefined;
  readonly documents: readonly Document[];
  readonly corpusDigest: string;
};

/** Trains, or goes on from the last checkpoint in the folder, and writes the model. */
export async function trainDocsChat(
  run: DocsChatRun,
  watcher: DocsChatWatcher = {},
): Promise<DocsChatResult> {
  mkdirSync(run.out, { recursive: true });
  using _lock = lockRun(run.out);
  const material = await prepare(run, watcher);
  const config = trainerConfig(run.settings, material.stream);
  const model = gptOss({
    ...docsChatModels[run.settings.model],
    vocabularySize: material.tokenizer.tokenizer.vocabularySize,
  });
  const { windows } = material.stream;
  const plan = planMemory({ model, train: windows, config }, run.backend);
  watcher.plan?.(plan);
  const device =
    run.backend === "cpu" ? openDevice("cpu", { threads: run.threads }) : openDevice(run.backend);
  try {
    checkMemory(plan, device.backend.memory?.().free);
    using trainer = new Trainer(device, model, windows, config);
    return await steps(run, watcher, trainer, material);
  } finally {
    device.close();
  }
}

async function prepare(run: DocsChatRun, watcher: DocsChatWatcher): Promise<Material> {
  const { settings: s } = run;
  const documents: Document[] = [];
  for await (const document of readDocuments(run.corpus)) documents.push(document);
  if (documents.length === 0)
    throw unexpected("invalid_request", run.corpus, "a corpus with documents", "none");
  const size = docsChatModels[s.model].vocabularySize;
  const tokenizer = learnTokenizer(documents, size, (done) => watcher.merges?.(done, size));
  if (tokenizer.tokenizer.vocabularySize !== size)
    throw unexpected(
      "invalid_request",
      run.corpus,
      `text for ${size} tokens`,
      `for ${tokenizer.tokenizer.vocabularySize}`,
    );
  writeJson(join(run.out, "tokenizer.json"), tokenizer.json);
  const few = documents.length < 2 * heldOutEvery;
  const isHeldOut = (i: number): boolean => !few && i % heldOutEvery === heldOutEvery - 1;
  const options = { seed: s.seed, length: s.length, passes, rounds: s.rounds };
  const kept = documents.filter((_, i) => !isHeldOut(i));
  const stream = streamOf(kept, tokenizer.tokenizer, options, documents);
  const rest = documents.filter((_, i) => isHeldOut(i));
  const heldOut = rest.length > 0 ? heldOutOf(rest, tokenizer, s) : undefined;
  const { documentTokens, conversationTokens, proposals } = stream;
  watcher.line?.(
    `${kept.length} documents of ${documentTokens} tokens, ${proposals.length} things to ask about, ${conversationTokens} tokens of conversations`,
  );
  return { tokenizer, stream, heldOut, documents, corpusDigest: await fileDigest(run.corpus) };
}

function heldOutOf(
  documents: readonly Document[],
  { tokenizer }: TrainedTokenizer,
  s: DocsChatSettings,
): Windows | undefined {
  const { windows } = streamOf(
    documents,
    tokenizer,
    { seed: s.seed, length: s.length, passes: 1, rounds: 0 },
    [],
  );
  return windows.starts.length === 0
    ? undefined
    : { ...windows, starts: windows.starts.slice(0, heldOutWindows) };
}

/** Steps that the epochs take. */
export function stepsOf(s: DocsChatSettings, { windows }: Stream): number {
  if (s.max_steps > 0) return s.max_steps;
  return Math.max(1, Math.ceil((s.epochs * windows.starts.length) / passes / s.sequences));
}

function trainerConfig(s: DocsChatSettings, stream: Stream): TrainerConfig {
  return {
    ...{ seed: s.seed, sequences: s.sequences, accumulation: 1, learningRate: s.learning_rate },
    schedule: {
      kind: "rise_and_fall",
      total_steps: stepsOf(s, stream),
      budget_ms: 1000 * s.time_budget_seconds,
      warmup_steps: s.warmup_steps,
      fall_share: s.fall_share,
    },
    groups: adamWGroups(s.weight_decay),
    ...{ clip: 1, precision: s.precision, recompute: false },
    rounding: { from: 1 - s.finish_share, formatOf },
  };
}

function identityOf(run: DocsChatRun, { corpusDigest }: Material): RunIdentity {
  const { checkpoint_steps: _often, ...step } = run.settings;
  return {
    ...{
      model_id: `gpt-oss ${run.settings.model}`,
      dataset_identity: "docs_chat",
      dataset_digest: corpusDigest,
    },
    settings_digest: sha256(canonicalJson({ ...step, backend: run.backend })),
  };
}

/** Folder of the newest checkpoint. */
function lastCheckpoint(folder: string): string | undefined {
  const steps = existsSync(folder)
    ? readdirSync(folder).flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? [])
    : [];
  const last = steps.map(Number).sort((a, b) => b - a)[0];
  return last === undefined ? undefined : join(folder, `step-${last}`);
}

async function steps(
  run: DocsChatRun,
  watcher: DocsChatWatcher,
  trainer: Trainer,
  material: Material,
): Promise<DocsChatResult> {
  const { settings: s } = run;
  const last = stepsOf(s, material.stream);
  const identity = identityOf(run, material);
  const checkpoints = join(run.out, "checkpoints");
  const from = lastCheckpoint(checkpoints);
  if (from !== undefined) loadCheckpoint(trainer, from, identity);
  const begun = trainer.completedSteps;
  const peak = peakFlops(run);
  const figures = { steps: join(run.out, figureFiles.steps), heldOut: join(run.out, figureFiles.heldOut) };
  const lines = keepSteps<StepLine>(figures.steps, begun, (line) => line.step);
  const held = keepLines<HeldOutLine>(figures.heldOut, (line) => line.step <= begun);
  let busyMs = lines.reduce((sum, line) => sum + line.duration_ms, 0);
  let tokens = lines.reduce((sum, line) => sum + line.tokens, 0);
  let stopped = false;
  const evaluate = (): void => {
    if (material.heldOut === undefined || held.at(-1)?.step === trainer.completedSteps) return;
    const measured = { step: trainer.completedSteps, loss: trainer.evaluate(material.heldOut) };
    held.push(measured);
    appendFileSync(figures.heldOut, `${JSON.stringify(measured)}\n`);
    watcher.line?.(`step ${measured.step}: held-out loss ${measured.loss.toFixed(4)}`);
  };
  while (trainer.completedSteps < last && !trainer.timeIsUp) {
    // signals are heard between steps
    await new Promise((done) => setImmediate(done));
    if (watcher.stopping?.()) {
      stopped = true;
      break;
    }
    const record = trainer.step();
    const { step, loss, durationMs } = record;
    lines.push({ step, loss, tokens: record.tokens, duration_ms: durationMs });
    appendFileSync(figures.steps, `${JSON.stringify(lines.at(-1))}\n`);
    busyMs += durationMs;
    tokens += record.tokens;
    watcher.step?.(record, live(trainer, s, last, tokens, busyMs, peak));
    const due = s.checkpoint_steps > 0 && record.step % s.checkpoint_steps === 0;
    if (due && record.step < last && !trainer.timeIsUp) {
      saveCheckpoint(trainer, checkpoints, identity);
      removeOldCheckpoints(checkpoints, 2, [record.step]);
      evaluate();
    }
  }
  if (trainer.completedSteps > begun) {
    saveCheckpoint(trainer, checkpoints, identity);
    removeOldCheckpoints(checkpoints, 2, [trainer.completedSteps]);
  }
  evaluate();
  const path = resolve(run.out, modelFile);
  if (!stopped) exportModel(run, trainer, material, path);
  return {
    ...{
      path,
      steps: trainer.completedSteps,
      complete: !stopped,
      first_loss: lines[0]?.loss ?? null,
      last_loss: lines.at(-1)?.loss ?? null,
      held_out: held,
    },
    tokens_per_second: busyMs > 0 ? (1000 * tokens) / busyMs : null,
    train_seconds: busyMs / 1000,
    document_tokens: material.stream.documentTokens,
    conversation_tokens: material.stream.conversationTokens,
  };
}

function exportModel(run: DocsChatRun, trainer: Trainer, { tokenizer }: Material, path: string): void {
  const shape = docsChatModels[run.settings.model];
  writeModel(path, shape, tokenizer, trainer.model.parameters, valuesOf(trainer.parameters));
}

/** What tensor cores do in a second; null where nothing of the kind is measured. */
function peakFlops({ backend, settings }: DocsChatRun): number | null {
  return backend === "cuda" && settings.precision === "bf16" ? measureTensorCores() * 1e12 : null;
}

function live(
  trainer: Trainer,
  s: DocsChatSettings,
  lastStep: number,
  tokens: number,
  busyMs: number,
  peak: number | null,
): Live {
  const tokensPerSecond = busyMs > 0 ? (1000 * tokens) / busyMs : 0;
  const left = (lastStep - trainer.completedSteps) * trainer.tokensPerStep;
  const bySteps = tokensPerSecond > 0 ? (1000 * left) / tokensPerSecond : 0;
  const budget = 1000 * s.time_budget_seconds - (trainer.elapsedMs ?? 0);
  return {
    ...{ lastStep, tokensPerSecond },
    mfu: peak === null ? null : (trainer.model.flopsPerToken(s.length) * tokensPerSecond) / peak,
    remainingMs: s.time_budget_seconds > 0 ? Math.min(bySteps, Math.max(0, budget)) : bySteps,
  };
}
