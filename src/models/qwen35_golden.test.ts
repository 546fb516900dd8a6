import { afterAll, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { golden, relativeError, sameChoices, session } from "./testing/golden.ts";

/** f32 arithmetic on bf16 weights against the same in another order of summation: measured 2e-6. */
const tolerance = 1e-5;

const device = openDevice("cpu", { threads: 2 });
afterAll(() => device.close());

for (const name of ["qwen3_5", "qwen3_5_moe"]) {
  const reference = golden(name);
  const reason = reference ? "" : " (not in the fixtures: PSIONIC_GOLDEN names a folder that has it)";
  test.skipIf(!reference)(`${name} gives transformers' logits, at once and in parts${reason}`, () => {
    const { ids, logits } = reference!;
    const s = session(device, reference!, "f32");
    const whole = s.run([ids]);
    expect(relativeError(whole, logits)).toBeLessThan(tolerance);
    expect(sameChoices(whole, reference!)).toBe(true);
    expect(s.run([ids.slice(0, 7), ids.slice(7, 8), ids.slice(8, 41), ids.slice(41)])).toEqual(whole);
    expect(s.run(ids.map((id) => [id]))).toEqual(whole);
    s.close();
    expect(device.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
  });
}
