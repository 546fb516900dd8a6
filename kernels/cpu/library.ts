/**
 * The kernel library for the tests of this folder: built if stale, or the one that PSIONIC_CPU_LIBRARY names; bound
 * directly, with memory and seeded data.
 */
import { dlopen, type Pointer } from "bun:ffi";
import { join } from "node:path";
import { type DType, dtypes, rowBytes } from "../../src/core/dtype.ts";
import { buildCpuLibrary } from "../build.ts";

const named = process.env.PSIONIC_CPU_LIBRARY;
export const path = named ?? (await buildCpuLibrary(join(import.meta.dir, "..", "..", ".cache", "native")));

const matmul = ["ptr", "ptr", "ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "f64"] as const;
const moe = [
  ...([
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "ptr",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "f64",
  ] as const),
] as const;
const rows = ["ptr", "ptr", "i32", "i32", "i32"] as const;
const embedding = ["ptr", "ptr", "ptr", "i32", "i32", "i32", "i32", "f32"] as const;

export const { symbols: native } = dlopen(path, {
  psi_last_error: { args: [], returns: "cstring" },
  psi_open: { args: ["cstring", "i32"], returns: "i32" },
  psi_close: { args: [], returns: "i32" },
  psi_info: { args: ["ptr", "i32"], returns: "i32" },
  psi_alloc: { args: ["ptr", "f64"], returns: "i32" },
  psi_free: { args: ["ptr", "f64"], returns: "i32" },
  psi_copy: { args: ["ptr", "ptr", "f64"], returns: "i32" },
  psi_map: { args: ["ptr", "ptr", "cstring"], returns: "i32" },
  psi_unmap: { args: ["ptr", "f64"], returns: "i32" },
  psi_advise: { args: ["ptr", "f64", "i32"], returns: "i32" },
  psi_measure: { args: ["ptr", "ptr", "ptr", "f64"], returns: "i32" },
  psi_pack: { args: [...rows], returns: "i32" },
  psi_pack_file: { args: ["ptr", "cstring", "i32", "i32", "i32", "f64"], returns: "i32" },
  psi_packed_bytes: { args: ["ptr", "i32", "i32", "i32"], returns: "i32" },
  psi_dequantize: { args: [...rows], returns: "i32" },
  psi_dequantize_ref: { args: [...rows], returns: "i32" },
  psi_quantize: { args: [...rows], returns: "i32" },
  psi_matmul: { args: [...matmul], returns: "i32" },
  psi_matmul_ref: { args: [...matmul], returns: "i32" },
  psi_moe_matmul: { args: [...moe], returns: "i32" },
  psi_moe_matmul_ref: { args: [...moe], returns: "i32" },
  psi_embedding: { args: [...embedding], returns: "i32" },
  psi_embedding_ref: { args: [...embedding], returns: "i32" },
});

export function check(status: number): void {
  if (status !== 0) throw new Error(String(native.psi_last_error()));
}

/** Levels this processor can run, lowest first. */
export const levels: readonly string[] = (() => {
  check(native.psi_open("", 1));
  const text = new Uint8Array(4096);
  check(native.psi_info(text, text.length));
  check(native.psi_close());
  return /levels=(.*)/.exec(new TextDecoder().decode(text))![1]!.split(",");
})();

/** Runs `body` with the library open at a level and thread count. */
export function opened<T>(level: string, threads: number, body: () => T): T {
  check(native.psi_open(level, threads));
  try {
    return body();
  } finally {
    check(native.psi_close());
  }
}

/** Native bytes that live until the test process ends. */
export function bytesAt(size: number): Pointer {
  const address = new BigUint64Array(1);
  check(native.psi_alloc(address, size));
  return Number(address[0]) as Pointer;
}

/** A float array whose storage does not move between calls. */
export function floats(count: number): Float32Array {
  return new Float32Array(new ArrayBuffer(Math.max(2048, count * 4)), 0, count);
}
export function bits(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/** Seeded 32-bit integers (xorshift). */
export function random(seed: number): () => number {
  let state = (seed * 2654435761 + 12345) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
}
export function randomFloats(count: number, seed: number): Float32Array {
  const next = random(seed);
  const out = floats(count);
  for (let i = 0; i < count; i++) out[i] = (next() / 2 ** 31 - 1) * (1 + (i % 7));
  return out;
}

/** Byte offsets of the f16 fields of a block, which random bits must not turn into infinities. */
const halfFields: Partial<Record<DType, readonly number[]>> = {
  q8_0: [0],
  q4_0: [0],
  q4_1: [0, 2],
  q5_0: [0],
  q5_1: [0, 2],
  iq4_nl: [0],
  q2_k: [80, 82],
  q3_k: [108],
  q4_k: [0, 2],
  q5_k: [0, 2],
  q6_k: [208],
  iq4_xs: [0],
};

/** A matrix in file layout: random bits, with scales of both signs and moderate size. */
export function randomWeights(dtype: DType, outputs: number, columns: number, seed: number): Uint8Array {
  const next = random(seed);
  const { blockElements, blockBytes } = dtypes[dtype];
  const data = new Uint8Array(new ArrayBuffer(Math.max(2048, outputs * rowBytes(dtype, columns))), 0);
  const count = (outputs * columns) / blockElements;
  const view = new DataView(data.buffer);
  for (let b = 0; b < count; b++) {
    const at = b * blockBytes;
    if (dtype === "f32") view.setFloat32(at, next() / 2 ** 31 - 1, true);
    else if (dtype === "f64") view.setFloat64(at, next() / 2 ** 31 - 1, true);
    else if (dtype === "f16") view.setUint16(at, 0x3000 ^ (next() & 0x8fff), true);
    else if (dtype === "bf16") view.setUint16(at, 0x3e00 ^ (next() & 0x80ff), true);
    else {
      for (let i = 0; i < blockBytes; i++) data[at + i] = next() >>> 13;
      for (const field of halfFields[dtype] ?? [])
        view.setUint16(at + field, 0x2000 ^ (next() & 0x87ff), true);
      if (dtype === "mxfp4") data[at] = 120 + (next() & 7);
    }
  }
  return data;
}

export const quantisedTypes = (Object.keys(dtypes) as DType[]).filter((t) => dtypes[t].blockElements > 1);
export const floatTypes: readonly DType[] = ["f32", "f16", "bf16"];
export const PACKED = 256;
/** Activations of 16 bits. */
export const A16 = 512;

/** Packs a matrix; returns its address, good until the process ends. */
export function packed(
  dtype: DType,
  weights: Uint8Array,
  outputs: number,
  columns: number,
  experts = 1,
): Pointer {
  const size = new Float64Array(256);
  check(native.psi_packed_bytes(size, outputs, columns, dtypes[dtype].id));
  const address = bytesAt(experts * size[0]!);
  const fileBytes = outputs * rowBytes(dtype, columns);
  for (let e = 0; e < experts; e++) {
    const source = weights.subarray(e * fileBytes, (e + 1) * fileBytes);
    const target = ((address as number) + e * size[0]!) as Pointer;
    check(native.psi_pack(target, source, outputs, columns, dtypes[dtype].id));
  }
  return address;
}

/** Squared error over squared reference. */
export function normalisedError(got: Float32Array, reference: Float32Array): number {
  let error = 0;
  let size = 0;
  for (let i = 0; i < reference.length; i++) {
    error += (got[i]! - reference[i]!) ** 2;
    size += reference[i]! ** 2;
  }
  return size === 0 ? error : error / size;
}
