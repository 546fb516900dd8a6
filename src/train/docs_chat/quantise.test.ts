/** The blocks of exported files against the kernels' quantiser, and what training rounds to against those blocks. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { check, floats, native, randomFloats } from "../../../kernels/cpu/library.ts";
import { run as call } from "../../../kernels/cpu/twins.ts";
import { dtypes, rowBytes } from "../../core/dtype.ts";
import { roundingFormats } from "../../ir/ops/block_round.ts";
import { quantised } from "./quantise.ts";

const count = 32 * 200;

beforeAll(() => check(native.psi_open("" as never, 1)));
afterAll(() => check(native.psi_close()));

/** Blocks of all sizes, of zeros, of one value, and on the borders between codes. */
function values(): Float32Array {
  const x = randomFloats(count, 11);
  for (let i = 0; i < count; i++) x[i]! *= 2 ** ((Math.floor(i / 32) % 60) * 4 - 140);
  x.fill(0, 0, 32);
  x.fill(-0.75, 32, 64);
  for (let i = 0; i < 32; i++) x[64 + i] = (i - 16) / 4;
  for (let i = 0; i < 32; i++) x[96 + i] = (i - 15.5) / 127;
  return x;
}

test.each([...roundingFormats])("%s", (format) => {
  const x = values();
  const bytes = rowBytes(format, count);
  const native8 = new Uint8Array(new ArrayBuffer(bytes + 64), 0, bytes);
  check(native.psi_quantize(native8, x, 1, count, dtypes[format].id));
  const own = quantised(x, format);
  expect(Buffer.from(own).equals(Buffer.from(native8))).toBe(true);
  const [back, rounded] = [floats(count), floats(count)];
  check(native.psi_dequantize(back, native8, 1, count, dtypes[format].id));
  call("block_round", rounded, x, dtypes[format].id, dtypes.f32.id, count);
  expect([...rounded]).toEqual([...back]);
  // what was rounded once stays
  const again = floats(count);
  call("block_round", again, rounded, dtypes[format].id, dtypes.f32.id, count);
  if (format === "mxfp4") expect([...again]).toEqual([...rounded]);
});
