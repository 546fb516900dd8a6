/** train.log: lines as the challenge's script prints them. */
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import type { Score } from "./score.ts";

export const trainLogName = "train.log";

export class TrainLog {
  readonly #path: string;

  constructor(root: string) {
    this.#path = join(root, trainLogName);
  }

  line(text: string): void {
    appendFileSync(this.#path, `${text}\n`);
  }

  step(step: number, of: number, loss: number, trainingMs: number): void {
    const average = (trainingMs / Math.max(step, 1)).toFixed(2);
    this.line(
      `step:${step}/${of} train_loss:${loss.toFixed(4)} train_time:${Math.round(trainingMs)}ms step_avg:${average}ms`,
    );
  }

  validation(step: number, of: number, { mean_loss, bits_per_byte }: Score, trainingMs: number): void {
    this.line(
      `step:${step}/${of} val_loss:${mean_loss.toFixed(4)} val_bpb:${bits_per_byte.toFixed(4)} train_time:${Math.round(trainingMs)}ms`,
    );
  }

  roundTrip(compression: string, { mean_loss, bits_per_byte }: Score, evalMs: number): void {
    this.line(
      `final_int8_${compression}_roundtrip val_loss:${mean_loss.toFixed(4)} val_bpb:${bits_per_byte.toFixed(4)} eval_time:${Math.round(evalMs)}ms`,
    );
    this.line(
      `final_int8_${compression}_roundtrip_exact val_loss:${mean_loss.toFixed(8)} val_bpb:${bits_per_byte.toFixed(8)}`,
    );
  }
}
