/** Each op with its plain-loop reference, bound by the op table's signatures: for the tests of this folder. */
import { dlopen, FFIType } from "bun:ffi";
import { type ArgumentType, hasBackend } from "../../src/ir/op.ts";
import { ops } from "../../src/ir/ops/index.ts";
import { check, path } from "./library.ts";

type Argument = number | ArrayBufferView | null;
type Native = (...args: Argument[]) => number;

const types: Record<ArgumentType, FFIType> = {
  ptr: FFIType.ptr,
  i32: FFIType.i32,
  f32: FFIType.f32,
  f64: FFIType.f64,
};

const table = Object.fromEntries(
  ops
    .filter((op) => hasBackend(op, "cpu"))
    .flatMap(({ name, signature }) =>
      [`psi_${name}`, `psi_${name}_ref`].map((symbol) => [
        symbol,
        { args: signature.map((t) => types[t]), returns: FFIType.i32 },
      ]),
    ),
);
const symbols = dlopen(path, table).symbols as unknown as Readonly<Record<string, Native>>;

/** Calls `psi_<name>`; a status becomes an exception with the library's text. */
export function run(name: string, ...args: Argument[]): void {
  check(symbols[`psi_${name}`]!(...args));
}

export function runReference(name: string, ...args: Argument[]): void {
  check(symbols[`psi_${name}_ref`]!(...args));
}

export function ints(values: readonly number[]): Int32Array {
  const out = new Int32Array(new ArrayBuffer(Math.max(2048, values.length * 4)), 0, values.length);
  out.set(values);
  return out;
}

/** Largest |a - b| / (1 + |b|). */
export function largestError(a: Float32Array, b: Float32Array): number {
  let worst = 0;
  for (let i = 0; i < b.length; i++) {
    const error = Math.abs(a[i]! - b[i]!) / (1 + Math.abs(b[i]!));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}
