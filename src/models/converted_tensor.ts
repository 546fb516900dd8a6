import { type DType, rowBytes } from "../core/dtype.ts";
import type { Shape } from "../core/shape.ts";
import type { Device } from "../runtime/device.ts";
import type { StoredTensor } from "./weights.ts";

/** Values that a file stores in another order or type than the kernels take; `make` gives them in ours. */
export type Converted = { readonly dtype: DType; readonly shape: Shape; make(): Uint8Array };

/** Makes converted tensors when their address is asked for, in device memory, and owns that memory. */
export class ConvertedTensors {
  readonly #device: Device;
  /** False where nothing will be computed: no memory is filled, addresses are 0. */
  readonly #wanted: boolean;
  readonly #made = new Map<number, number>();

  constructor(device: Device, wanted: boolean) {
    this.#device = device;
    this.#wanted = wanted;
  }

  tensor(name: string, converted: Converted): StoredTensor {
    const { dtype, shape } = converted;
    const bytes = shape.slice(0, -1).reduce((a, b) => a * b, 1) * rowBytes(dtype, shape.at(-1) ?? 1);
    let address = 0;
    return {
      ...{ name, dtype, shape, bytes, mapped: false },
      address: () => {
        if (this.#wanted && address === 0) address = this.#place(converted.make());
        return address;
      },
      place: undefined,
      read: () => (this.#wanted ? converted.make() : new Uint8Array(bytes)),
      drop: () => {
        if (address !== 0) this.#release(address);
        address = 0;
      },
    };
  }

  close(): void {
    for (const address of [...this.#made.keys()]) this.#release(address);
  }

  #place(data: Uint8Array): number {
    const size = Math.max(64, data.length);
    const address = this.#device.backend.allocate(size);
    this.#made.set(address, size);
    this.#device.backend.write(address, data);
    return address;
  }

  #release(address: number): void {
    const size = this.#made.get(address);
    if (size === undefined) return;
    this.#made.delete(address);
    this.#device.backend.release(address, size);
  }
}
