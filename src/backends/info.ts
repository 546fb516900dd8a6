import type { NativeFunction } from "../../ffi/load.ts";
import type { DeviceInfo } from "../runtime/device.ts";

/** What a library's psi_info says of its open device. */
export function readInfo(info: NativeFunction, check: (status: number, symbol: string) => void): DeviceInfo {
  const text = new Uint8Array(new ArrayBuffer(4096));
  check(info(text, text.length), "psi_info");
  const end = text.indexOf(0);
  // versions like 9.0 stay text
  const lines = new TextDecoder().decode(text.subarray(0, end < 0 ? text.length : end)).split("\n");
  const facts: Record<string, string | number> = {};
  for (const line of lines) {
    const [key, value] = line.split("=", 2);
    if (key && value !== undefined) facts[key] = /^\d+$/.test(value) ? Number(value) : value;
  }
  return facts;
}
