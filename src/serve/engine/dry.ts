/**
 * For each token that followed an earlier occurrence of the end of `history`, the length of the longest such
 * repetition: `[token, length]`. Only `history[start..]` is looked at. A repetition does not reach across a breaker,
 * and a token that is a breaker by itself is never named.
 */
export function repeatedContinuations(
  history: ArrayLike<number>,
  start: number,
  breakers: readonly (readonly number[])[],
): Map<number, number> {
  const found = new Map<number, number>();
  const n = history.length - start;
  const reach = tokensSinceBreaker(history, start, breakers);
  if (n < 2 || reach === 0) return found;
  const lone = new Set(breakers.filter((b) => b.length === 1).map((b) => b[0]!));
  const end = history.length - 1;
  const common = backwardMatches(history, n);
  for (let i = 1; i < n; i++) {
    const length = Math.min(common[i]!, reach);
    if (length === 0) continue;
    const next = history[end - i + 1]!;
    if (length > (found.get(next) ?? 0) && !lone.has(next)) found.set(next, length);
  }
  return found;
}

/** common[i]: how many tokens ending i places before the end equal those ending at the end (Z algorithm, O(n)). */
function backwardMatches(history: ArrayLike<number>, n: number): Int32Array {
  const end = history.length - 1;
  const common = new Int32Array(n);
  let left = 0;
  let right = 0;
  for (let i = 1; i < n; i++) {
    let length = i < right ? Math.min(right - i, common[i - left]!) : 0;
    while (i + length < n && history[end - length] === history[end - i - length]) length += 1;
    common[i] = length;
    if (i + length > right) {
      left = i;
      right = i + length;
    }
  }
  return common;
}

/** Tokens after the last breaker; all of the window when there is none. */
function tokensSinceBreaker(
  history: ArrayLike<number>,
  start: number,
  breakers: readonly (readonly number[])[],
): number {
  for (let at = history.length - 1; at >= start; at--) {
    let longest = 0;
    for (const breaker of breakers) {
      if (breaker.length <= longest || at + breaker.length > history.length) continue;
      if (breaker.every((token, i) => history[at + i] === token)) longest = breaker.length;
    }
    if (longest > 0) return history.length - at - longest;
  }
  return history.length - start;
}
