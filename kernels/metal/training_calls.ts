/** Training's ops on Metal against the plain loops of the CPU's library: the same arguments to both. */
import type { Pointer } from "bun:ffi";
import { expect } from "bun:test";
import { floats, randomFloats } from "../cpu/library.ts";
import { largestError, runReference } from "../cpu/twins.ts";
import { check, fromDevice, metal, onDevice } from "./library.ts";

export type Argument = number | ArrayBufferView | null;
export type TrainingCall = {
  readonly name: string;
  /** Fresh arguments; the first `outputs` are compared. */
  readonly args: () => Argument[];
  readonly outputs: number;
  /** Of |a - b| / (1 + |b|). */
  readonly tolerance?: number;
  /** Places of pointers that may be null, and of sizes that may not be -1. */
  readonly optional?: readonly number[];
  readonly sizes: readonly number[];
  /** Where the type is; F64 there is refused. */
  readonly type?: number;
};

export const F32 = 0;
export const F64 = 28;
export const BF16 = 30;

/** Seeded numbers of some 0.2. */
export function small(count: number, seed = 1): Float32Array {
  const values = randomFloats(count, seed);
  for (let i = 0; i < count; i++) values[i]! *= 0.2;
  return values;
}

/** Scratch of so many bytes. */
export const scratch = (bytes: number): Float32Array => floats(Math.ceil(bytes / 4));

/** Calls `psi_<name>` of the Metal library on copies of the arrays, and returns what it left in the first `outputs`. */
export function runMetal(name: string, args: readonly Argument[], outputs: number): ArrayBufferView[] {
  const given = args.map((a) => (a === null || typeof a === "number" ? a : onDevice(a)));
  check(metal[`psi_${name}`]!(...given));
  return args.slice(0, outputs).map((a, i) => {
    const { byteLength } = a as Float32Array;
    const bytes = fromDevice(given[i] as Pointer, byteLength);
    const Kind = (a as Float32Array).constructor as Float32ArrayConstructor;
    return new Kind(bytes.buffer as ArrayBuffer, 0, byteLength / Kind.BYTES_PER_ELEMENT);
  });
}

/** Asserts that Metal's results are the reference's, and the same bits a second time. */
export function expectReference({ name, args, outputs, tolerance = 3e-6 }: TrainingCall): void {
  const want = args();
  const got = runMetal(name, args(), outputs);
  runReference(name, ...want);
  for (let i = 0; i < outputs; i++) {
    const [a, b] = [got[i]!, want[i]!];
    if (a instanceof Float32Array && b instanceof Float32Array)
      expect(largestError(a, b)).toBeLessThan(tolerance);
    else if (a instanceof Float64Array && b instanceof Float64Array)
      for (const [at, v] of b.entries())
        expect(Math.abs(a[at]! - v)).toBeLessThanOrEqual(1e-13 * Math.abs(v));
    else expect(a as Int32Array).toEqual(b as Int32Array);
  }
  expect(runMetal(name, args(), outputs)).toEqual(got);
}

/** Asserts that null pointers, negative sizes and F64 are refused by the op's name. */
export function expectRefusals({ name, args, optional = [], sizes, type }: TrainingCall): void {
  const good = args();
  const given = good.map((a) => (a === null || typeof a === "number" ? a : onDevice(a)));
  const pointers = good.flatMap((a, i) =>
    a === null || typeof a === "number" || optional.includes(i) ? [] : [i],
  );
  const changed = (at: number, value: number | null): (() => void) => {
    const call = given.with(at, value);
    return () => check(metal[`psi_${name}`]!(...call));
  };
  for (const at of pointers) expect(changed(at, null)).toThrow(`[psi_${name}]`);
  for (const at of sizes) expect(changed(at, -1)).toThrow(`[psi_${name}]`);
  if (type !== undefined) {
    expect(changed(type, F64)).toThrow(new RegExp(`\\[psi_${name}\\] expected F32.* got .*(F64|28)`));
  }
}
