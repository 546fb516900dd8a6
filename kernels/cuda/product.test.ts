import { expect, test } from "bun:test";
import { join } from "node:path";
import { dtypes } from "../../src/core/dtype.ts";
import { bits, floats, native, normalisedError, randomFloats } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";
import {
  chosenExperts,
  denseCases,
  digest,
  expertCases,
  expertProduct,
  gatedProduct,
  matrices,
  product,
} from "./product_bits.ts";

/** Activations and weights are rounded to bf16, 2^-9 of each value at most; for bf16 weights neither. */
const ROUNDED = 1e-4;
const IN_TWO_PARTS = 1e-9;

for (const c of denseCases) {
  test(`${c.dtype} [${c.outputs}, ${c.columns}] for ${c.rows} rows: near the reference, bits as for one row`, () => {
    const w = matrices(c, 1, 3);
    const x = randomFloats(c.rows * c.columns, 5);
    const bias = randomFloats(c.outputs, 7);
    const many = product(c, w, x, bias);

    const reference = floats(c.rows * c.outputs);
    const sizes = [c.rows, c.outputs, c.columns, dtypes[c.dtype].id, 0] as const;
    expect(native.psi_matmul_ref(reference, x, w.file, bias, null, ...sizes)).toBe(0);
    expect(normalisedError(many, reference)).toBeLessThan(c.dtype === "bf16" ? IN_TWO_PARTS : ROUNDED);

    for (const r of [0, c.rows >> 1, c.rows - 1]) {
      const alone = product(c, w, x.slice(r * c.columns, (r + 1) * c.columns), bias);
      expect(bits(many.slice(r * c.outputs, (r + 1) * c.outputs))).toEqual(bits(alone));
    }
  });
}

for (const c of expertCases) {
  test(`${c.experts} experts of ${c.dtype}, ${c.rows} tokens: bits as for one token, and with the gate as one after the other`, () => {
    const w = matrices(c, c.experts, 11);
    const x = randomFloats(c.rows * c.columns, 13);
    const bias = randomFloats(c.experts * c.outputs, 17);
    const ids = chosenExperts(c, 19);
    const many = expertProduct(c, w, x, bias, ids);
    const gated = gatedProduct(c, w, x, bias, ids);
    const features = c.outputs / 2;

    for (const t of [0, c.rows >> 1, c.rows - 1]) {
      const own = [
        x.slice(t * c.columns, (t + 1) * c.columns),
        bias,
        ids.slice(t * c.used, (t + 1) * c.used),
      ] as const;
      const alone = expertProduct(c, w, ...own);
      expect(bits(many.slice(t * c.used * c.outputs, (t + 1) * c.used * c.outputs))).toEqual(bits(alone));
      const aloneGated = gatedProduct(c, w, ...own);
      expect(bits(gated.slice(t * c.used * features, (t + 1) * c.used * features))).toEqual(bits(aloneGated));
    }

    const slots = c.rows * c.used;
    const pair = onDevice(many);
    const up = ((pair as number) + features * 4) as typeof pair;
    const y = deviceBytes(slots * features * 4);
    check(cuda.psi_glu!(y, pair, up, slots, features, c.outputs, c.outputs, 2, 1.702, 7));
    expect(bits(gated)).toEqual(bits(floatsFromDevice(y, slots * features)));
  });
}

test("mma.sync gives the bits of wgmma", async () => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "product_bits.ts")], {
    env: { ...process.env, PSIONIC_CUDA_WGMMA: "0" },
    stdout: "pipe",
    stderr: "inherit",
  });
  expect((await new Response(child.stdout).text()).trim()).toBe(digest());
}, 60_000);
