import { allocateHost, type HostMemory } from "../backends/index.ts";
import { type DType, rowBytes } from "../core/dtype.ts";
import type { Shape } from "../core/shape.ts";
import type { StoredTensor } from "./weights.ts";

/** Values that a file stores in another order or type than the kernels take; `make` gives them in ours. */
export type Converted = { readonly dtype: DType; readonly shape: Shape; make(): Uint8Array };

/** Makes converted tensors in host memory when their address is asked for, and owns that memory. */
export class ConvertedTensors {
  /** False where nothing will be computed: no memory is filled, addresses are 0. */
  readonly #wanted: boolean;
  readonly #made = new Set<HostMemory>();

  constructor(wanted: boolean) {
    this.#wanted = wanted;
  }

  tensor(name: string, converted: Converted): StoredTensor {
    const { dtype, shape } = converted;
    const bytes = shape.slice(0, -1).reduce((a, b) => a * b, 1) * rowBytes(dtype, shape.at(-1) ?? 1);
    let memory: HostMemory | undefined;
    return {
      ...{ name, dtype, shape, bytes, mapped: false },
      address: () => {
        if (!this.#wanted) return 0;
        memory ??= this.#place(converted.make());
        return memory.address;
      },
      place: undefined,
      read: () => (this.#wanted ? converted.make() : new Uint8Array(bytes)),
      drop: () => {
        if (memory) this.#release(memory);
        memory = undefined;
      },
    };
  }

  close(): void {
    for (const memory of [...this.#made]) this.#release(memory);
  }

  #place(data: Uint8Array): HostMemory {
    const memory = allocateHost(data);
    this.#made.add(memory);
    return memory;
  }

  #release(memory: HostMemory): void {
    if (this.#made.delete(memory)) memory.free();
  }
}
