import type { HostBatch } from "../data/batches.ts";
import type { Device } from "../runtime/device.ts";
import { rowsOf, type Tensor } from "../runtime/tensor.ts";
import { mix } from "../runtime/training.ts";
import type { Batch } from "./model.ts";

/** What a microbatch gives: its share of the mean loss [1], and of what is added to it. */
export type PassLosses = { readonly mean: Tensor; readonly extra?: Tensor };

let made = 0;

/**
 * Forward and backward pass of microbatches of one size as one recording of the device: the first pass runs, the second is
 * recorded, later ones are launched. What changes between them, the batch, lies at places that stay; so do host data that
 * the model asks for, by their array, and the losses.
 */
export class RecordedPass implements Disposable {
  readonly #device: Device;
  readonly #key = `training pass ${++made}`;
  readonly #inputs = new Map<string, Batch>();
  readonly #constants = new Map<ArrayBufferView, Tensor>();
  readonly #losses: Tensor;
  readonly #keys = new Map<string, boolean>();

  constructor(device: Device) {
    this.#device = device;
    this.#losses = device.empty("f32", [2]);
  }

  /** A copy of host data that stays. */
  constant(dtype: "f32" | "i32", shape: readonly number[], data: Float32Array | Int32Array): Tensor {
    const found = this.#constants.get(data);
    if (found) return found;
    const tensor = this.#device.empty(dtype, shape);
    this.#device.upload(tensor, data);
    this.#constants.set(data, tensor);
    return tensor;
  }

  /** Losses of `body` on a batch, its own share and the extra one; calls with equal sizes and `scale` do the same. */
  run(host: HostBatch, scale: number, body: (batch: Batch) => PassLosses): { loss: number; extra?: number } {
    const size = `${host.sequences}x${host.length}${host.first ? " documents" : ""}`;
    const batch = this.#batch(size, host);
    const key = `${this.#key} ${size} ${scale}`;
    this.#device.backend.replay(key, () => {
      using _scope = this.#device.scope();
      const { mean, extra } = body(batch);
      this.#keys.set(key, extra !== undefined);
      for (const [i, t] of [mean, extra].entries()) {
        if (t) mix(t, undefined, 1, 0, undefined, undefined, rowsOf(this.#losses, i, 1));
      }
    });
    const [loss, extra] = this.#device.downloadF32(this.#losses) as unknown as readonly [number, number];
    return this.#keys.get(key) ? { loss, extra } : { loss };
  }

  #batch(size: string, host: HostBatch): Batch {
    let found = this.#inputs.get(size);
    if (!found) {
      const place = (): Tensor => this.#device.empty("i32", [host.sequences * host.length]);
      const { sequences, length } = host;
      const first = host.first && { first: place() };
      found = { sequences, length, tokens: place(), targets: place(), positions: place(), ...first };
      this.#inputs.set(size, found);
    }
    this.#device.upload(found.tokens, host.tokens);
    this.#device.upload(found.targets, host.targets);
    this.#device.upload(found.positions, host.positions);
    if (found.first) this.#device.upload(found.first, host.first!);
    return found;
  }

  [Symbol.dispose](): void {
    for (const key of this.#keys.keys()) this.#device.backend.forget(key);
    for (const { tokens, targets, positions, first } of this.#inputs.values()) {
      for (const t of [tokens, targets, positions, first]) if (t) this.#device.free(t);
    }
    for (const t of this.#constants.values()) this.#device.free(t);
    this.#device.free(this.#losses);
  }
}
