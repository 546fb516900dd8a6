/**
 * xoshiro128** (Blackman and Vigna 2018), its state filled by splitmix64 from a 64-bit seed and a stream number. The
 * same seed and stream give the same numbers on every machine; streams of one seed are the choices of one request.
 */
export class Random {
  private a: number;
  private b: number;
  private c: number;
  private d: number;

  constructor(seed: number, stream: number) {
    const start = BigInt.asUintN(64, BigInt(Math.trunc(seed)) + BigInt(stream) * streamStep);
    const [first, second] = [splitmix(start), splitmix(start + gamma)];
    this.a = Number(first & 0xffffffffn) | 0;
    this.b = Number(first >> 32n) | 0;
    this.c = Number(second & 0xffffffffn) | 0;
    this.d = Number(second >> 32n) | 1;
  }

  /** Uniform in [0, 1), 53 bits. */
  next(): number {
    const high = this.word() >>> 5;
    const low = this.word() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  private word(): number {
    const r = Math.imul(this.b, 5);
    const result = Math.imul((r << 7) | (r >>> 25), 9);
    const t = this.b << 9;
    this.c ^= this.a;
    this.d ^= this.b;
    this.b ^= this.c;
    this.a ^= this.d;
    this.c ^= t;
    this.d = (this.d << 11) | (this.d >>> 21);
    return result;
  }
}

/** A seed for a request that names none. */
export function randomSeed(): number {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high! & 0x1fffff) * 4294967296 + low!;
}

const gamma = 0x9e3779b97f4a7c15n;
/** Odd, so that streams of one seed never start alike; unlike gamma, so that neighbours do not share a word. */
const streamStep = 0xd1342543de82ef95n;

function splitmix(x: bigint): bigint {
  let z = BigInt.asUintN(64, x + gamma);
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  return z ^ (z >> 31n);
}
