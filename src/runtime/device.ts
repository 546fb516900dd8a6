import type { DType } from "../core/dtype.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import type { Shape } from "../core/shape.ts";
import type { EngineBackend, Op, Packing } from "../ir/op.ts";
import { matrixCount, specBytes } from "../ir/spec.ts";
import { Arena, type ArenaMark } from "./arena.ts";
import { makeTensor, type Tensor, tensorBytes } from "./tensor.ts";

/** Facts about a device: `isa`, `threads`, memory, features; strings and numbers for `doctor` and receipts. */
export type DeviceInfo = Readonly<Record<string, string | number>>;

/** Where a tensor begins in a file, bytes. */
export type FilePlace = { readonly path: string; readonly offset: number };

/** A file as it lies in this process's address space. */
export type FileMapping = { readonly address: number; readonly bytes: number };

/** Bytes of a device's own memory: free at this moment, and in all. */
export type DeviceMemory = { readonly free: number; readonly total: number };

/**
 * Copies between a device with memory of its own and the host, of rows that stand `stride` bytes apart on the device and one
 * behind the other on the host.
 */
export interface RowCopies {
  /** Address of host memory that `send` copies from; throws `native_failed` when there is none. */
  allocateHost(bytes: number): number;
  releaseHost(address: number): void;
  /** Begins a copy to the device, in the order of the device's calls; what is returned waits for it. `source` stays as it is until then. */
  send(destination: number, stride: number, source: number, bytesPerRow: number, rows: number): () => void;
  /** A copy of device memory, rows of up to 4 MiB. */
  receive(source: number, stride: number, bytesPerRow: number, rows: number): Uint8Array;
}

/** What a backend supplies. Code above never asks which one it has. */
export interface Backend {
  readonly name: EngineBackend | "meta";
  /** Whether this process can read device memory by its address: tables stay where their file is mapped. */
  readonly hostMemory: boolean;
  /** Whether `replay` records steps: then what a step of one key touches must lie at the same addresses each time. */
  readonly captures: boolean;
  /** Whether training's ops take bf16 tensors beside f32 ones; absent: bf16 is a type of matrix products alone. */
  readonly halfTensors?: boolean;
  /** Whether products with quantised weights round activations to 8 bits, and to 16 where the weight is packed as `a16`. */
  readonly a16?: boolean;
  /** Whether calls return before they are done: then the host has time while a step runs, and `read` waits. */
  readonly asynchronous: boolean;
  info(): DeviceInfo;
  /** Of a device with memory of its own; absent where it computes in the host's. */
  memory?(): DeviceMemory;
  /** Address of zero-filled memory; throws `native_failed` when there is none. */
  allocate(bytes: number): number;
  release(address: number, bytes: number): void;
  write(address: number, data: Uint8Array): void;
  /** A copy of device memory. */
  read(address: number, bytes: number): Uint8Array;
  /**
   * A copy of device memory as it is behind the calls made so far, at most 256 KiB; what is returned waits for it, and not
   * for calls made since. Of the copies the last 16 can be had. Absent: `read` is the only way.
   */
  fetch?(address: number, bytes: number): () => Uint8Array;
  copy(destination: number, source: number, bytes: number): void;
  /** Absent: `write` and `read` are as good. */
  readonly rows?: RowCopies;
  supports(opName: string): boolean;
  /** Waits for everything that was called and reports what went wrong in it. */
  synchronize(): void;
  /** Calls `psi_<name>`; turns a status into an error. */
  call(opName: string, args: readonly number[]): void;
  /** Bytes of a weight matrix in this backend's own layout. */
  packedBytes(dtype: DType, rows: number, columns: number): number;
  /** Rearranges a weight matrix at `source` (file layout, host memory) into that layout at `destination`. */
  pack(destination: number, source: number, rows: number, columns: number, dtype: DType): void;
  /** The same for a matrix in a file; false, with nothing done, where its rows are too long for that. */
  packFile(destination: number, source: FilePlace, rows: number, columns: number, dtype: DType): boolean;
  /**
   * Where the backend's layout of weights is the file's: makes bytes of a mapped file usable where they lie, until `disown`,
   * which precedes unmapping. Absent: weights are packed.
   */
  adopt?(mapping: FileMapping, address: number, bytes: number): void;
  disown?(mapping: FileMapping): void;
  /**
   * Runs a step that is called again and again under one key. With capture the first call runs it, the second records it
   * and later ones launch the recording; without, every call runs it.
   */
  replay(key: string, step: () => void): void;
  /** Drops what was recorded under a key. */
  forget(key: string): void;
  close(): void;
}

/** One call as a listener hears it. */
export type AppliedCall = {
  readonly op: Op<never>;
  readonly inputs: readonly (Tensor | undefined)[];
  readonly outputs: readonly Tensor[];
  readonly params: Readonly<Record<string, unknown>>;
  readonly scratchBytes: number;
};
export type Listener = (call: AppliedCall) => void;

/** A backend with the memory discipline of the tensor core: scopes for temporaries, counted state. */
export class Device {
  readonly backend: Backend;
  readonly arena: Arena;
  readonly listeners = new Set<Listener>();
  readonly #scopes: Scope[] = [];
  #held = false;
  readonly #owned = new Map<number, number>();

  constructor(backend: Backend) {
    this.backend = backend;
    this.arena = new Arena(
      (bytes) => backend.allocate(bytes),
      (address, bytes) => backend.release(address, bytes),
    );
  }

  get name(): string {
    return this.backend.name;
  }

  /** Opens a scope: every temporary made until it ends belongs to it. */
  scope(): Scope {
    const scope = new Scope(this, this.arena.mark(), () => this.#end(scope));
    this.#scopes.push(scope);
    return scope;
  }

  #end(scope: Scope): void {
    if (this.#scopes.at(-1) !== scope) {
      throw unexpected(
        "invalid_argument",
        "scope",
        "scopes ended in the reverse order of their start",
        "another order",
      );
    }
    this.#scopes.pop();
    if (!this.#held) this.arena.reset(scope.mark);
  }

  /**
   * Whether scopes that end leave what they made to the scope around them, as a tape needs it. Returns what was so before.
   */
  hold(held: boolean): boolean {
    const before = this.#held;
    this.#held = held;
    return before;
  }

  /** A temporary of the innermost scope, not initialised. */
  temporary(spec: { readonly dtype: DType; readonly shape: Shape; readonly packed?: Packing }): Tensor {
    if (this.#scopes.length === 0) throw unexpected("invalid_argument", "temporary", "an open scope", "none");
    const bytes = specBytes({ ...spec, packed: spec.packed ?? false });
    return makeTensor(this, "temporary", this.arena.take(bytes), spec);
  }

  /** A temporary holding host data. */
  fromHost(dtype: DType, shape: Shape, data: ArrayBufferView): Tensor {
    const t = this.temporary({ dtype, shape });
    this.upload(t, data);
    return t;
  }

  /** Zero-filled memory that lives until `free`; the caller is its owner. */
  empty(dtype: DType, shape: Shape, options: { packed?: Packing; kind?: "state" | "weight" } = {}): Tensor {
    const packed = options.packed ?? false;
    const spec = { dtype, shape, packed };
    const [rows, columns] = [shape.at(-2) ?? 1, shape.at(-1) ?? 1];
    const size = packed
      ? matrixCount(shape) * this.backend.packedBytes(dtype, rows, columns)
      : specBytes(spec);
    const bytes = Math.max(size, 64);
    const address = this.backend.allocate(bytes);
    this.#owned.set(address, bytes);
    return makeTensor(this, options.kind ?? "state", address, spec);
  }

  /** Frees what `empty` made. */
  free(t: Tensor): void {
    const bytes = this.#owned.get(t.address);
    if (bytes === undefined)
      throw unexpected("invalid_argument", "free", "a tensor made by empty, once", t.address);
    this.#owned.delete(t.address);
    this.backend.release(t.address, bytes);
  }

  upload(t: Tensor, data: ArrayBufferView): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (bytes.length !== tensorBytes(t)) {
      throw unexpected("invalid_argument", "upload", `${tensorBytes(t)} bytes`, bytes.length);
    }
    this.backend.write(t.address, bytes);
  }

  /** A copy of the tensor's bytes. */
  download(t: Tensor): Uint8Array {
    return this.backend.read(t.address, tensorBytes(t));
  }

  downloadF32(t: Tensor): Float32Array {
    if (t.dtype !== "f32") throw unexpected("invalid_argument", "downloadF32", "f32", t.dtype);
    return new Float32Array(this.download(t).buffer);
  }

  downloadI32(t: Tensor): Int32Array {
    if (t.dtype !== "i32") throw unexpected("invalid_argument", "downloadI32", "i32", t.dtype);
    return new Int32Array(this.download(t).buffer);
  }

  /** Tensors and bytes that `empty` made and nobody freed yet: zero at the end of a leak-free test. */
  live(): { readonly tensors: number; readonly bytes: number; readonly scopes: number } {
    let bytes = 0;
    for (const b of this.#owned.values()) bytes += b;
    return { tensors: this.#owned.size, bytes, scopes: this.#scopes.length };
  }

  close(): void {
    this.arena.free();
    const { tensors, bytes } = this.live();
    for (const [address, size] of this.#owned) this.backend.release(address, size);
    this.#owned.clear();
    this.backend.close();
    if (tensors > 0 && process.env.NODE_ENV === "test") {
      throw new PsionicError(
        "internal",
        `[device] expected no live tensors at close, got ${tensors} (${bytes} bytes)`,
      );
    }
  }
}

/** Owner of the temporaries made while it is the innermost one. Use with `using`. */
export class Scope implements Disposable {
  readonly device: Device;
  readonly mark: ArenaMark;
  readonly #end: () => void;

  constructor(device: Device, mark: ArenaMark, end: () => void) {
    this.device = device;
    this.mark = mark;
    this.#end = end;
  }

  [Symbol.dispose](): void {
    this.#end();
  }
}
