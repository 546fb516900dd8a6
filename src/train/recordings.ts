import type { HostBatch } from "../data/batches.ts";
import type { Device } from "../runtime/device.ts";
import type { Tensor } from "../runtime/tensor.ts";
import type { Batch } from "./model.ts";

let made = 0;

/** What tells microbatches apart that do not compute the same. */
export const sizeOf = ({ sequences, length, first }: HostBatch): string =>
  `${sequences}x${length}${first ? " documents" : ""}`;

/**
 * What a trainer does again and again as recordings of the device: the first time it runs, the second it is recorded, later
 * the recording is launched. What changes between them, the batches, lies at places that stay; so do host data that the
 * model asks for, by their array.
 */
export class Recordings implements Disposable {
  readonly #device: Device;
  readonly #name = `training ${++made}`;
  readonly #batches = new Map<string, Batch>();
  readonly #constants = new Map<ArrayBufferView, Tensor>();
  readonly #keys = new Set<string>();

  constructor(device: Device) {
    this.#device = device;
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

  /** Runs `body`; calls with one key must do the same, with the batches at their places. */
  run(key: string, body: () => void): void {
    const own = `${this.#name} ${key}`;
    this.#keys.add(own);
    this.#device.backend.replay(own, body);
  }

  /** A batch at the place of the `index`-th of its size. */
  place(index: number, host: HostBatch): Batch {
    const key = `${index} ${sizeOf(host)}`;
    let found = this.#batches.get(key);
    if (!found) {
      const place = (): Tensor => this.#device.empty("i32", [host.sequences * host.length]);
      const { sequences, length } = host;
      const first = host.first && { first: place() };
      found = { sequences, length, tokens: place(), targets: place(), positions: place(), ...first };
      this.#batches.set(key, found);
    }
    this.#device.upload(found.tokens, host.tokens);
    this.#device.upload(found.targets, host.targets);
    this.#device.upload(found.positions, host.positions);
    if (found.first) this.#device.upload(found.first, host.first!);
    return found;
  }

  [Symbol.dispose](): void {
    for (const key of this.#keys) this.#device.backend.forget(key);
    for (const { tokens, targets, positions, first } of this.#batches.values()) {
      for (const t of [tokens, targets, positions, first]) if (t) this.#device.free(t);
    }
    for (const t of this.#constants.values()) this.#device.free(t);
  }
}
