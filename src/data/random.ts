/** Numbers that a text names: the same on every machine. */
import { sha256 } from "../core/digest.ts";

/** Uniform 32-bit numbers (xoshiro128**, its state the first half of SHA-256 of the text). */
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
