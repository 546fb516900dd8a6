import { toArrayBuffer } from "bun:ffi";
import { checkStatus } from "../../../ffi/call.ts";
import type { NativeFunction } from "../../../ffi/load.ts";
import { dtypes, rowBytes } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import { hasBackend } from "../../ir/op.ts";
import { ops } from "../../ir/ops/index.ts";
import { packedBytes } from "../../ir/spec.ts";
import type { Backend } from "../../runtime/device.ts";
import { readInfo } from "../info.ts";
import { StepGraphs } from "../step_graphs.ts";
import { CallLists } from "./call_lists.ts";
import { cpuLibrary } from "./library.ts";

export type CpuOptions = {
  /** 0 or absent: one per physical core this process may use. */
  readonly threads?: number;
  /** Absent: the best this machine has. */
  readonly isa?: string;
};

/** What psi_pack_file takes: 16 rows of at most 256 KiB. */
const panelRows = 16;
const largestFilePanel = 256 * 1024;

const isaLevels = ["plain", "avx2", "avx_vnni", "avx512", "amx", "neon"];

/** Opens the kernel library's thread pool. One CPU device at a time and per process. */
export function cpuBackend(options: CpuOptions): Backend {
  const { functions, lastError } = cpuLibrary();
  const native = (symbol: string): NativeFunction => functions.get(symbol)!;
  const check = (status: number, symbol: string): void => checkStatus(status, symbol, lastError);
  if (options.isa && !isaLevels.includes(options.isa)) {
    throw unexpected("invalid_argument", "cpu", `an instruction set of ${isaLevels.join(", ")}`, options.isa);
  }
  check(native("psi_open")(options.isa ?? "", options.threads ?? 0), "psi_open");
  const calls = new Map(
    ops.filter((op) => hasBackend(op, "cpu")).map((op) => [`psi_${op.name}`, native(`psi_${op.name}`)]),
  );
  calls.set("psi_copy", native("psi_copy"));
  const lists = new CallLists((symbol, args) => {
    const status = calls.get(symbol)!(...args);
    if (status !== 0) check(status, symbol);
  });
  const graphs = new StepGraphs(lists);
  const place = new BigUint64Array(new ArrayBuffer(8));
  // A length of 4 GiB is the most one view may span.
  const view = (address: number, bytes: number): Uint8Array =>
    new Uint8Array(toArrayBuffer(address as never, 0, bytes));
  return {
    name: "cpu",
    hostMemory: true,
    a16: true,
    captures: true,
    asynchronous: false,
    info: () => readInfo(native("psi_info"), check),
    allocate(bytes) {
      graphs.refuse("allocation");
      check(native("psi_alloc")(place, bytes), "psi_alloc");
      return Number(place[0]!);
    },
    release(address, bytes) {
      graphs.refuse("release of memory");
      check(native("psi_free")(address, bytes), "psi_free");
    },
    write(address, data) {
      graphs.refuse("copy from the host");
      if (data.length > 0) view(address, data.length).set(data);
    },
    read(address, bytes) {
      graphs.refuse("copy to the host");
      return bytes > 0 ? view(address, bytes).slice() : new Uint8Array(0);
    },
    copy: (destination, source, bytes) => lists.call("psi_copy", [destination, source, bytes]),
    synchronize: () => graphs.refuse("synchronisation"),
    supports: (name) => calls.has(`psi_${name}`),
    call(name, args) {
      graphs.called(name);
      lists.call(`psi_${name}`, args);
    },
    packedBytes,
    pack: (destination, source, rows, columns, dtype) =>
      check(native("psi_pack")(destination, source, rows, columns, dtypes[dtype].id), "psi_pack"),
    packFile(destination, { path, offset }, rows, columns, dtype) {
      if (panelRows * rowBytes(dtype, columns) > largestFilePanel) return false;
      const id = dtypes[dtype].id;
      const status = native("psi_pack_file")(destination, path, rows, columns, id, offset);
      check(status, "psi_pack_file");
      return true;
    },
    replay: (key, step) => graphs.replay(key, step),
    forget: (key) => graphs.forget(key),
    close() {
      graphs.forgetAll();
      check(native("psi_close")(), "psi_close");
    },
  };
}
