import type { GraphFunctions } from "../step_graphs.ts";

/** A call of the library, ready to be made again. */
type Call = { readonly symbol: string; readonly args: readonly number[] };

/**
 * Recordings of a backend whose calls return when they are done: lists of calls with their numbers. Making them again
 * costs a microsecond each where checking shapes and finding places costs ten, which threads that wait would feel.
 */
export class CallLists implements GraphFunctions {
  readonly #call: (symbol: string, args: readonly number[]) => void;
  readonly #lists = new Map<number, readonly Call[]>();
  #recording: Call[] | undefined;
  #last = 0;

  constructor(call: (symbol: string, args: readonly number[]) => void) {
    this.#call = call;
  }

  /** Makes a call, or while recording notes it. */
  call(symbol: string, args: readonly number[]): void {
    if (this.#recording) this.#recording.push({ symbol, args });
    else this.#call(symbol, args);
  }

  begin(): void {
    this.#recording = [];
  }

  end(): number {
    this.#lists.set(++this.#last, this.#recording ?? []);
    this.#recording = undefined;
    return this.#last;
  }

  launch(list: number): void {
    for (const { symbol, args } of this.#lists.get(list)!) this.#call(symbol, args);
  }

  free(list: number): void {
    this.#lists.delete(list);
  }
}
