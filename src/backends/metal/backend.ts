import { checkStatus } from "../../../ffi/call.ts";
import type { NativeFunction } from "../../../ffi/load.ts";
import { dtypes } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import { hasBackend } from "../../ir/op.ts";
import { ops } from "../../ir/ops/index.ts";
import type { Backend, DeviceInfo } from "../../runtime/device.ts";
import { readInfo } from "../info.ts";
import { kernelLibrary } from "../library.ts";
import { filePackedBytes } from "./packed_bytes.ts";

/**
 * Opens the GPU of a Mac, or the stand-in that runs its kernels on the CPU. One device per process. Work is encoded in
 * order into command buffers; `read` and `synchronize` commit the last and wait. Memory is the machine's, so weights stay
 * where their file is mapped. Throws `file_not_found` without the library, `unsupported` with Metal's words without a GPU, or
 * where the library is the stand-in's and a GPU was asked for.
 */
export function metalBackend(name: "metal" | "metal-standin"): Backend {
  const { functions, lastError, path } = kernelLibrary(name);
  const native = (symbol: string): NativeFunction => functions.get(symbol)!;
  const check = (status: number, symbol: string): void => {
    if (status !== 0) checkStatus(status, symbol, lastError);
  };
  check(native("psi_open")("", 0), "psi_open");
  const info = (): DeviceInfo => readInfo(native("psi_info"), check);
  const opened = info().standin === 1 ? "metal-standin" : "metal";
  if (opened !== name) {
    native("psi_close")();
    throw unexpected("unsupported", "backend", `a library of ${name}`, `one of ${opened} at ${path}`);
  }
  const own = ops.filter((op) => hasBackend(op, "metal") && functions.has(`psi_${op.name}`));
  const calls = new Map(own.map((op) => [op.name, native(`psi_${op.name}`)]));
  const [allocate, release] = [native("psi_alloc"), native("psi_free")];
  const [upload, download, copy] = [native("psi_upload"), native("psi_download"), native("psi_copy")];
  const place = new BigUint64Array(new ArrayBuffer(8));
  const sizes = new Float64Array(new ArrayBuffer(16));
  return {
    name,
    hostMemory: true,
    captures: false,
    halfTensors: true,
    asynchronous: true,
    info,
    memory() {
      check(native("psi_device_memory")(sizes, sizes.subarray(1)), "psi_device_memory");
      return { free: sizes[0]!, total: sizes[1]! };
    },
    allocate(bytes) {
      check(allocate(place, bytes), "psi_alloc");
      return Number(place[0]!);
    },
    release: (address, bytes) => check(release(address, bytes), "psi_free"),
    write(address, data) {
      if (data.length > 0) check(upload(address, data, data.length), "psi_upload");
    },
    read(address, bytes) {
      const data = new Uint8Array(new ArrayBuffer(bytes));
      if (bytes > 0) check(download(data, address, bytes), "psi_download");
      return data;
    },
    copy: (destination, source, bytes) => check(copy(destination, source, bytes), "psi_copy"),
    synchronize: () => check(native("psi_synchronize")(), "psi_synchronize"),
    supports: (op) => calls.has(op),
    call(op, args) {
      const status = calls.get(op)!(...args);
      if (status !== 0) check(status, `psi_${op}`);
    },
    packedBytes: filePackedBytes,
    pack: (destination, source, rows, columns, dtype) =>
      check(native("psi_pack")(destination, source, rows, columns, dtypes[dtype].id), "psi_pack"),
    packFile(destination, { path, offset }, rows, columns, dtype) {
      const { id } = dtypes[dtype];
      check(native("psi_pack_file")(destination, path, rows, columns, id, offset), "psi_pack_file");
      return true;
    },
    adopt: (mapping, address, bytes) =>
      check(native("psi_adopt")(mapping.address, mapping.bytes, address, bytes), "psi_adopt"),
    disown: (mapping) => check(native("psi_disown")(mapping.address), "psi_disown"),
    replay: (_key, step) => step(),
    forget() {},
    close: () => check(native("psi_close")(), "psi_close"),
  };
}
