import type { StateKeep } from "../../models/model.ts";
import type { Part } from "./assemble.ts";
import { pageSize } from "./pages.ts";
import type { PrefixTree } from "./prefix_tree.ts";
import type { Sequence } from "./sequence.ts";
import type { StateSlots } from "./state_slots.ts";

/**
 * Tokens at the end of a prompt that open the answer (`<|im_start|>assistant`, `<think>`): the next turn's prompt may go on
 * differently there, so the state to keep is one before them.
 */
const openingTokens = 8;
/** A state inside a prompt takes a slot, and may end a step there: not worth it for fewer tokens, which are read again as fast. */
const leastSaved = 64;

/** Where the prompt parted from a known one, and before its end, if that is far enough from what is cached; `keeps`: at all. */
export function chooseStates(sequence: Sequence, matched: number, keeps: boolean): void {
  const least = leastSaved / pageSize;
  const cached = sequence.computed / pageSize;
  const end = Math.floor((sequence.length - openingTokens) / pageSize);
  sequence.branchPage = keeps && matched - cached >= least ? matched : 0;
  sequence.statePage = keeps && end - Math.max(cached, sequence.branchPage) >= least ? end : 0;
}

/** Recurrent states that a step keeps on its way past the places where its prompts want them; `reserved` slots stay. */
export function keptInside(
  parts: readonly Part[],
  states: StateSlots,
  tree: PrefixTree,
  reserved: number,
): StateKeep[] {
  const keeps: StateKeep[] = [];
  let row = 0;
  for (const { sequence, count } of parts) {
    const at = sequence.statePage * pageSize - sequence.computed;
    if (at > 0 && at < count) {
      const to = sequence.keepInside(states, tree, reserved);
      if (to >= 0) keeps.push({ row: row + at, from: sequence.stateSlot, to });
    }
    row += count;
  }
  return keeps;
}
