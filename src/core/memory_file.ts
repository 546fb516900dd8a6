import { dlopen, FFIType } from "bun:ffi";
import { writeSync } from "node:fs";

/**
 * A file that exists only in memory (Linux `memfd_create`), for a library where no folder can be written or executed
 * from. Returns a path of this process alone; the memory is held until it ends. Undefined on other systems.
 */
export function memoryFile(name: string, bytes: Uint8Array): string | undefined {
  if (process.platform !== "linux") return undefined;
  const libc = dlopen("libc.so.6", {
    memfd_create: { args: [FFIType.cstring, FFIType.u32], returns: FFIType.i32 },
  });
  const handle = libc.symbols.memfd_create(Buffer.from(`${name}\0`), 0);
  if (handle < 0) return undefined;
  for (let at = 0; at < bytes.length; ) at += writeSync(handle, bytes, at);
  return `/proc/self/fd/${handle}`;
}
