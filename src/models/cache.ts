import { rowBytes } from "../core/dtype.ts";
import { unexpected } from "../core/error.ts";
import { elementCount } from "../core/shape.ts";
import type { Device } from "../runtime/device.ts";
import { makeTensor, type Tensor } from "../runtime/tensor.ts";
import {
  type CacheGroup,
  type CachePool,
  type CacheType,
  cacheTypes,
  type RecurrentShape,
  type StatePool,
  type StepStates,
} from "./model.ts";

/** Positions of a page: two tiles of the key layout; small enough that a resumed chat re-reads little. */
export const pageSize = 32;

/** Bytes of one page of one layer, keys or values (ffi/psionic.h, "Paged cache"). */
export function pageBytes(group: CacheGroup, cacheType: CacheType): number {
  return rowBytes(cacheType, group.headDim) * group.kvHeads * pageSize;
}

/** Bytes of a page over all layers of its group, keys and values. */
export function groupPageBytes(group: CacheGroup, cacheType: CacheType): number {
  return 2 * group.layers.length * pageBytes(group, cacheType);
}

/**
 * Allocates `pageCount` pages for every layer of a group; free with `freeCachePool`. Throws `unsupported` for a type that the
 * device's kernels do not have.
 */
export function makeCachePool(
  device: Device,
  group: CacheGroup,
  cacheType: CacheType,
  pageCount: number,
): CachePool {
  if (cacheType === "fp8" && device.name.startsWith("metal")) {
    const others = cacheTypes.filter((type) => type !== "fp8").join(", ");
    throw unexpected("unsupported", "cache", `a cache type of Metal (${others})`, cacheType);
  }
  const shape = [pageCount, group.kvHeads * pageSize, group.headDim];
  const places = Array.from({ length: 2 * group.layers.length }, (_, place) => place);
  const bytes = pageCount * pageBytes(group, cacheType);
  let memory: readonly Tensor[];
  let parts: readonly Tensor[];
  if (device.backend.rows) {
    const all = device.empty(cacheType, [places.length, ...shape]);
    memory = [all];
    parts = places.map((place) =>
      makeTensor(device, "state", all.address + place * bytes, { dtype: cacheType, shape }),
    );
  } else {
    memory = places.map(() => device.empty(cacheType, shape));
    parts = memory;
  }
  const keys = parts.filter((_, place) => place % 2 === 0);
  const values = parts.filter((_, place) => place % 2 === 1);
  return { group, cacheType, pageSize, pageCount, memory, keys, values };
}

export function freeCachePool(device: Device, { memory }: CachePool): void {
  for (const t of memory) device.free(t);
}

/** Bytes of one sequence's state over all recurrent layers. */
export function stateBytes({ layers, convolution, memory }: RecurrentShape): number {
  return 4 * layers.length * (elementCount(convolution) + elementCount(memory));
}

/** Allocates states for `slotCount` sequences; free with `freeStatePool`. */
export function makeStatePool(device: Device, shape: RecurrentShape, slotCount: number): StatePool {
  const layers = shape.layers.length;
  const rows = slotCount * layers;
  const perLayer = (one: readonly number[]): Tensor[] => {
    const all = device.empty("f32", [rows, ...one]);
    return shape.layers.map((_, l) => {
      const address = all.address + 4 * l * elementCount(one);
      return l === 0
        ? all
        : makeTensor(device, "state", address, { dtype: "f32", shape: [rows - l, ...one] });
    });
  };
  const [convolutions, memories] = [perLayer(shape.convolution), perLayer(shape.memory)];
  return { shape, slotCount, convolutions, memories };
}

export function freeStatePool(device: Device, { convolutions, memories }: StatePool): void {
  for (const t of [convolutions[0]!, memories[0]!]) device.free(t);
}

/** Row at which kernels find a slot's state. */
export function stateRow(pool: StatePool, slot: number): number {
  return slot * pool.shape.layers.length;
}

/** Copies the state of one slot to another, in the order of the device's calls. */
export function copyState(device: Device, pool: StatePool, from: number, to: number): void {
  const { layers, convolution, memory } = pool.shape;
  for (const [tensors, one] of [
    [pool.convolutions, convolution],
    [pool.memories, memory],
  ] as const) {
    const bytes = 4 * layers.length * elementCount(one);
    const { address } = tensors[0]!;
    device.backend.copy(address + to * bytes, address + from * bytes, bytes);
  }
}

/** The same of one layer, by its place among the recurrent ones. */
export function copyLayerState(
  device: Device,
  pool: StatePool,
  place: number,
  from: number,
  to: number,
): void {
  const { convolution, memory } = pool.shape;
  for (const [tensors, one] of [
    [pool.convolutions, convolution],
    [pool.memories, memory],
  ] as const) {
    const bytes = 4 * elementCount(one);
    const { address } = tensors[place]!;
    device.backend.copy(address + stateRow(pool, to) * bytes, address + stateRow(pool, from) * bytes, bytes);
  }
}

/** A step's states, for sequences that have these slots; the table is a temporary of the innermost scope. */
export function stepStates(
  device: Device,
  pool: StatePool,
  sequences: Tensor,
  slots: ArrayLike<number>,
  keeps: StepStates["keeps"] = [],
): StepStates {
  const rows = Int32Array.from(slots, (slot) => stateRow(pool, slot));
  return { pool, sequences, rows: device.fromHost("i32", [rows.length], rows), keeps };
}
