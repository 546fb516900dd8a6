import type { Document } from "../../data/corpora/document.ts";
import type { Device } from "../../runtime/device.ts";
import {
  type AnswerScore,
  answersTo,
  drawn,
  openForScores,
  scoreAnswers,
  scoreText,
  type TextScore,
} from "./score.ts";

/** Scores of one model file; null where there was nothing to measure on. */
export type ModelScore = {
  readonly text: TextScore | null;
  readonly answers: AnswerScore | null;
  /** The answer to `Why does HTTPS matter?` */
  readonly https: string;
};

export type ScoreOptions = {
  /** Documents that were learnt from, about which is asked. */
  readonly corpus: readonly Document[];
  /** Documents that were not. */
  readonly validation: readonly Document[];
  readonly context: number;
  readonly questions: number;
  readonly seed: number;
  readonly onDone?: (label: string, done: number, total: number) => void;
};

export function scoreModel(device: Device, path: string, options: ScoreOptions): ModelScore {
  const { corpus, validation, context, questions, seed, onDone } = options;
  const { model, tokenizer } = openForScores(device, path);
  const opened = { device, model, tokenizer };
  try {
    const [https = ""] = answersTo(opened, ["Why does HTTPS matter?"]);
    const asked = corpus.length > 0 && questions > 0 ? drawn(corpus, "PEP", questions, seed) : [];
    const answers =
      asked.length > 0
        ? scoreAnswers(opened, asked, (done) => onDone?.("questions", done, asked.length))
        : null;
    const text =
      validation.length > 0
        ? scoreText(opened, validation, context, (done) =>
            onDone?.("held-out documents", done, validation.length),
          )
        : null;
    return { text, answers, https };
  } finally {
    model.free();
  }
}
