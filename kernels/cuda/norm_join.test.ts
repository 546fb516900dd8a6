/** norm_add_norm and add_branches_norm: the bits of the ops that they are, each of which has its own test against the CPU. */
import { expect, test } from "bun:test";
import { randomFloats } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";

const eps = 1e-6;

test.each([
  [1, 4, 1, true],
  [7, 100, 0.3, true],
  [2, 512, 1.7, false],
  [2, 516, 0.3, true],
  [3, 2560, 0.7, true],
  [1, 4096, 1, false],
  [2, 5376, 1.1, true],
  [1, 8192, 0.9, true],
])("norm_add_norm, %i rows of %i, scale %d, followed by a norm: %p", (rows, width, scale, followed) => {
  const count = rows * width;
  const x = randomFloats(count, 1);
  const delta = onDevice(randomFloats(count, 2));
  const [w, next] = [onDevice(randomFloats(width, 3)), onDevice(randomFloats(width, 4))];
  const [o, y] = [deviceBytes(4 * count), deviceBytes(4 * count)];
  const norm = (to: typeof o, from: typeof o, by: typeof o) =>
    check(cuda.psi_rms_norm!(to, from, by, rows, width, 0, 1, width, eps));
  const sum = onDevice(x);
  norm(o, delta, w);
  check(cuda.psi_add_scaled!(sum, sum, o, count, scale));
  norm(y, sum, next);
  const fused = [onDevice(x), deviceBytes(4 * count)] as const;
  const last = followed ? [fused[1], fused[0], delta, w, next] : [null, fused[0], delta, w, null];
  check(cuda.psi_norm_add_norm!(fused[0], ...last, rows, width, eps, scale));
  expect(floatsFromDevice(fused[0], count)).toEqual(floatsFromDevice(sum, count));
  if (followed) expect(floatsFromDevice(fused[1], count)).toEqual(floatsFromDevice(y, count));
});

test.each([
  [1, 8, 2816],
  [3, 2, 128],
  [2, 5, 1000],
  [1, 1, 4096],
])("add_branches_norm, %i tokens, %i experts each, rows of %i", (tokens, used, width) => {
  const [count, scale] = [tokens * width, 0.6];
  const x = randomFloats(count, 1);
  const dense = onDevice(randomFloats(count, 2));
  const experts = onDevice(randomFloats(count * used, 3));
  const weights = onDevice(randomFloats(tokens * used, 4));
  const [denseW, expertsW, w, next] = [5, 6, 7, 8].map((seed) => onDevice(randomFloats(width, seed)));
  const room = () => deviceBytes(4 * count);
  const norm = (to: typeof dense, from: typeof dense, by: typeof w) =>
    check(cuda.psi_rms_norm!(to, from, by!, tokens, width, 0, 1, width, eps));
  const [e, m, y, sum] = [room(), room(), room(), onDevice(x)];
  check(cuda.psi_moe_combine!(e, experts, weights, tokens, used, width));
  norm(e, e, expertsW);
  norm(m, dense, denseW);
  check(cuda.psi_add!(m, m, e, count));
  norm(m, m, w);
  check(cuda.psi_add_scaled!(sum, sum, m, count, scale));
  norm(y, sum, next);
  const fused = [onDevice(x), room()] as const;
  const inputs = [fused[0], dense, experts, weights, denseW!, expertsW!, w!, next!] as const;
  check(cuda.psi_add_branches_norm!(...fused, ...inputs, tokens, used, width, eps, scale));
  expect(floatsFromDevice(fused[0], count)).toEqual(floatsFromDevice(sum, count));
  expect(floatsFromDevice(fused[1], count)).toEqual(floatsFromDevice(y, count));
});

test("widths that registers have no room for, and a norm without a place, are refused", () => {
  const at = deviceBytes(64);
  const call = (width: number, y: typeof at | null) =>
    check(cuda.psi_norm_add_norm!(at, y, at, at, at, at, 1, width, eps, 1));
  expect(() => call(8196, at)).toThrow(/norm_add_norm.*8192 in fours, got 1 and 8196/);
  expect(() => call(6, at)).toThrow(/in fours/);
  expect(() => call(8, null)).toThrow(/y where there is a next/);
  const branches = (used: number, width: number) =>
    check(cuda.psi_add_branches_norm!(at, at, at, at, at, at, at, at, at, at, 1, used, width, eps, 1));
  expect(() => branches(0, 8)).toThrow(/used from 1/);
  expect(() => branches(1, 4100)).toThrow(/4096 in fours/);
});
