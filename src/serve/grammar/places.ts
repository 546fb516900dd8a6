import type { CharBytes } from "./char_bytes.ts";

/**
 * A place in one rule: where a text stands that has matched the rule so far. Places are made as they are reached, and what
 * follows from one is computed once.
 */
export class Place {
  readonly id: number;
  /** Rules that must be gone into at least to get to the end of this one. */
  readonly need: number;
  /** The rule may end here. */
  readonly ends: boolean;
  readonly kind: "nodes" | "loop" | "word";
  /** Of nodes: sorted, everything that follows without a byte included. */
  readonly nodes: Int32Array;
  /** Of a loop: characters so far, and the place within one. */
  readonly loop: Loop | undefined;
  readonly count: number;
  readonly within: number;
  /** Of a list of words: those from `low` to `high` begin with the text so far, `count` bytes. */
  readonly words: readonly string[];
  readonly low: number;
  readonly high: number;
  /** A byte may follow within the rule. */
  readonly takesBytes: boolean;
  /** The rule ends here and nothing can follow in it: who would return here returns further at once. */
  readonly last: boolean;
  next: (Place | null)[] | undefined;
  calls: readonly Call[] | undefined;
  tokens: ReadonlyMap<number, Place> | undefined;

  constructor(id: number, need: number, ends: boolean, kind: Place["kind"], parts: PlaceParts) {
    this.id = id;
    this.need = need;
    this.ends = ends;
    this.kind = kind;
    this.nodes = parts.nodes ?? noNodes;
    this.loop = parts.loop;
    this.count = parts.count ?? 0;
    this.within = parts.within ?? 0;
    this.words = parts.words ?? [];
    this.low = parts.low ?? 0;
    this.high = parts.high ?? 0;
    this.last = parts.last ?? false;
    this.takesBytes = parts.takesBytes ?? true;
  }
}

export type PlaceParts = Partial<
  Pick<Place, "nodes" | "loop" | "count" | "within" | "words" | "low" | "high" | "last" | "takesBytes">
>;
const noNodes = new Int32Array(0);

/** A rule that may begin at a place, and the place behind it. */
export type Call = { readonly start: Place; readonly behind: Place };

/** A rule for `min` to `max` characters of one set; states of `bytes` are places within a character. */
export type Loop = {
  readonly key: string;
  readonly min: number;
  readonly max: number;
  readonly bytes: CharBytes;
  readonly places: Map<number, Place>;
};

/** Where rules go on that called others: a stack as a tree, so that equal stacks are one. */
export class Frame {
  readonly id: number;
  readonly place: Place | undefined;
  readonly parent: Frame | undefined;
  readonly depth: number;
  readonly children = new Map<Place, Frame>();
  readonly states = new Map<Place, State>();

  constructor(id: number, place: Place | undefined, parent: Frame | undefined) {
    this.id = id;
    this.place = place;
    this.parent = parent;
    this.depth = parent === undefined ? 0 : parent.depth + 1;
  }
}

/** Tokens that may follow, a bit for each: token i is bit i % 32 of word i / 32. */
export type Mask = Int32Array;

/** Where a text may stand in a grammar: places with the frames they return to. */
export class State {
  readonly places: readonly Place[];
  readonly frames: readonly Frame[];
  /** The same with the beginnings of rules that may be called and the ends that may be returned to. */
  openPlaces: Place[] | undefined;
  openFrames: Frame[] = [];
  /** The text may end here. */
  complete = false;
  /** What follows, by byte: a short list at first, a table once it is worth one. */
  table: (State | null | undefined)[] | undefined;
  readonly bytes: number[] = [];
  readonly after: (State | null)[] = [];
  mask: Mask | undefined;
  /** Of a single reading: tokens whose first byte its place takes itself. */
  direct: Mask | undefined;
  /** The deepest frame after opening; -1 before that was looked at. */
  deepest = -1;

  constructor(places: readonly Place[], frames: readonly Frame[]) {
    this.places = places;
    this.frames = frames;
  }
}
