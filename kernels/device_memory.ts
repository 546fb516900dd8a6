import type { Pointer } from "bun:ffi";

export type Call = (...args: (number | Pointer | ArrayBufferView | string | null)[]) => number;

/** How tests of a library that has memory of its own move data: the same on a device and on what stands in for it. */
export type DeviceMemory = {
  /** Throws with the library's words where a call failed. */
  readonly check: (status: number) => void;
  /** Device memory of at least `bytes`, zero-filled, good until the process ends. */
  readonly deviceBytes: (bytes: number) => Pointer;
  /** A copy of host data in device memory. */
  readonly onDevice: (data: ArrayBufferView) => Pointer;
  /** Overwrites device memory at `address`. */
  readonly write: (address: Pointer, data: ArrayBufferView) => void;
  /** A copy of `bytes` of device memory; waits for all kernels before it, and throws what went wrong in them. */
  readonly fromDevice: (address: Pointer, bytes: number) => Uint8Array;
  readonly floatsFromDevice: (address: Pointer, count: number) => Float32Array;
  readonly intsFromDevice: (address: Pointer, count: number) => Int32Array;
};

/** Memory of the library with these functions; `explained` may add to the words of an error. */
export function deviceMemory(
  library: Readonly<Record<string, Call>>,
  explained: (text: string) => string = (text) => text,
): DeviceMemory {
  const check = (status: number): void => {
    const words = library.psi_last_error as unknown as () => string;
    if (status !== 0) throw new Error(explained(String(words())));
  };
  const deviceBytes = (bytes: number): Pointer => {
    const address = new BigUint64Array(new ArrayBuffer(8));
    check(library.psi_alloc!(address, Math.max(bytes, 64)));
    return Number(address[0]) as Pointer;
  };
  const write = (address: Pointer, data: ArrayBufferView): void => {
    check(library.psi_upload!(address, data, data.byteLength));
  };
  const fromDevice = (address: Pointer, bytes: number): Uint8Array => {
    const out = new Uint8Array(new ArrayBuffer(Math.max(bytes, 2048)), 0, bytes);
    check(library.psi_download!(out, address, bytes));
    return out;
  };
  return {
    ...{ check, deviceBytes, write, fromDevice },
    onDevice: (data) => {
      const address = deviceBytes(data.byteLength);
      if (data.byteLength > 0) write(address, data);
      return address;
    },
    floatsFromDevice: (address, count) => new Float32Array(fromDevice(address, count * 4).buffer, 0, count),
    intsFromDevice: (address, count) => new Int32Array(fromDevice(address, count * 4).buffer, 0, count),
  };
}
