import { readableBytes } from "./table.ts";

export type ProgressOptions = {
  readonly stream?: { readonly isTTY?: boolean; readonly columns?: number; write(text: string): unknown };
  /** Milliseconds. */
  readonly now?: () => number;
  readonly format?: (amount: number) => string;
};

const redrawMs = 100;
const plainLineMs = 5000;
const barWidth = 24;

/**
 * Progress of long work on stderr: a bar with rate and time left on a terminal, otherwise a plain line every five
 * seconds. Work that ends sooner than the first line writes nothing to a file.
 */
export class Progress {
  private readonly stream: NonNullable<ProgressOptions["stream"]>;
  private readonly now: () => number;
  private readonly format: (amount: number) => string;
  private label = "";
  private startedAt = 0;
  /** What was done before: it says nothing about the rate. */
  private startedDone = 0;
  private lastAt = 0;
  private drawn = false;

  constructor(options: ProgressOptions = {}) {
    this.stream = options.stream ?? process.stderr;
    this.now = options.now ?? (() => performance.now());
    this.format = options.format ?? readableBytes;
  }

  update(label: string, done: number, total: number): void {
    const now = this.now();
    if (label !== this.label) {
      this.label = label;
      this.startedAt = now;
      this.startedDone = done;
      this.lastAt = now;
      return;
    }
    if (now - this.lastAt < (this.stream.isTTY ? redrawMs : plainLineMs)) return;
    this.lastAt = now;
    this.stream.write(
      this.stream.isTTY ? this.barLine(done, total, now) : `${this.text(done, total, now)}\n`,
    );
    this.drawn = this.stream.isTTY === true;
  }

  /** Takes the bar away. */
  end(): void {
    if (this.drawn) this.stream.write("\r\u001b[K");
    this.drawn = false;
  }

  private barLine(done: number, total: number, now: number): string {
    const full = Math.round((barWidth * done) / Math.max(total, 1));
    const bar = "#".repeat(full) + ".".repeat(barWidth - full);
    const line = `[${bar}] ${this.text(done, total, now)}`;
    return `\r${line.slice(0, (this.stream.columns ?? 80) - 1)}\u001b[K`;
  }

  private text(done: number, total: number, now: number): string {
    const seconds = (now - this.startedAt) / 1000;
    const rate = seconds > 0 ? Math.max(0, done - this.startedDone) / seconds : 0;
    const percent = Math.floor((100 * done) / Math.max(total, 1));
    const left = rate > 0 ? `, ${Math.ceil((total - done) / rate)} s left` : "";
    return `${this.label} ${percent} % of ${this.format(total)}, ${this.format(Math.round(rate))}/s${left}`;
  }
}
