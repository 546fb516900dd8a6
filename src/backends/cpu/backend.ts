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

const isaLevels = ["plain", "avx2", "avx512", "neon"];

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
    ops.filter((op) => hasBackend(op, "cpu")).map((op) => [op.name, native(`psi_${op.name}`)]),
  );
  const place = new BigUint64Array(new ArrayBuffer(8));
  // A length of 4 GiB is the most one view may span.
  const view = (address: number, bytes: number): Uint8Array =>
    new Uint8Array(toArrayBuffer(address as never, 0, bytes));
  return {
    name: "cpu",
    hostMemory: true,
    captures: false,
    info: () => readInfo(native("psi_info"), check),
    allocate(bytes) {
      check(native("psi_alloc")(place, bytes), "psi_alloc");
      return Number(place[0]!);
    },
    release: (address, bytes) => check(native("psi_free")(address, bytes), "psi_free"),
    write(address, data) {
      if (data.length > 0) view(address, data.length).set(data);
    },
    read: (address, bytes) => (bytes > 0 ? view(address, bytes).slice() : new Uint8Array(0)),
    copy: (destination, source, bytes) => check(native("psi_copy")(destination, source, bytes), "psi_copy"),
    synchronize() {},
    supports: (name) => calls.has(name),
    call(name, args) {
      const status = calls.get(name)!(...args);
      if (status !== 0) check(status, `psi_${name}`);
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
    replay: (_key, step) => step(),
    forget() {},
    close: () => check(native("psi_close")(), "psi_close"),
  };
}
