import { unexpected } from "../core/error.ts";

/** How a backend records; recordings go by a number. */
export type GraphFunctions = {
  begin(): void;
  /** What was recorded since `begin`; none of it ran. */
  end(): number;
  launch(graph: number): void;
  free(graph: number): void;
};

/** Recorded steps by key. While one is being recorded nothing may be allocated, or copied from or to the host. */
export class StepGraphs {
  readonly #functions: GraphFunctions;
  /** `undefined`: ran once, to be recorded the next time. */
  readonly #graphs = new Map<string, number | undefined>();
  #recording: string | undefined;
  #lastOp = "the start";

  constructor(functions: GraphFunctions) {
    this.#functions = functions;
  }

  /** The first call under a key runs the step, the second records and launches it, later ones launch the recording. */
  replay(key: string, step: () => void): void {
    if (!this.#graphs.has(key)) {
      step();
      this.#graphs.set(key, undefined);
      return;
    }
    let graph = this.#graphs.get(key);
    if (graph === undefined) {
      graph = this.#record(key, step);
      this.#graphs.set(key, graph);
    }
    this.#functions.launch(graph);
  }

  forget(key: string): void {
    const graph = this.#graphs.get(key);
    this.#graphs.delete(key);
    if (graph !== undefined) this.#functions.free(graph);
  }

  forgetAll(): void {
    for (const key of [...this.#graphs.keys()]) this.forget(key);
  }

  /** Tells which op is called, for the texts of `refuse`. */
  called(op: string): void {
    if (this.#recording !== undefined) this.#lastOp = op;
  }

  /** Throws when a step is being recorded, with what was tried and the op it came after. */
  refuse(what: string): void {
    if (this.#recording === undefined) return;
    const expected = `no ${what} while ${this.#recording} is recorded`;
    throw unexpected("invalid_argument", "replay", expected, `one after ${this.#lastOp}`);
  }

  #record(key: string, step: () => void): number {
    if (this.#recording !== undefined) {
      throw unexpected(
        "invalid_argument",
        "replay",
        "one recording at a time",
        `${key} in ${this.#recording}`,
      );
    }
    this.#functions.begin();
    this.#recording = key;
    this.#lastOp = "the start";
    let done = false;
    try {
      step();
      done = true;
    } finally {
      this.#recording = undefined;
      if (!done) this.#abandon();
    }
    return this.#functions.end();
  }

  /** Ends a recording whose step failed; the step's failure is the one to report. */
  #abandon(): void {
    try {
      this.#functions.free(this.#functions.end());
    } catch {
      // a failed call may have spoilt the recording, which ends it as well
    }
  }
}
