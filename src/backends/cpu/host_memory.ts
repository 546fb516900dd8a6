import { toArrayBuffer } from "bun:ffi";
import { checkStatus } from "../../../ffi/call.ts";
import { cpuLibrary } from "./library.ts";

/** Memory of this process outside the JavaScript heap, at a fixed address. */
export type HostMemory = { readonly address: number; free(): void };

/** A copy of `data` for native functions that read host memory, whatever device is open. */
export function allocateHost(data: Uint8Array): HostMemory {
  const { functions, lastError } = cpuLibrary();
  const bytes = Math.max(64, data.length);
  const place = new BigUint64Array(new ArrayBuffer(8));
  checkStatus(functions.get("psi_alloc")!(place, bytes), "psi_alloc", lastError);
  const address = Number(place[0]!);
  new Uint8Array(toArrayBuffer(address as never, 0, bytes)).set(data);
  return {
    address,
    free: () => checkStatus(functions.get("psi_free")!(address, bytes), "psi_free", lastError),
  };
}
