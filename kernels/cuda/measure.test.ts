import { expect, test } from "bun:test";
import { check, cuda, onFibers } from "./library.ts";

test("the tensor cores do some Tflop in a second, and a place for the result is needed", () => {
  const out = new Float64Array(new ArrayBuffer(64));
  check(cuda.psi_measure_tensor!(out));
  expect(out[0]).toBeGreaterThan(onFibers ? 0 : 10);
  expect(() => check(cuda.psi_measure_tensor!(null))).toThrow(/measure_tensor.*null/);
});
