import { checkStatus } from "../../../ffi/call.ts";
import { dtypes } from "../../core/dtype.ts";
import { elementCount } from "../../core/shape.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { kernelLibrary } from "../library.ts";

/** The environment variable that names NCCL's library where it is not found as libnccl.so.2. */
export const ncclVariable = "PSIONIC_NCCL_LIBRARY";

const idBytes = 128;
const place = (): string => process.env[ncclVariable] ?? "";

function call(symbol: string, ...args: (number | string | ArrayBufferView)[]): void {
  const { functions, lastError } = kernelLibrary("cuda");
  checkStatus(functions.get(symbol)!(...args), symbol, lastError);
}

/** What the processes of a group must share to find each other; made by one of them. */
export function makeGroupId(): Uint8Array {
  const id = new Uint8Array(new ArrayBuffer(2048), 0, idBytes);
  call("psi_collective_id", id, cString(place()));
  return id;
}

/**
 * This process in a group of one process a CUDA device on one host, its device open; all members open it at the same time.
 * Throws `unsupported` where there is no NCCL.
 */
export class DeviceGroup implements Disposable {
  readonly rank: number;
  readonly count: number;

  constructor(id: Uint8Array, rank: number, count: number) {
    this.rank = rank;
    this.count = count;
    const copy = new Uint8Array(new ArrayBuffer(2048), 0, idBytes);
    copy.set(id.subarray(0, idBytes));
    call("psi_collective_open", copy, cString(place()), rank, count);
  }

  /** Sums an f32 or f64 tensor over the group, in place; in order with the device's other work. */
  sum(t: Tensor): void {
    call("psi_all_reduce", t.address, dtypes[t.dtype].id, elementCount(t.shape));
  }

  /** The same beside what is called after it, once what was called before it is done. */
  start(t: Tensor): void {
    call("psi_all_reduce_start", t.address, dtypes[t.dtype].id, elementCount(t.shape));
  }

  /** What is called from now on waits for all sums that were started. */
  join(): void {
    call("psi_all_reduce_join");
  }

  [Symbol.dispose](): void {
    call("psi_collective_close");
  }
}

const cString = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`);
