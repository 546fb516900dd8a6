import { checkStatus } from "../../../ffi/call.ts";
import { dtypes } from "../../core/dtype.ts";
import { PsionicError, unexpected } from "../../core/error.ts";
import { gemm } from "../../ir/ops/gemm.ts";
import { kernelLibrary } from "../library.ts";

/** The environment variable that names cuBLASLt's library where it is not found as libcublasLt.so.13 or .12. */
export const cublasltLibraryVariable = "PSIONIC_CUBLASLT_LIBRARY";

/** A product of training, c [m,n] = a' [m,k] b' [k,n] of bf16, `batch` of them. */
export type ProductShape = {
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA: boolean;
  readonly transB: boolean;
  /** Of c. */
  readonly dtype: "f32" | "bf16";
};

const algorithmBytes = 64;

/**
 * NVIDIA's cuBLASLt beside an open CUDA device, for products of training whose shapes are named to it. Only algorithms that
 * add up all of k in one sequence are taken. Throws `unsupported` where it is not installed. Disposing of it gives all
 * products back to psionic's own kernels.
 */
export class Cublaslt implements Disposable {
  /** As NVIDIA writes it, such as 13.1.1. Algorithms mean the same to one version alone. */
  readonly version: string;

  constructor() {
    const number = new Float64Array(new ArrayBuffer(8));
    call("psi_cublaslt_open", cString(process.env[cublasltLibraryVariable] ?? ""), number);
    const n = number[0]!;
    this.version = [Math.floor(n / 10000), Math.floor(n / 100) % 100, n % 100].join(".");
  }

  /** The algorithm that cuBLASLt advises for a shape, hex; undefined where it has none that psionic takes. */
  find(shape: ProductShape): string | undefined {
    const algorithm = new Uint8Array(new ArrayBuffer(algorithmBytes));
    try {
      call("psi_cublaslt_find", algorithm, ...numbers(shape));
    } catch (error) {
      if (error instanceof PsionicError && error.code === "unsupported") return undefined;
      throw error;
    }
    return algorithm.toHex();
  }

  /** From now on products of this shape are made by this algorithm; undefined: by psionic's own kernels. */
  use(shape: ProductShape, algorithm: string | undefined): void {
    call("psi_cublaslt_use", algorithm === undefined ? 0 : bytesOf(algorithm), ...numbers(shape));
  }

  [Symbol.dispose](): void {
    call("psi_cublaslt_close");
  }
}

function bytesOf(algorithm: string): Uint8Array {
  if (/^[0-9a-f]{128}$/.test(algorithm)) return Uint8Array.fromHex(algorithm);
  throw unexpected("invalid_argument", "cublaslt", `${algorithmBytes} bytes in hex`, algorithm);
}

/** What a call of `gemm` with these sizes is given as scratch, bytes. */
function scratchBytes({ k, n, transB, dtype }: ProductShape): number {
  const b = { dtype: "bf16", shape: transB ? [n, k] : [k, n], packed: false } as const;
  const a = { dtype: "bf16", shape: [1, k], packed: false } as const;
  return gemm.scratchBytes?.([a, b], { transA: false, transB, dtype }) ?? 0;
}

function numbers(shape: ProductShape): number[] {
  const { batch, m, n, k, transA, transB, dtype } = shape;
  return [batch, m, n, k, transA ? 1 : 0, transB ? 1 : 0, dtypes[dtype].id, scratchBytes(shape)];
}

function call(symbol: string, ...args: (number | ArrayBufferView)[]): void {
  const { functions, lastError } = kernelLibrary("cuda");
  checkStatus(functions.get(symbol)!(...args), symbol, lastError);
}

const cString = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`);
