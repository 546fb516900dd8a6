import { checkStatus } from "../../../ffi/call.ts";
import type { NativeFunction } from "../../../ffi/load.ts";
import { dtypes } from "../../core/dtype.ts";
import { hasBackend } from "../../ir/op.ts";
import { ops } from "../../ir/ops/index.ts";
import type { Backend } from "../../runtime/device.ts";
import { readInfo } from "../info.ts";
import { kernelLibrary } from "../library.ts";
import { StepGraphs } from "../step_graphs.ts";
import { cudaPackedBytes } from "./packed_bytes.ts";

export type CudaOptions = {
  /** Number of the device, as the driver counts those it shows; absent: 0. */
  readonly number?: number;
};

/**
 * Opens a CUDA device. One at a time and per process. Work is enqueued in order; `read` and `synchronize` wait for it.
 * Throws `file_not_found` without the library, `unsupported` with the driver's words without a device it can use.
 */
export function cudaBackend(options: CudaOptions = {}): Backend {
  const { functions, lastError } = kernelLibrary("cuda");
  const native = (symbol: string): NativeFunction => functions.get(symbol)!;
  const check = (status: number, symbol: string): void => {
    if (status !== 0) checkStatus(status, symbol, lastError);
  };
  check(native("psi_open")("", options.number ?? 0), "psi_open");
  const own = ops.filter((op) => hasBackend(op, "cuda"));
  const calls = new Map(own.map((op) => [op.name, native(`psi_${op.name}`)]));
  const [allocate, release] = [native("psi_alloc"), native("psi_free")];
  const [upload, download, copy] = [native("psi_upload"), native("psi_download"), native("psi_copy")];
  const [fetch, fetched] = [native("psi_fetch"), native("psi_fetched")];
  const ticket = new Float64Array(new ArrayBuffer(8));
  const place = new BigUint64Array(new ArrayBuffer(8));
  const [send, sent, receive] = [native("psi_send_rows"), native("psi_sent"), native("psi_receive_rows")];
  const sizes = new Float64Array(new ArrayBuffer(16));
  const graphs = new StepGraphs({
    begin: () => check(native("psi_capture_begin")(), "psi_capture_begin"),
    end() {
      check(native("psi_capture_end")(place), "psi_capture_end");
      return Number(place[0]!);
    },
    launch: (graph) => check(native("psi_graph_launch")(graph), "psi_graph_launch"),
    free: (graph) => check(native("psi_graph_free")(graph), "psi_graph_free"),
  });
  return {
    name: "cuda",
    hostMemory: false,
    captures: true,
    halfTensors: true,
    asynchronous: true,
    info: () => readInfo(native("psi_info"), check),
    memory() {
      check(native("psi_device_memory")(sizes, sizes.subarray(1)), "psi_device_memory");
      return { free: sizes[0]!, total: sizes[1]! };
    },
    allocate(bytes) {
      graphs.refuse("allocation");
      check(allocate(place, bytes), "psi_alloc");
      return Number(place[0]!);
    },
    release(address, bytes) {
      graphs.refuse("release of memory");
      check(release(address, bytes), "psi_free");
    },
    write(address, data) {
      graphs.refuse("copy from the host");
      if (data.length > 0) check(upload(address, data, data.length), "psi_upload");
    },
    read(address, bytes) {
      graphs.refuse("copy to the host");
      const data = new Uint8Array(new ArrayBuffer(bytes));
      if (bytes > 0) check(download(data, address, bytes), "psi_download");
      return data;
    },
    fetch(address, bytes) {
      graphs.refuse("copy to the host");
      check(fetch(ticket, address, bytes), "psi_fetch");
      const number = ticket[0]!;
      return () => {
        const data = new Uint8Array(new ArrayBuffer(bytes));
        check(fetched(data, number, bytes), "psi_fetched");
        return data;
      };
    },
    copy: (destination, source, bytes) => check(copy(destination, source, bytes), "psi_copy"),
    rows: {
      allocateHost(bytes) {
        check(native("psi_host_alloc")(place, bytes), "psi_host_alloc");
        return Number(place[0]!);
      },
      releaseHost: (address) => check(native("psi_host_free")(address), "psi_host_free"),
      send(destination, stride, source, bytesPerRow, rows) {
        graphs.refuse("copy from the host");
        check(send(ticket, destination, stride, source, bytesPerRow, rows), "psi_send_rows");
        const number = ticket[0]!;
        return () => check(sent(number), "psi_sent");
      },
      receive(source, stride, bytesPerRow, rows) {
        graphs.refuse("copy to the host");
        const data = new Uint8Array(new ArrayBuffer(rows * bytesPerRow));
        check(receive(data, source, stride, bytesPerRow, rows), "psi_receive_rows");
        return data;
      },
    },
    synchronize() {
      graphs.refuse("synchronisation");
      check(native("psi_synchronize")(), "psi_synchronize");
    },
    supports: (name) => calls.has(name),
    call(name, args) {
      graphs.called(name);
      const status = calls.get(name)!(...args);
      if (status !== 0) check(status, `psi_${name}`);
    },
    packedBytes: cudaPackedBytes,
    pack(destination, source, rows, columns, dtype) {
      graphs.refuse("copy from the host");
      check(native("psi_pack")(destination, source, rows, columns, dtypes[dtype].id), "psi_pack");
    },
    packFile(destination, { path, offset }, rows, columns, dtype) {
      graphs.refuse("copy from the host");
      const id = dtypes[dtype].id;
      check(native("psi_pack_file")(destination, path, rows, columns, id, offset), "psi_pack_file");
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
