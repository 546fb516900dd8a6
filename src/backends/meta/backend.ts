import { type EngineBackend, hasBackend, kernelsOf } from "../../ir/op.ts";
import { ops } from "../../ir/ops/index.ts";
import { packedBytes } from "../../ir/spec.ts";
import type { Backend } from "../../runtime/device.ts";
import { cudaPackedBytes } from "../cuda/packed_bytes.ts";
import { filePackedBytes } from "../metal/packed_bytes.ts";

export type MetaOptions = {
  /** The backend whose ops and weight layout a step is to be planned for; absent: the CPU. */
  readonly like?: EngineBackend;
};

/** Shapes without memory: a step runs through it to be recorded (plans, digests) without a byte being computed. */
export function metaBackend({ like = "cpu" }: MetaOptions = {}): Backend {
  let next = 64;
  const kernels = kernelsOf(like);
  const known = new Set(ops.filter((op) => hasBackend(op, kernels)).map(({ name }) => name));
  const layouts = { cpu: packedBytes, cuda: cudaPackedBytes, metal: filePackedBytes };
  return {
    name: "meta",
    hostMemory: kernels !== "cuda",
    captures: false,
    halfTensors: kernels !== "cpu",
    a16: kernels === "cpu",
    asynchronous: false,
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
    synchronize() {},
    supports: (name) => known.has(name),
    call() {},
    packedBytes: layouts[kernels],
    pack() {},
    packFile: () => true,
    ...(kernels === "metal" ? { adopt() {}, disown() {} } : {}),
    replay: (_key, step) => step(),
    forget() {},
    close() {},
  };
}
