import { randomBits } from "../data/random.ts";

export { randomBits, shuffled } from "../data/random.ts";

/** Normal numbers of mean 0: Box and Muller's pairs. */
export function normalNumbers(seed: string, count: number, deviation: number): Float32Array {
  const bits = randomBits(seed);
  const out = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = deviation * Math.sqrt(-2 * Math.log((bits() + 1) / 2 ** 32));
    const angle = (2 * Math.PI * bits()) / 2 ** 32;
    out[i] = radius * Math.cos(angle);
    if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

/** Numbers between -limit and limit. */
export function uniformNumbers(seed: string, count: number, limit: number): Float32Array {
  const bits = randomBits(seed);
  return Float32Array.from({ length: count }, () => limit * (bits() / 2 ** 31 - 1));
}
