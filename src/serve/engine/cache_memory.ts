import { elementCount } from "../../core/shape.ts";
import { pageBytes, stateBytes } from "../../models/cache.ts";
import type { CachePool, StatePool } from "../../models/model.ts";
import type { Device, RowCopies } from "../../runtime/device.ts";

/** The bytes of pages and states, for those who keep them elsewhere. */
export interface CacheMemory {
  /** per cache group: bytes of a page over all its layers */
  readonly pageBytes: readonly number[];
  /** Bytes of a recurrent state; 0: the model has none. */
  readonly stateBytes: number;
  /** A copy of a page: keys and values of each layer in turn. */
  readPage(group: number, page: number): Uint8Array;
  writePage(group: number, page: number, bytes: Uint8Array): void;
  /** A copy of `length` bytes of a state from `from` on. */
  readState(slot: number, from: number, length: number): Uint8Array;
  writeState(slot: number, from: number, bytes: Uint8Array): void;
  /** Host memory from which copies to the device need nobody; absent: `writePage` and `writeState` are as good. */
  readonly pinned?: PinnedCopies;
}

/** Copies from pinned host memory, in the order of steps: begun here, waited for by what they return. */
export interface PinnedCopies {
  /** Address of such memory. */
  allocate(bytes: number): number;
  release(address: number): void;
  sendPage(group: number, page: number, source: number): Sent;
  /** A whole state. */
  sendState(slot: number, source: number): Sent;
}

/** Waits until a copy has been made: before that its source stays as it is. */
export type Sent = () => void;

/** The memory of a model's caches on its device. */
export function cacheMemory(
  device: Device,
  pools: readonly CachePool[],
  states: StatePool | undefined,
): CacheMemory {
  const { backend } = device;
  const sizes = pools.map(({ group, cacheType }) => pageBytes(group, cacheType));
  /** Of page 0, keys and values of each layer in turn. */
  const places = pools.map(({ keys, values }) => keys.flatMap((key, l) => [key.address, values[l]!.address]));
  /** A page as rows, where all lie in one tensor. */
  const rowsOf = (group: number, page: number) => {
    const { pageCount, keys } = pools[group]!;
    const size = sizes[group]!;
    const address = places[group]![0]! + page * size;
    return { address, stride: pageCount * size, size, rows: 2 * keys.length };
  };
  const { rows: copies } = backend;
  return {
    pageBytes: pools.map(({ keys }, g) => 2 * keys.length * sizes[g]!),
    stateBytes: states ? stateBytes(states.shape) : 0,
    ...(copies && { pinned: pinnedCopies(copies, rowsOf, states) }),
    readPage(group, page) {
      if (copies) {
        const { address, stride, size, rows } = rowsOf(group, page);
        return copies.receive(address, stride, size, rows);
      }
      const size = sizes[group]!;
      const bytes = new Uint8Array(size * places[group]!.length);
      places[group]!.forEach((address, i) => {
        bytes.set(backend.read(address + page * size, size), i * size);
      });
      return bytes;
    },
    writePage(group, page, bytes) {
      const size = sizes[group]!;
      places[group]!.forEach((address, i) => {
        backend.write(address + page * size, bytes.subarray(i * size, (i + 1) * size));
      });
    },
    readState(slot, from, length) {
      const pieces = statePieces(states!, slot, from, length);
      const [only] = pieces;
      if (only && pieces.length === 1) return backend.read(only.address, only.size);
      const bytes = new Uint8Array(length);
      for (const { address, at, size } of pieces) bytes.set(backend.read(address, size), at);
      return bytes;
    },
    writeState(slot, from, bytes) {
      for (const { address, at, size } of statePieces(states!, slot, from, bytes.length))
        backend.write(address, bytes.subarray(at, at + size));
    },
  };
}

type PageRows = {
  readonly address: number;
  readonly stride: number;
  readonly size: number;
  readonly rows: number;
};

function pinnedCopies(
  copies: RowCopies,
  rowsOf: (group: number, page: number) => PageRows,
  states: StatePool | undefined,
): PinnedCopies {
  return {
    allocate: (bytes) => copies.allocateHost(bytes),
    release: (address) => copies.releaseHost(address),
    sendPage(group, page, source) {
      const { address, stride, size, rows } = rowsOf(group, page);
      return copies.send(address, stride, source, size, rows);
    },
    sendState(slot, source) {
      const sent = statePieces(states!, slot, 0, stateBytes(states!.shape)).map(({ address, at, size }) =>
        copies.send(address, size, source + at, size, 1),
      );
      return () => {
        for (const wait of sent) wait();
      };
    },
  };
}

type Piece = { readonly address: number; readonly at: number; readonly size: number };

/** Where a stretch of a state lies: its convolution inputs of all layers, behind them the memories of all layers. */
function statePieces(
  { shape, convolutions, memories }: StatePool,
  slot: number,
  from: number,
  length: number,
) {
  const layers = shape.layers.length;
  const pieces: Piece[] = [];
  let start = 0;
  for (const [first, one] of [
    [convolutions[0]!, shape.convolution],
    [memories[0]!, shape.memory],
  ] as const) {
    const bytes = 4 * layers * elementCount(one);
    const begin = Math.max(from, start);
    const end = Math.min(from + length, start + bytes);
    const address = first.address + slot * bytes + begin - start;
    if (end > begin) pieces.push({ address, at: begin - from, size: end - begin });
    start += bytes;
  }
  return pieces;
}
