import { dlopen, type FFIFunction, FFIType } from "bun:ffi";
import { PsionicError, unexpected } from "../src/core/error.ts";
import {
  type ArgumentType,
  type BackendName,
  type EngineBackend,
  hasBackend,
  kernelsOf,
} from "../src/ir/op.ts";
import { ops } from "../src/ir/ops/index.ts";

/** Functions that every kernel library has; the op table supplies the rest. */
const everywhere = {
  psi_abi_version: { args: [], returns: "i32" },
  psi_last_error: { args: [], returns: "cstring" },
  psi_open: { args: ["cstring", "i32"], returns: "i32" },
  psi_close: { args: [], returns: "i32" },
  psi_info: { args: ["ptr", "i32"], returns: "i32" },
  psi_alloc: { args: ["ptr", "f64"], returns: "i32" },
  psi_free: { args: ["ptr", "f64"], returns: "i32" },
  psi_copy: { args: ["ptr", "ptr", "f64"], returns: "i32" },
  psi_measure: { args: ["ptr", "ptr", "ptr", "f64"], returns: "i32" },
  psi_pack: { args: ["ptr", "ptr", "i32", "i32", "i32"], returns: "i32" },
  psi_pack_file: { args: ["ptr", "cstring", "i32", "i32", "i32", "f64"], returns: "i32" },
  psi_packed_bytes: { args: ["ptr", "i32", "i32", "i32"], returns: "i32" },
  psi_dequantize: { args: ["ptr", "ptr", "i32", "i32", "i32"], returns: "i32" },
} as const satisfies Record<string, FFIFunction>;

/** What only one backend's library has: files are mapped by the CPU's, which is always there. */
const onlyIn: Readonly<Record<BackendName, Record<string, FFIFunction>>> = {
  cpu: {
    psi_map: { args: ["ptr", "ptr", "cstring"], returns: "i32" },
    psi_unmap: { args: ["ptr", "f64"], returns: "i32" },
    psi_advise: { args: ["ptr", "f64", "i32"], returns: "i32" },
    psi_quantize: { args: ["ptr", "ptr", "i32", "i32", "i32"], returns: "i32" },
  },
  cuda: {
    psi_upload: { args: ["ptr", "ptr", "f64"], returns: "i32" },
    psi_download: { args: ["ptr", "ptr", "f64"], returns: "i32" },
    psi_synchronize: { args: [], returns: "i32" },
    psi_fetch: { args: ["ptr", "ptr", "f64"], returns: "i32" },
    psi_fetched: { args: ["ptr", "f64", "f64"], returns: "i32" },
    psi_host_alloc: { args: ["ptr", "f64"], returns: "i32" },
    psi_host_free: { args: ["ptr"], returns: "i32" },
    psi_send_rows: { args: ["ptr", "ptr", "f64", "ptr", "f64", "i32"], returns: "i32" },
    psi_sent: { args: ["f64"], returns: "i32" },
    psi_receive_rows: { args: ["ptr", "ptr", "f64", "f64", "i32"], returns: "i32" },
    psi_measure_tensor: { args: ["ptr"], returns: "i32" },
    psi_device_memory: { args: ["ptr", "ptr"], returns: "i32" },
    psi_capture_begin: { args: [], returns: "i32" },
    psi_capture_end: { args: ["ptr"], returns: "i32" },
    psi_graph_launch: { args: ["ptr"], returns: "i32" },
    psi_graph_free: { args: ["ptr"], returns: "i32" },
    psi_collective_id: { args: ["ptr", "ptr"], returns: "i32" },
    psi_collective_open: { args: ["ptr", "ptr", "i32", "i32"], returns: "i32" },
    psi_all_reduce: { args: ["ptr", "i32", "f64"], returns: "i32" },
    psi_all_reduce_start: { args: ["ptr", "i32", "f64"], returns: "i32" },
    psi_all_reduce_join: { args: [], returns: "i32" },
    psi_collective_close: { args: [], returns: "i32" },
    psi_cublaslt_open: { args: ["ptr", "ptr"], returns: "i32" },
    psi_cublaslt_find: {
      args: ["ptr", ...Array.from({ length: 7 }, () => "i32" as const), "f64"],
      returns: "i32",
    },
    psi_cublaslt_use: {
      args: ["ptr", ...Array.from({ length: 7 }, () => "i32" as const), "f64"],
      returns: "i32",
    },
    psi_cublaslt_close: { args: [], returns: "i32" },
  },
  metal: {
    psi_symbols: { args: [], returns: "cstring" },
    psi_upload: { args: ["ptr", "ptr", "f64"], returns: "i32" },
    psi_download: { args: ["ptr", "ptr", "f64"], returns: "i32" },
    psi_synchronize: { args: [], returns: "i32" },
    psi_device_memory: { args: ["ptr", "ptr"], returns: "i32" },
    psi_adopt: { args: ["ptr", "f64", "ptr", "f64"], returns: "i32" },
    psi_disown: { args: ["ptr"], returns: "i32" },
    psi_measure_launches: { args: ["i32"], returns: "i32" },
    psi_launch_times: { args: ["ptr", "i32"], returns: "i32" },
  },
};

export const abiVersion = 1;

const ffiTypes: Record<ArgumentType, FFIType> = {
  ptr: FFIType.ptr,
  i32: FFIType.i32,
  f32: FFIType.f32,
  f64: FFIType.f64,
};

/** A call by numbers only: addresses, sizes, scalars. */
export type NativeFunction = (...args: (number | ArrayBufferView | string)[]) => number;

export type KernelLibrary = {
  readonly path: string;
  readonly functions: ReadonlyMap<string, NativeFunction>;
  lastError(): string;
};

/** The FFI symbol table of a backend's library: its device functions and one symbol per op that it has. */
export function symbolTable(name: EngineBackend): Record<string, FFIFunction> {
  const backend = kernelsOf(name);
  const table: Record<string, FFIFunction> = { ...everywhere, ...onlyIn[backend] };
  for (const op of ops) {
    if (!hasBackend(op, backend)) continue;
    table[`psi_${op.name}`] = { args: op.signature.map((t) => ffiTypes[t]), returns: FFIType.i32 };
  }
  return table;
}

/** Of a table the symbols that a Metal library says it has: ops that GPUs without f64 decline may be missing. */
function present(table: Record<string, FFIFunction>, path: string): Record<string, FFIFunction> {
  const { psi_symbols } = dlopen(path, { psi_symbols: { args: [], returns: "cstring" } }).symbols;
  const names = new Set(String(psi_symbols()).split("\n"));
  return Object.fromEntries(Object.entries(table).filter(([name]) => names.has(name)));
}

/** Native calls are compiled when a library is opened; a small address space or a hardened service leaves no place for that. */
function noExecutableMemory(cause: unknown): PsionicError {
  const fix =
    "Raise the limit of the address space (ulimit -v), and leave out MemoryDenyWriteExecute= and BUN_JSC_useJIT=0";
  return unexpected("unsupported", "ffi", "memory that code may be compiled into", "none", { fix, cause });
}

/**
 * Opens a kernel library and checks its ABI version. Throws `native_failed` with the loader's text, `unsupported` where
 * no library can be called at all.
 */
export function loadLibrary(backend: EngineBackend, path: string): KernelLibrary {
  let symbols: Record<string, unknown>;
  try {
    const table = symbolTable(backend);
    symbols = dlopen(path, kernelsOf(backend) === "metal" ? present(table, path) : table).symbols;
  } catch (cause) {
    if (/requires the JIT/.test(String(cause))) throw noExecutableMemory(cause);
    throw new PsionicError(
      "native_failed",
      `[ffi] expected to open ${path}, got: ${String(cause)}`,
      { path },
      cause,
    );
  }
  const functions = new Map(Object.entries(symbols) as [string, NativeFunction][]);
  const version = functions.get("psi_abi_version")!();
  if (version !== abiVersion) throw unexpected("native_failed", "ffi", `ABI version ${abiVersion}`, version);
  const lastError = functions.get("psi_last_error") as unknown as () => string | null;
  return { path, functions, lastError: () => lastError() ?? "" };
}
