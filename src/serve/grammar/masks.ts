import type { CharBytes } from "./char_bytes.ts";
import { type Machine, Pause } from "./machine.ts";
import type { Frame, Loop, Mask, Place, State } from "./places.ts";
import { maxDepth } from "./program.ts";
import type { TokenTrie } from "./token_trie.ts";

/**
 * Which tokens may follow, for states of one machine over one vocabulary.
 *
 * What a token does within the rule it begins in does not depend on the rules around it, so that is found once for each place
 * of a rule: the tokens that stay inside, and the nodes of the tree of tokens at which the rule may end. Only what lies below
 * those is followed through the rules around. In loops over one set of characters (texts in quotes above all) even the place
 * does not matter, only how many characters a token has: that is counted once for a set and a vocabulary.
 */
export class TokenMasks {
  readonly machine: Machine;
  private readonly trie: TokenTrie;
  private readonly locals = new Map<Place, Local>();
  private readonly holders: State[] = [];
  /** Masks of places in loops, by what is left of their counts. */
  private loops = new WeakMap<Frame, Map<string, Mask>>();
  /** Bytes of masks that are remembered. */
  bytes = 0;

  constructor(machine: Machine, trie: TokenTrie) {
    this.machine = machine;
    this.trie = trie;
  }

  /** Text tokens that may follow; must not be written. Throws `unsupported` when that takes too long to find. */
  mask(state: State): Mask {
    this.machine.bound(mostWork, mostMade);
    return this.find(state);
  }

  /** Looks for a mask for about so many milliseconds; false when there is more to do. Throws as `mask` does. */
  advance(state: State, search: Search, ms: number): boolean {
    const { machine } = this;
    const { work, made } = machine;
    machine.bound(mostWork - search.work, mostMade - search.made);
    machine.pauseAfter(ms);
    try {
      this.find(state);
      return true;
    } catch (error) {
      if (error instanceof Pause) return false;
      throw error;
    } finally {
      search.work += machine.work - work;
      search.made += machine.made - made;
      machine.bound(mostWork, mostMade);
    }
  }

  /** Gives up what is remembered; it would be found again. */
  forget(): void {
    for (const state of this.holders.splice(0)) {
      state.mask = undefined;
      state.direct = undefined;
    }
    this.locals.clear();
    this.loops = new WeakMap();
    this.machine.forget();
    this.bytes = 0;
  }

  private find(state: State): Mask {
    if (state.mask) return state.mask;
    this.machine.open(state);
    const places = state.openPlaces!;
    const parts: Mask[] = [];
    for (let i = 0; i < places.length; i++) {
      if (places[i]!.takesBytes) parts.push(this.direct(places[i]!, state.openFrames[i]!));
    }
    const mask = parts.length === 1 ? parts[0]! : new Int32Array(this.trie.maskWords);
    if (parts.length > 1) for (const part of parts) unite(mask, part);
    this.keep(state);
    state.mask = mask;
    if (parts.length !== 1) this.bytes += mask.byteLength;
    return mask;
  }

  /** Tokens whose first byte a place takes itself, not a rule that it calls or returns to. */
  private direct(place: Place, frame: Frame): Mask {
    const state = this.machine.stateOf(place, frame);
    if (state.direct) return state.direct;
    const { loop } = place;
    const mask =
      loop && place.within === 0
        ? this.inLoop(place, loop, frame)
        : this.counted(this.findLocal(place, frame));
    this.keep(state);
    state.direct = mask;
    return mask;
  }

  private counted(mask: Mask): Mask {
    this.bytes += mask.byteLength;
    return mask;
  }

  /** Counts that no token reaches are all the same. */
  private inLoop(place: Place, loop: Loop, frame: Frame): Mask {
    const far = this.trie.deepest + 1;
    const left = Math.min(loop.max - place.count, far);
    const least = Math.min(Math.max(1, loop.min - place.count), far);
    const key = `${loop.key} ${least} ${left}`;
    let masks = this.loops.get(frame);
    if (!masks) {
      masks = new Map();
      this.loops.set(frame, masks);
    }
    const known = masks.get(key);
    if (known) return known;
    const mask = this.counted(this.findLoop(place, loop, frame));
    masks.set(key, mask);
    return mask;
  }

  private keep(state: State): void {
    if (!state.mask && !state.direct) this.holders.push(state);
  }

  private findLocal(place: Place, frame: Frame): Mask {
    const local = this.local(place);
    if (frame.parent === undefined || local.exits.length === 0) {
      if (frame.depth + local.depth <= maxDepth) return local.inside;
    }
    const tooDeep = frame.depth + local.depth > maxDepth;
    const around = frame.parent && this.machine.stateOf(frame.place!, frame.parent);
    if (tooDeep || !around || (local.exits.length > manyExits && this.firstBytes(around).length > fewBytes)) {
      return this.walkAll(place, frame);
    }
    const mask = local.inside.slice();
    for (let i = 0; i < local.exits.length; i++) this.walkBelow(local.exits[i]!, around, mask);
    return mask;
  }

  private findLoop(place: Place, loop: Loop, frame: Frame): Mask {
    const counts = charCounts(this.trie, loop.key, loop.bytes);
    const left = loop.max - place.count;
    const inside = counts.upTo(left);
    if (frame.parent === undefined) return inside;
    const around = this.machine.stateOf(frame.place!, frame.parent);
    const first = this.firstBytes(around);
    if (first.length > fewBytes) return this.walkAll(place, frame);
    const mask = inside.slice();
    const least = Math.max(1, loop.min - place.count);
    const { trie } = this;
    for (const byte of first) {
      const next = this.machine.step(around, byte);
      if (!next) continue;
      const nodes = trie.nodesWith(byte);
      for (let i = 0; i < nodes.length; i++) {
        const above = trie.parent[nodes[i]!]!;
        if (above < 0) continue;
        const count = counts.atNode[above]!;
        if (count === noCount || count < least || count > left) continue;
        setTokens(mask, trie, nodes[i]!);
        this.walkBelow(nodes[i]!, next, mask);
      }
    }
    return mask;
  }

  /** Bytes that may follow a state. */
  private firstBytes(state: State): number[] {
    const bytes: number[] = [];
    for (let byte = 0; byte < 256; byte++) if (this.machine.step(state, byte)) bytes.push(byte);
    return bytes;
  }

  /** Every token, from a place on; what the first byte leads to is the place's own. */
  private walkAll(place: Place, frame: Frame): Mask {
    const { trie, machine } = this;
    const mask = new Int32Array(trie.maskWords);
    for (let node = 0; node < trie.size; node = trie.end[node]!) {
      const next = machine.stepOwn(place, frame, trie.byte[node]!);
      if (!next) continue;
      setTokens(mask, trie, node);
      this.walkBelow(node, next, mask);
    }
    return mask;
  }

  /** Follows the nodes below one at which the text is in `state`. */
  private walkBelow(above: number, state: State, mask: Mask): void {
    const { trie, machine } = this;
    const base = trie.depth[above]!;
    const to = trie.end[above]!;
    const path: State[] = [state];
    for (let node = above + 1; node < to; ) {
      const level = trie.depth[node]! - base;
      const next = machine.step(path[level - 1]!, trie.byte[node]!);
      if (next === null) {
        node = trie.end[node]!;
        continue;
      }
      setTokens(mask, trie, node);
      path[level] = next;
      node += 1;
    }
  }

  private local(place: Place): Local {
    const known = this.locals.get(place);
    if (known) return known;
    const { trie, machine } = this;
    const inside = new Int32Array(trie.maskWords);
    const exits: number[] = [];
    const path: State[] = [];
    let depth = 0;
    for (let node = 0; node < trie.size; ) {
      const level = trie.depth[node]! - 1;
      const byte = trie.byte[node]!;
      const next =
        level === 0 ? machine.stepOwn(place, machine.root, byte) : machine.step(path[level - 1]!, byte);
      if (next === null) {
        node = trie.end[node]!;
        continue;
      }
      machine.open(next);
      if (next.deepest < 0) next.deepest = deepest(next);
      depth = Math.max(depth, next.deepest);
      setTokens(inside, trie, node);
      if (next.complete) exits.push(node);
      path[level] = next;
      node += 1;
    }
    const local = { inside, exits: Int32Array.from(exits), depth };
    this.locals.set(place, local);
    this.bytes += inside.byteLength + local.exits.byteLength;
    return local;
  }
}

/** What looking for one mask has taken so far. */
export type Search = { work: number; made: number };

/** What tokens do from a place of a rule on, whatever is around the rule. */
type Local = {
  /** Tokens that the rule takes whole. */
  readonly inside: Mask;
  /** Nodes of the tree of tokens at which the rule may end. */
  readonly exits: Int32Array;
  /** How many rules deeper the tokens go at most. */
  readonly depth: number;
};

/** Readings and states that finding one mask may take; some tenths of a second. */
const mostWork = 8_000_000;
const mostMade = 200_000;
/** Around a rule that so many bytes may follow, walking everything is cheaper than walking from every exit. */
const fewBytes = 48;
const manyExits = 2048;

function deepest({ openFrames }: State): number {
  let depth = 0;
  for (const frame of openFrames) depth = Math.max(depth, frame.depth);
  return depth;
}

function setTokens(mask: Mask, trie: TokenTrie, node: number): void {
  const { first, ids } = trie;
  for (let i = first[node]!; i < first[node + 1]!; i++) {
    const id = ids[i]!;
    mask[id >> 5]! |= 1 << (id & 31);
  }
}

export function unite(mask: Mask, other: Mask): void {
  for (let i = 0; i < mask.length; i++) mask[i]! |= other[i]!;
}

const noCount = 255;

/** How many characters of a set the tokens of a vocabulary have. */
class CharCounts {
  /** Characters of the bytes to a node, where they are whole ones; 255 elsewhere. */
  readonly atNode: Uint8Array;
  private readonly trie: TokenTrie;
  /** Tokens by the characters they begin. */
  private readonly byCount: number[][] = [];
  private readonly masks: Mask[] = [];
  private whole: Mask | undefined;

  constructor(trie: TokenTrie, bytes: CharBytes) {
    this.trie = trie;
    this.atNode = new Uint8Array(trie.size).fill(noCount);
    const within = new Int32Array(trie.deepest + 1);
    const whole = new Int32Array(trie.deepest + 1);
    for (let node = 0; node < trie.size; ) {
      const level = trie.depth[node]!;
      const to = bytes.next[256 * within[level - 1]! + trie.byte[node]!]!;
      if (to === -1) {
        node = trie.end[node]!;
        continue;
      }
      within[level] = to === -2 ? 0 : to;
      whole[level] = whole[level - 1]! + (to === -2 ? 1 : 0);
      if (to === -2) this.atNode[node] = whole[level]!;
      const begun = whole[level]! + (to === -2 ? 0 : 1);
      for (let i = trie.first[node]!; i < trie.first[node + 1]!; i++) {
        this.byCount[begun] ??= [];
        this.byCount[begun]!.push(trie.ids[i]!);
      }
      node += 1;
    }
  }

  /** Tokens of at most `most` characters, a last one begun included. */
  upTo(most: number): Mask {
    if (most >= this.byCount.length - 1) {
      this.whole ??= this.withTokens(new Int32Array(this.trie.maskWords), this.byCount.flat());
      return this.whole;
    }
    for (let n = this.masks.length; n <= most; n++) {
      const fewer = n === 0 ? new Int32Array(this.trie.maskWords) : this.masks[n - 1]!.slice();
      this.masks.push(this.withTokens(fewer, this.byCount[n] ?? []));
    }
    return this.masks[most]!;
  }

  private withTokens(mask: Mask, ids: readonly number[]): Mask {
    for (let i = 0; i < ids.length; i++) mask[ids[i]! >> 5]! |= 1 << (ids[i]! & 31);
    return mask;
  }
}

const countsOf = new WeakMap<TokenTrie, Map<string, CharCounts>>();
const mostSets = 32;

function charCounts(trie: TokenTrie, key: string, bytes: CharBytes): CharCounts {
  let sets = countsOf.get(trie);
  if (!sets) {
    sets = new Map();
    countsOf.set(trie, sets);
  }
  const known = sets.get(key);
  if (known) return known;
  const counts = new CharCounts(trie, bytes);
  const oldest = sets.keys().next().value;
  if (sets.size >= mostSets && oldest !== undefined) sets.delete(oldest);
  sets.set(key, counts);
  return counts;
}
