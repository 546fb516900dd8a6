import type { Live } from "../run.ts";
import type { TracedStep } from "../trainer.ts";

type Stream = { readonly isTTY?: boolean; readonly columns?: number; write(text: string): unknown };

const barWidth = 20;
const plainLineMs = 5000;

/** Progress of a run on stderr: a bar that is drawn again on a terminal, otherwise a line now and then and at the end. */
export class TrainingBar {
  readonly #stream: Stream;
  readonly #now: () => number;
  #lastAt = Number.NEGATIVE_INFINITY;
  #drawn = false;

  constructor(stream: Stream = process.stderr, now: () => number = () => performance.now()) {
    this.#stream = stream;
    this.#now = now;
  }

  step(record: TracedStep, live: Live): void {
    const terminal = this.#stream.isTTY === true;
    const last = record.step >= live.lastStep;
    if (!terminal && !last && this.#now() - this.#lastAt < plainLineMs) return;
    this.#lastAt = this.#now();
    const text = progressText(record, live);
    if (!terminal) {
      this.#stream.write(`${text}\n`);
      return;
    }
    const full = Math.round((barWidth * record.step) / Math.max(live.lastStep, 1));
    const bar = `[${"#".repeat(full)}${".".repeat(barWidth - full)}] `;
    this.#stream.write(`\r${(bar + text).slice(0, (this.#stream.columns ?? 80) - 1)}\u001b[K`);
    this.#drawn = true;
  }

  /** Writes a line of its own above the bar. */
  line(text: string): void {
    this.end();
    this.#stream.write(`${text}\n`);
  }

  /** Takes the bar away. */
  end(): void {
    if (this.#drawn) this.#stream.write("\r\u001b[K");
    this.#drawn = false;
  }
}

/** `36.1 %`, or that nobody measured this machine's peak. */
export const shareText = (mfu: number | null): string =>
  mfu === null ? "not measured" : `${(100 * mfu).toFixed(1)} %`;

/** `step 5/16  loss 8.212  412 tokens/s  MFU 36.1 %  ETA 14 s` */
export function progressText({ step, loss }: TracedStep, live: Live): string {
  const left = Math.ceil(live.remainingMs / 1000);
  const eta = left < 120 ? `${left} s` : `${Math.ceil(left / 60)} min`;
  return `step ${step}/${live.lastStep}  loss ${loss.toFixed(3)}  ${Math.round(live.tokensPerSecond)} tokens/s  MFU ${shareText(live.mfu)}  ETA ${eta}`;
}
