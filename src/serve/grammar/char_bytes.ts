import { bytePaths, type CharSet } from "./chars.ts";

/** How the bytes of one character follow each other: `next[256 * state + byte]`, -1 wrong, -2 complete. */
export type CharBytes = { readonly next: Int32Array; readonly states: number };

const charTables = new Map<string, CharBytes>();
const mostTables = 256;

/** Tables of equal sets are one, for all grammars. */
export function charBytes(key: string, set: CharSet): CharBytes {
  const known = charTables.get(key);
  if (known) return known;
  const table = buildCharBytes(bytePaths(set));
  if (charTables.size >= mostTables) charTables.clear();
  charTables.set(key, table);
  return table;
}

function buildCharBytes(paths: readonly number[][]): CharBytes {
  const rows: number[][] = [];
  const byKey = new Map<string, number>();
  // a state is the rests of the paths that are still possible
  const state = (rests: readonly number[][]): number => {
    const key = rests.map((rest) => rest.join()).join(";");
    const known = byKey.get(key);
    if (known !== undefined) return known;
    const number = rows.push(new Array<number>(256).fill(-1)) - 1;
    byKey.set(key, number);
    const row = rows[number]!;
    const cuts = new Set<number>();
    for (const rest of rests) cuts.add(rest[0]!).add(rest[1]! + 1);
    const sorted = [...cuts].sort((a, b) => a - b);
    for (let i = 0; i + 1 < sorted.length; i++) {
      const [from, to] = [sorted[i]!, sorted[i + 1]! - 1];
      const on = rests.filter((rest) => rest[0]! <= from && to <= rest[1]!);
      if (on.length === 0) continue;
      const target = on.some((rest) => rest.length === 2) ? -2 : state(on.map((rest) => rest.slice(2)));
      row.fill(target, from, to + 1);
    }
    return number;
  };
  state(paths);
  const next = new Int32Array(rows.length * 256);
  rows.forEach((row, i) => {
    next.set(row, 256 * i);
  });
  return { next, states: rows.length };
}
