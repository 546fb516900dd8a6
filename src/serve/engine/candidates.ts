import { logSumExp, type Ranked } from "./select.ts";

/**
 * The stages that narrow down candidates. Each takes candidates in descending order and keeps at least one; order and
 * ties are fixed, so a stage gives the same result on every run.
 */

/** Smallest prefix whose probability reaches `p`. */
export function keepTopP(c: Ranked, p: number): Ranked {
  if (p >= 1) return c;
  const total = logSumExp(c.values);
  return take(c, nucleusLength(c, total, p) ?? c.ids.length);
}

/** Smallest prefix whose share of a row reaches `p`, the row being `total` = log(sum(exp)); undefined when none does. */
export function nucleusWithin(c: Ranked, total: number, p: number): Ranked | undefined {
  const length = nucleusLength(c, total, p);
  return length === undefined ? undefined : take(c, length);
}

function nucleusLength(c: Ranked, total: number, p: number): number | undefined {
  let sum = 0;
  for (let i = 0; i < c.values.length; i++) {
    sum += Math.exp(c.values[i]! - total);
    if (sum >= p) return i + 1;
  }
  return undefined;
}

/** Logits at or above max + ln(p). */
export function keepMinP(c: Ranked, p: number): Ranked {
  if (p <= 0) return c;
  const floor = c.values[0]! + Math.log(p);
  let n = 1;
  while (n < c.values.length && c.values[n]! >= floor) n += 1;
  return take(c, n);
}

/**
 * Locally typical sampling (Meister et al. 2022): candidates by distance of their surprise from the entropy, until
 * their probability reaches `p`; given back in descending order of logits.
 */
export function keepTypical(c: Ranked, p: number): Ranked {
  if (p >= 1) return c;
  const total = logSumExp(c.values);
  const n = c.values.length;
  let entropy = 0;
  for (let i = 0; i < n; i++) {
    const logP = c.values[i]! - total;
    if (logP > -Infinity) entropy -= Math.exp(logP) * logP;
  }
  const distance = Float64Array.from(c.values, (x) => Math.abs(total - x - entropy));
  const order = Int32Array.from({ length: n }, (_, i) => i).sort(
    (i, j) => distance[i]! - distance[j]! || i - j,
  );
  let sum = 0;
  let kept = 0;
  while (kept < n && sum <= p) sum += Math.exp(c.values[order[kept++]!]! - total);
  return pick(c, order.subarray(0, Math.max(kept, 1)).sort());
}

/**
 * Exclude top choices: of the candidates with probability at or above the threshold only the least likely stays, if
 * there are two or more. The caller has drawn whether it applies.
 */
export function excludeTop(c: Ranked, threshold: number): Ranked {
  if (threshold > 0.5 || c.values.length < 2) return c;
  const total = logSumExp(c.values);
  let above = 0;
  while (above < c.values.length && Math.exp(c.values[above]! - total) >= threshold) above += 1;
  if (above < 2) return c;
  return { ids: c.ids.subarray(above - 1), values: c.values.subarray(above - 1) };
}

/** Token at place `u` in [0, 1) of the distribution softmax(values / temperature), candidates in their order. */
export function draw(c: Ranked, temperature: number, u: number): number {
  const n = c.values.length;
  let top = -Infinity;
  for (let i = 0; i < n; i++) if (c.values[i]! > top) top = c.values[i]!;
  const weights = new Float64Array(n);
  let total = 0;
  for (let i = 0; i < n; i++) {
    const w = Math.exp((c.values[i]! - top) / temperature);
    if (w > 0) weights[i] = w;
    total += weights[i]!;
  }
  const place = u * total;
  let sum = 0;
  let last = 0;
  for (let i = 0; i < n; i++) {
    if (weights[i] === 0) continue;
    sum += weights[i]!;
    last = i;
    if (place < sum) break;
  }
  return c.ids[last]!;
}

function take(c: Ranked, n: number): Ranked {
  return n >= c.ids.length ? c : { ids: c.ids.subarray(0, n), values: c.values.subarray(0, n) };
}

function pick(c: Ranked, places: Int32Array): Ranked {
  return { ids: places.map((i) => c.ids[i]!), values: Float32Array.from(places, (i) => c.values[i]!) };
}
