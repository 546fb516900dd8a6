import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { cudaLibrary, onFibers } from "../backends/testing/cuda_library.ts";
import { golden, relativeError, sameChoices, session } from "./testing/golden.ts";

// a busy machine runs fibers at a tenth of their speed
setDefaultTimeout(60_000);

/**
 * f32 arithmetic on bf16 weights against the same in another order of summation: measured 2e-6. CUDA takes activations
 * in two parts of bf16 for its products, and rounds them for attention's: measured 1.6e-4 (docs/log.md).
 */
const tolerances = { cpu: 1e-5, cuda: 1e-3 } as const;

const backends = cudaLibrary ? (["cpu", "cuda"] as const) : (["cpu"] as const);
const devices = new Map(
  backends.map((b) => [b, b === "cpu" ? openDevice(b, { threads: 2 }) : openDevice(b)]),
);
afterAll(() => {
  for (const device of devices.values()) device.close();
});

for (const name of ["qwen3_5", "qwen3_5_moe"]) {
  const reference = golden(name);
  const reason = reference ? "" : " (not in the fixtures: PSIONIC_GOLDEN names a folder that has it)";
  for (const backend of backends) {
    test.skipIf(!reference)(
      `${name} gives transformers' logits on ${backend}, at once and in parts${reason}`,
      () => {
        const device = devices.get(backend)!;
        const count = backend === "cuda" && onFibers ? 24 : reference!.ids.length;
        const ids = reference!.ids.slice(0, count);
        const logits = reference!.logits.subarray(0, count * reference!.vocabulary);
        const s = session(device, reference!, "f32");
        const whole = s.run([ids]);
        expect(relativeError(whole, logits)).toBeLessThan(tolerances[backend]);
        expect(sameChoices(whole, { ...reference!, ids, logits })).toBe(true);
        expect(s.run([ids.slice(0, 7), ids.slice(7, 8), ids.slice(8, 21), ids.slice(21)])).toEqual(whole);
        if (!onFibers || backend === "cpu") expect(s.run(ids.map((id) => [id]))).toEqual(whole);
        s.close();
        expect(device.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
      },
    );
  }
}
