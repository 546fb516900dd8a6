/** What a push let through; `matched` is the stop string that ended the text. */
export type StopResult = { readonly text: string; readonly matched?: string };

/** Finds stop strings in text that comes in pieces, holding back what could be the beginning of one. */
export class StopStrings {
  private readonly stops: readonly string[];
  private readonly longest: number;
  private held = "";

  constructor(stops: readonly string[]) {
    this.stops = stops.filter((stop) => stop !== "");
    this.longest = Math.max(0, ...this.stops.map((stop) => stop.length));
  }

  push(text: string): StopResult {
    if (this.longest === 0) return { text };
    const buffer = this.held + text;
    let at = -1;
    let matched = "";
    for (const stop of this.stops) {
      const found = buffer.indexOf(stop);
      if (found >= 0 && (at < 0 || found < at)) {
        at = found;
        matched = stop;
      }
    }
    if (at >= 0) {
      this.held = "";
      return { text: buffer.slice(0, at), matched };
    }
    const keep = this.pending(buffer);
    this.held = buffer.slice(buffer.length - keep);
    return { text: buffer.slice(0, buffer.length - keep) };
  }

  /** What was held back; the text is over, so it cannot become a stop string any more. */
  flush(): string {
    const rest = this.held;
    this.held = "";
    return rest;
  }

  /** Length of the longest end of `buffer` that begins a stop string. */
  private pending(buffer: string): number {
    for (let length = Math.min(buffer.length, this.longest - 1); length > 0; length--) {
      const end = buffer.slice(buffer.length - length);
      if (this.stops.some((stop) => stop.length > length && stop.startsWith(end))) return length;
    }
    return 0;
  }
}
