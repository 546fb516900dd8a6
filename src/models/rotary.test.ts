import { expect, test } from "bun:test";
import { rotary } from "./rotary.ts";

const yarn = {
  ...({ type: "yarn", factor: 32, originalContext: 4096 } as const),
  ...{ betaFast: 32, betaSlow: 1, attentionFactor: 1 },
};

/** Frequencies of GPT-OSS (head 64, base 150000) without and with whole bounds. */
test.each([
  [
    false,
    { 0: 1, 8: 0.0508132748, 9: 0.0317056962, 12: 0.00679495949, 17: 0.000129318701, 31: 3.02351143e-7 },
  ],
  [
    true,
    { 0: 1, 8: 0.0508132748, 9: 0.0316207523, 12: 0.00701571391, 17: 0.000227947796, 31: 3.02351143e-7 },
  ],
] as const)("YaRN with rounded bounds %p", (round, expected) => {
  const { invFreq, mscale } = rotary(150000, 64, { ...yarn, round });
  for (const [pair, value] of Object.entries(expected)) {
    expect(Math.abs(invFreq[Number(pair)]! / value - 1)).toBeLessThan(1e-6);
  }
  expect(mscale).toBeCloseTo(1.3465735903, 9);
});

test("Llama 3 scaling keeps fast pairs and divides slow ones", () => {
  const scaling = { type: "llama3", factor: 8, lowFactor: 1, highFactor: 4, originalContext: 8192 } as const;
  const plain = rotary(5e5, 128, { type: "none" }).invFreq;
  const scaled = rotary(5e5, 128, scaling).invFreq;
  expect(scaled[0]).toBe(plain[0]!);
  expect(scaled[63]! * 8).toBeCloseTo(plain[63]!, 12);
  const factors = new Float32Array(64).fill(4);
  expect(rotary(5e5, 128, { type: "none" }, factors).invFreq[5]).toBeCloseTo(plain[5]! / 4, 10);
});

test("linear scaling divides every frequency", () => {
  expect(rotary(10000, 8, { type: "linear", factor: 4 }).invFreq[0]).toBe(0.25);
});
