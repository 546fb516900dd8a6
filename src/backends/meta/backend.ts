import type { Backend } from "../../runtime/device.ts";

/** Shapes without memory: a step runs through it to be recorded (plans, digests) without a byte being computed. */
export function metaBackend(): Backend {
  let next = 64;
  return {
    name: "meta",
    info: () => ({ device: "meta" }),
    allocate(bytes) {
      const address = next;
      next += Math.ceil(bytes / 64) * 64 + 64;
      return address;
    },
    release() {},
    write() {},
    read: (_address, bytes) => new Uint8Array(bytes),
    copy() {},
    supports: () => true,
    call() {},
    pack() {},
    packFile: () => true,
    replay: (_key, step) => step(),
    close() {},
  };
}
