import { unexpected } from "../../core/error.ts";
import type { Device } from "../../runtime/device.ts";
import { argmax, logSumExp, topK } from "../../runtime/functions.ts";
import { rowsOf, type Tensor, tensorBytes } from "../../runtime/tensor.ts";
import type { Batch, ChosenToken, Logits, StartedStep } from "./batch.ts";
import type { ChosenTokens } from "./device_choice.ts";
import type { Ranked } from "./select.ts";

/** What a step leaves on the device. */
export type StepResults = {
  /** [R, V]; undefined where no row's are wanted. */
  readonly logits: Tensor | undefined;
  /** i32 [R], the likeliest token of each where the step computed them already; the chosen one where `logprobs` are there. */
  readonly ids?: Tensor | undefined;
  /** f32 [R], of the tokens that the step chose. */
  readonly logprobs?: Tensor | undefined;
  /** [H, D] */
  readonly hidden?: Tensor;
  /** One for each of the batch's choices. */
  readonly chosen?: ChosenTokens | undefined;
};

/** Results of a step; only what is asked for is copied. */
export class DeviceLogits implements Logits {
  readonly rows: number;
  private readonly device: Device;
  private readonly results: StepResults;
  /** Place among the choices of each row that has one. */
  private readonly places: ReadonlyMap<number, number>;
  private tokens: Int32Array | undefined;
  private logprobs: Float32Array | undefined;

  constructor(device: Device, results: StepResults, choices: Batch["choices"] = []) {
    this.device = device;
    this.results = results;
    this.rows = results.logits?.shape[0] ?? 0;
    this.places = new Map(choices.map(({ row }, i) => [row, i]));
  }

  private get logits(): Tensor {
    return present(this.results.logits, "logits");
  }

  hidden(): Float32Array {
    return this.device.downloadF32(present(this.results.hidden, "hidden states"));
  }

  argmax(): Int32Array {
    const { ids, logprobs } = this.results;
    return this.device.downloadI32(ids && !logprobs ? ids : argmax(this.logits));
  }

  topK(k: number): readonly Ranked[] {
    const top = topK(this.logits, k);
    return rankings(this.device.downloadI32(top.ids), this.device.downloadF32(top.values), k);
  }

  logSumExp(): Float32Array {
    return this.device.downloadF32(logSumExp(this.logits));
  }

  copy(row: number): Float32Array {
    return this.device.downloadF32(rowsOf(this.logits, row, 1));
  }

  chosen(row: number): ChosenToken | undefined {
    const place = this.places.get(row);
    if (place === undefined) return undefined;
    const { ids, logprobs } = present(this.results.chosen, "chosen tokens");
    this.tokens ??= this.device.downloadI32(ids);
    if (logprobs) this.logprobs ??= this.device.downloadF32(logprobs);
    return { token: this.tokens[place]!, logprob: this.logprobs?.[place] ?? Number.NaN };
  }
}

/**
 * Results of a step that the device was given, on their way to the host while the device goes on: tokens, and where
 * they were asked for log-probabilities of the chosen and the likeliest ones.
 */
export class FetchedResults implements StartedStep {
  private readonly rows: number;
  private readonly ids: () => Int32Array;
  private readonly logprobs: (() => Float32Array) | undefined;
  private readonly sums: (() => Float32Array) | undefined;
  private readonly ranked: (() => readonly Ranked[]) | undefined;

  /** One choice for each row of the logits, in their order. */
  constructor(fetch: Fetch, logits: Tensor, { ids, logprobs }: ChosenTokens, ranks: number) {
    this.rows = logits.shape[0]!;
    this.ids = once(fetched(fetch, ids, Int32Array));
    // log-probabilities are read with the sums or not at all
    if (ranks === 0) return;
    this.logprobs = logprobs && once(fetched(fetch, logprobs, Float32Array));
    this.sums = once(fetched(fetch, logSumExp(logits), Float32Array));
    const top = topK(logits, ranks);
    const [topIds, values] = [fetched(fetch, top.ids, Int32Array), fetched(fetch, top.values, Float32Array)];
    this.ranked = once(() => rankings(topIds(), values(), ranks));
  }

  results(): Logits {
    const { rows, ids, logprobs, sums, ranked } = this;
    const absent = (what: string) => () => present<never>(undefined, what);
    ids();
    return {
      rows,
      argmax: absent("rows to search"),
      topK: ranked ?? absent("rankings"),
      logSumExp: sums ?? absent("sums"),
      copy: absent("rows"),
      hidden: absent("hidden states"),
      chosen: (row) => ({ token: ids()[row]!, logprob: logprobs?.()[row] ?? Number.NaN }),
    };
  }
}

/** Copies device memory in order, to be waited for later. */
export type Fetch = (address: number, bytes: number) => () => Uint8Array;

function fetched<T>(fetch: Fetch, tensor: Tensor, View: new (buffer: ArrayBufferLike) => T): () => T {
  const arrive = fetch(tensor.address, tensorBytes(tensor));
  return () => new View(arrive().buffer);
}

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => {
    made ??= make();
    return made;
  };
}

/** Rows of `k` entries. */
function rankings(ids: Int32Array, values: Float32Array, k: number): readonly Ranked[] {
  return Array.from({ length: ids.length / k }, (_, r) => ({
    ids: ids.subarray(r * k, (r + 1) * k),
    values: values.subarray(r * k, (r + 1) * k),
  }));
}

function present<T>(result: T | undefined, what: string): T {
  if (result !== undefined) return result;
  throw unexpected("internal", "step", `${what} among what was asked for`, "none");
}
