import { sha256 } from "../core/digest.ts";

/** Uniform 32-bit numbers from a text; the same text gives the same numbers on every machine (xoshiro128**). */
export function randomBits(seed: string): () => number {
  const digest = sha256(seed);
  let [a, b, c, d] = [0, 8, 16, 24].map((at) => Number.parseInt(digest.slice(at, at + 8), 16)) as [
    number,
    number,
    number,
    number,
  ];
  const turn = (x: number, k: number): number => (x << k) | (x >>> (32 - k));
  return () => {
    const result = Math.imul(turn(Math.imul(b, 5), 7), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = turn(d, 11);
    return result;
  };
}

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

/** The numbers 0 .. count - 1 in an order that the seed names (Fisher and Yates). */
export function shuffled(seed: string, count: number): Uint32Array {
  const bits = randomBits(seed);
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor((bits() / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
