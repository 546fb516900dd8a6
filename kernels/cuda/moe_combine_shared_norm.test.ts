import { expect, test } from "bun:test";
import { dtypes } from "../../src/core/dtype.ts";
import { PACKED, randomFloats } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";
import { packedOnDevice } from "./weights.ts";

test.each([
  [1, 1, 516],
  [3, 8, 1028],
  [1, 8, 2048],
  [2, 5, 3000],
  [2, 3, 4096],
  [1, 17, 1024],
])("%i tokens of %i experts, %i wide: the bits of the ops one after the other", (tokens, used, width) => {
  const count = tokens * width;
  const [x, weights] = [onDevice(randomFloats(used * count, 2)), onDevice(randomFloats(tokens * used, 3))];
  const [base, b, shared] = [4, 5, 6].map((seed) => randomFloats(count, seed));
  const [bs, own, norm] = [onDevice(b!), onDevice(shared!), onDevice(randomFloats(width, 7))];
  const gateFile = randomFloats(width, 8);
  const gate = packedOnDevice(
    "f32",
    new Uint8Array(gateFile.buffer, gateFile.byteOffset, 4 * width),
    1,
    width,
  );
  const [sum, factor, y, fused] = [
    onDevice(base!),
    deviceBytes(4 * tokens),
    deviceBytes(4 * count),
    deviceBytes(4 * count),
  ];
  check(cuda.psi_moe_combine_add!(sum, sum, x, weights, tokens, used, width));
  check(cuda.psi_matmul!(factor, bs, gate, null, null, tokens, 1, width, dtypes.f32.id | PACKED, 0));
  check(cuda.psi_add_gated!(sum, sum, own, factor, tokens, width));
  check(cuda.psi_rms_norm!(y, sum, norm, tokens, width, 0, 1, width, 1e-6));
  const total = onDevice(base!);
  const inputs = [total, x, weights, own, bs, gate, norm];
  check(cuda.psi_moe_combine_shared_norm!(total, fused, ...inputs, tokens, used, width, 1e-6));
  expect(floatsFromDevice(total, count)).toEqual(floatsFromDevice(sum, count));
  expect(floatsFromDevice(fused, count)).toEqual(floatsFromDevice(y, count));
});

test("widths that the kernel has no form for are refused", () => {
  const some = deviceBytes(4096);
  const call = (width: number) =>
    check(cuda.psi_moe_combine_shared_norm!(...Array(9).fill(some), 1, 1, width, 1e-6));
  for (const width of [512, 1026, 4100]) expect(() => call(width)).toThrow(/516 to 4096 in fours/);
});
