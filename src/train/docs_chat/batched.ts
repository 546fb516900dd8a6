/** Several sequences at once through a served model, greedily or to see what it gave the tokens that stand there. */
import { freeCachePool, makeCachePool, pageSize } from "../../models/cache.ts";
import type { CachePool, Model, Step } from "../../models/model.ts";
import type { Device } from "../../runtime/device.ts";
import { argmax, gatherRows, logSumExp } from "../../runtime/functions.ts";
import { makeTensor } from "../../runtime/tensor.ts";

/** Tokens of one sequence that stand from position `from` on. */
type Chunk = { readonly slot: number; readonly from: number; readonly tokens: readonly number[] };

/** Caches of `slots` sequences of at most `length` tokens each. */
export class SequenceBatch implements Disposable {
  readonly #device: Device;
  readonly #model: Model;
  readonly #pools: readonly CachePool[];
  readonly #pages: number;

  constructor(device: Device, model: Model, slots: number, length: number) {
    this.#device = device;
    this.#model = model;
    this.#pages = Math.ceil(length / pageSize);
    this.#pools = model.cacheGroups.map((group) => makeCachePool(device, group, "f32", slots * this.#pages));
  }

  /** In the caller's scope. `rows`: those of the batch whose logits are wanted, ascending. */
  #step(chunks: readonly Chunk[], rows: readonly number[]): Step {
    const ints = (values: readonly number[], ...shape: number[]) =>
      this.#device.fromHost("i32", shape.length > 0 ? shape : [values.length], Int32Array.from(values));
    const pages = chunks.flatMap(({ slot }) =>
      Array.from({ length: this.#pages }, (_, i) => slot * this.#pages + i),
    );
    return {
      tokens: ints(chunks.flatMap(({ tokens }) => tokens)),
      positions: ints(chunks.flatMap(({ from, tokens }) => tokens.map((_, i) => from + i))),
      sequences: ints(chunks.flatMap(({ tokens }, s) => tokens.map(() => s))),
      pageTables: this.#pools.map(() => ints(pages, chunks.length, this.#pages)),
      pools: this.#pools,
      outputRows: ints(rows),
    };
  }

  /** The likeliest token after each chunk. */
  next(chunks: readonly Chunk[]): Int32Array {
    using _scope = this.#device.scope();
    let end = -1;
    const rows = chunks.map(({ tokens }) => {
      end += tokens.length;
      return end;
    });
    const best = argmax(this.#model.forward(this.#step(chunks, rows)));
    return new Int32Array(this.#device.download(best).slice().buffer);
  }

  /** The sum over the targets of chunks that begin at position 0 of -ln p, in nats; row i of a chunk has target i, below 0: none. */
  nats(
    sequences: readonly { readonly tokens: readonly number[]; readonly targets: readonly number[] }[],
  ): number {
    using _scope = this.#device.scope();
    const targets = sequences.flatMap((s) => s.targets);
    const rows = targets.flatMap((target, row) => (target >= 0 ? [row] : []));
    if (rows.length === 0) return 0;
    const chunks = sequences.map(({ tokens }, slot) => ({ slot, from: 0, tokens }));
    const logits = this.#model.forward(this.#step(chunks, rows));
    const [count, width] = logits.shape as [number, number];
    const totals = this.#device.downloadF32(logSumExp(logits)).slice();
    const single = makeTensor(this.#device, logits.kind, logits.address, {
      ...{ dtype: logits.dtype, shape: [count * width, 1] },
    });
    const places = Int32Array.from(rows, (row, i) => i * width + targets[row]!);
    const chosen = this.#device.downloadF32(
      gatherRows(single, this.#device.fromHost("i32", [count], places)),
    );
    return totals.reduce((sum, total, i) => sum + (total - chosen[i]!), 0);
  }

  [Symbol.dispose](): void {
    for (const pool of this.#pools) freeCachePool(this.#device, pool);
  }
}

/** Greedy tokens after each prompt up to a stop or the limit, the stop left out; `slots` of them at a time. */
export function greedy(
  device: Device,
  model: Model,
  prompts: readonly (readonly number[])[],
  options: { readonly stops: ReadonlySet<number>; readonly most: number; readonly slots: number },
  onDone: (done: number) => void = () => {},
): number[][] {
  const { stops, most, slots } = options;
  const longest = Math.max(...prompts.map((p) => p.length)) + most;
  using batch = new SequenceBatch(device, model, Math.min(slots, prompts.length), longest);
  const answers: number[][] = prompts.map(() => []);
  for (let first = 0; first < prompts.length; first += slots) {
    let open = prompts
      .slice(first, first + slots)
      .map((tokens, slot) => ({ slot, from: 0, tokens, answer: answers[first + slot]! }));
    while (open.length > 0) {
      const next = batch.next(open);
      open = open.flatMap(({ slot, from, tokens, answer }, i) => {
        const token = next[i]!;
        if (stops.has(token)) return [];
        answer.push(token);
        if (answer.length >= most) return [];
        return [{ slot, from: from + tokens.length, tokens: [token], answer }];
      });
    }
    onDone(Math.min(prompts.length, first + slots));
  }
  return answers;
}
