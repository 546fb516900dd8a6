import type { Steps } from "../../core/steps.ts";
import { widthAt } from "./characters.ts";
import type { Split } from "./split.ts";

/**
 * A longer piece is cut, as the words are that vocabularies are made of (`data`): the merges of one that fills a request would take
 * a thread half a minute and hundreds of megabytes. People write no such words; letters of a genome have other tokens at the
 * cuts. UTF-16 units.
 */
export const MAX_PIECE_UNITS = 1 << 14;
/** Of many short pieces a step has about so many units. */
const STEP_UNITS = 1 << 13;

/** Goes over the pieces of a text, of which `visit` gets the places in a part of the text. */
export function* eachPiece(
  text: string,
  split: Split,
  visit: (part: string, start: number, end: number) => void,
): Steps<void> {
  let done = 0;
  for (let base = 0; base < text.length; ) {
    // a piece is looked for in a part of the text, in which every one that is short enough has its end
    const part = text.slice(base, base + 2 * MAX_PIECE_UNITS);
    const isLast = base + part.length === text.length;
    let start = 0;
    while (start < part.length && (isLast || start < MAX_PIECE_UNITS)) {
      const end = cutEnd(part, start, split(part, start));
      visit(part, start, end);
      done += end - start;
      start = end;
      if (done < STEP_UNITS) continue;
      done = 0;
      yield;
    }
    base += start;
  }
}

function cutEnd(text: string, start: number, end: number): number {
  if (end - start <= MAX_PIECE_UNITS) return end;
  const cut = start + MAX_PIECE_UNITS;
  return widthAt(text, cut - 1) === 2 ? cut - 1 : cut;
}
