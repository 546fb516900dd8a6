import { unexpected } from "../../core/error.ts";
import { charBytes } from "./char_bytes.ts";
import { type EdgeIndex, indexEdges } from "./check.ts";
import { Frame, type Loop, Place, State } from "./places.ts";
import { edge, edgeWords, maxDepth, type Program, type ProgramRule } from "./program.ts";

/** Pairs of place and frame that one text may be at; a grammar with more readings is given up. */
const mostReadings = 20_000;
/** Remembered combinations of several readings. */
const mostStates = 100_000;

/** Thrown where the work that a call was given is done; what was found stays. */
export class Pause extends Error {}

/** Follows a text through a program, byte by byte. What it remembers changes nothing but the time it takes. */
export class Machine {
  readonly root: Frame;
  readonly start: State;
  /** Readings looked at so far; who bounds the time of a call looks at the difference. */
  work = 0;
  /** States made so far, which is what a machine's memory goes by. */
  made = 0;
  private mostWork = Infinity;
  private mostMade = Infinity;
  private pauseAt = Infinity;
  private readonly program: Program;
  private readonly out: EdgeIndex;
  private readonly need: Int32Array;
  private readonly ends: Uint8Array;
  private readonly byNodes = new Map<string, Place>();
  private readonly starts: (Place | undefined)[] = [];
  private states = new Map<string, State>();
  private ids = 0;
  private readonly mark: Uint8Array;

  constructor(program: Program) {
    this.program = program;
    this.out = indexEdges(program, 0);
    this.need = program.needs;
    this.ends = new Uint8Array(program.nodes);
    this.mark = new Uint8Array(program.nodes);
    for (const rule of program.rules) if (rule.kind === "nodes") this.ends[rule.end] = 1;
    this.root = new Frame(this.ids++, undefined, undefined);
    this.start = this.stateOf(this.startOf(program.root), this.root);
  }

  /** From here on so many readings may be looked at and so many states made; more throws `unsupported`. */
  bound(work: number, made: number): void {
    this.mostWork = this.work + work;
    this.mostMade = this.made + made;
    this.pauseAt = Infinity;
  }

  /** After so many milliseconds `Pause` is thrown. */
  pauseAfter(ms: number): void {
    this.pauseAt = performance.now() + ms;
  }

  private pauseIfDue(): void {
    if (this.pauseAt < Infinity && performance.now() > this.pauseAt) throw new Pause();
  }

  /** The state of one reading. */
  stateOf(place: Place, frame: Frame): State {
    const known = frame.states.get(place);
    if (known) return known;
    const state = new State([place], [frame]);
    this.made += 1;
    frame.states.set(place, state);
    return state;
  }

  /** The state after one more byte; null where none may follow. */
  step(state: State, byte: number): State | null {
    if (state.table) {
      const known = state.table[byte];
      if (known !== undefined) return known;
    } else {
      const at = state.bytes.indexOf(byte);
      if (at >= 0) return state.after[at]!;
    }
    this.open(state);
    const places: Place[] = [];
    const frames: Frame[] = [];
    const open = state.openPlaces!;
    this.work += open.length;
    if (this.work > this.mostWork || this.made > this.mostMade) throw tooManyReadings("a bounded time");
    this.pauseIfDue();
    for (let i = 0; i < open.length; i++) {
      const next = this.nextPlace(open[i]!, byte);
      const frame = state.openFrames[i]!;
      if (next && frame.depth + next.need <= maxDepth) {
        places.push(next);
        frames.push(frame);
      }
    }
    const after = this.intern(places, frames);
    remember(state, byte, after);
    return after;
  }

  /** The state after a byte that a place takes itself. */
  stepOwn(place: Place, frame: Frame, byte: number): State | null {
    const next = this.nextPlace(place, byte);
    return next && frame.depth + next.need <= maxDepth ? this.stateOf(next, frame) : null;
  }

  /** The state after a control token that the grammar names. */
  stepToken(state: State, token: number): State | null {
    this.open(state);
    const places: Place[] = [];
    const frames: Frame[] = [];
    state.openPlaces!.forEach((place, i) => {
      const next = place.tokens?.get(token);
      const frame = state.openFrames[i]!;
      if (!next || frame.depth + next.need > maxDepth) return;
      places.push(next);
      frames.push(frame);
    });
    return this.intern(places, frames);
  }

  /** Adds to a state what it can go on with before the next byte. */
  open(state: State): void {
    if (state.openPlaces) return;
    const places: Place[] = [];
    const frames: Frame[] = [];
    const seen = new Set<number>();
    const add = (place: Place, frame: Frame): void => {
      const key = place.id * 2 ** 26 + frame.id;
      if (seen.has(key)) return;
      seen.add(key);
      places.push(place);
      frames.push(frame);
    };
    state.places.forEach((place, i) => {
      add(place, state.frames[i]!);
    });
    for (let i = 0; i < places.length; i++) {
      const place = places[i]!;
      const frame = frames[i]!;
      if (places.length > mostReadings) throw tooManyReadings(`${mostReadings} readings at once`);
      this.fill(place);
      for (const { start, behind } of place.calls!) {
        if (behind.last) {
          if (frame.depth + start.need <= maxDepth) add(start, frame);
        } else if (frame.depth + 1 + start.need <= maxDepth && frame.depth + behind.need <= maxDepth) {
          add(start, this.child(frame, behind));
        }
      }
      if (!place.ends) continue;
      if (frame.parent === undefined) state.complete = true;
      else add(frame.place!, frame.parent);
    }
    this.work += places.length;
    state.openPlaces = places;
    state.openFrames = frames;
  }

  /** Forgets combined states; places and stacks stay. */
  forget(): void {
    this.states = new Map();
  }

  private child(frame: Frame, place: Place): Frame {
    const known = frame.children.get(place);
    if (known) return known;
    const child = new Frame(this.nextId(), place, frame);
    frame.children.set(place, child);
    return child;
  }

  private nextId(): number {
    if (this.ids >= 2 ** 26) throw tooManyReadings("67 million places");
    return this.ids++;
  }

  private intern(places: Place[], frames: Frame[]): State | null {
    if (places.length === 0) return null;
    if (places.length === 1) return this.stateOf(places[0]!, frames[0]!);
    const order = places.map((_, i) => i);
    order.sort((i, j) => places[i]!.id - places[j]!.id || frames[i]!.id - frames[j]!.id);
    const sortedPlaces: Place[] = [];
    const sortedFrames: Frame[] = [];
    let key = "";
    for (const i of order) {
      if (sortedPlaces.at(-1) === places[i] && sortedFrames.at(-1) === frames[i]) continue;
      sortedPlaces.push(places[i]!);
      sortedFrames.push(frames[i]!);
      key += `${places[i]!.id},${frames[i]!.id};`;
    }
    if (sortedPlaces.length === 1) return this.stateOf(sortedPlaces[0]!, sortedFrames[0]!);
    const known = this.states.get(key);
    if (known) return known;
    if (this.states.size >= mostStates) this.forget();
    const state = new State(sortedPlaces, sortedFrames);
    this.made += 1;
    this.states.set(key, state);
    return state;
  }

  private startOf(rule: number): Place {
    const known = this.starts[rule];
    if (known) return known;
    const place = this.makeStart(this.program.rules[rule]!);
    this.starts[rule] = place;
    return place;
  }

  private makeStart(rule: ProgramRule): Place {
    switch (rule.kind) {
      case "nodes":
        return this.placeOf([rule.start]);
      case "loop": {
        const key = `${rule.encoding} ${rule.ranges.join()}`;
        const max = rule.max < 0 ? Infinity : rule.max;
        const loop = {
          key,
          min: rule.min,
          max,
          bytes: charBytes(key, rule),
          places: new Map<number, Place>(),
        };
        return this.loopPlace(loop, 0, 0);
      }
      case "words":
        return this.wordPlace(rule.words, 0, rule.words.length, 0);
    }
  }

  /** The place of a set of nodes, with those that are reached without a byte. */
  private placeOf(from: readonly number[]): Place {
    const { edges } = this.program;
    const reached: number[] = [];
    const visit = (node: number): void => {
      if (this.mark[node]) return;
      this.mark[node] = 1;
      reached.push(node);
    };
    for (const node of from) visit(node);
    let takes = false;
    let takesBytes = false;
    for (let i = 0; i < reached.length; i++) {
      const node = reached[i]!;
      for (let e = this.out.starts[node]!; e < this.out.starts[node + 1]!; e++) {
        const at = this.out.edges[e]! * edgeWords;
        const kind = edges[at + 2];
        if (kind === edge.empty) visit(edges[at + 1]!);
        else takes = true;
        if (kind === edge.bytes) takesBytes = true;
      }
    }
    for (const node of reached) this.mark[node] = 0;
    this.work += reached.length;
    const nodes = Int32Array.from(reached).sort();
    const key = nodes.join();
    const known = this.byNodes.get(key);
    if (known) return known;
    let need = Infinity;
    let ends = false;
    for (let i = 0; i < nodes.length; i++) {
      const node = nodes[i]!;
      need = Math.min(need, this.need[node]!);
      if (this.ends[node]) ends = true;
    }
    const place = new Place(this.nextId(), need, ends, "nodes", { nodes, last: ends && !takes, takesBytes });
    this.byNodes.set(key, place);
    return place;
  }

  private loopPlace(loop: Loop, count: number, within: number): Place {
    // without an end only the least count matters
    const counted = loop.max === Infinity ? Math.min(count, loop.min) : count;
    const key = counted * loop.bytes.states + within;
    const known = loop.places.get(key);
    if (known) return known;
    const ends = within === 0 && counted >= loop.min;
    const place = new Place(this.nextId(), 0, ends, "loop", { loop, count: counted, within });
    loop.places.set(key, place);
    return place;
  }

  private wordPlace(words: readonly string[], low: number, high: number, count: number): Place {
    const ends = words[low]?.length === count;
    return new Place(this.nextId(), 0, ends, "word", { words, low, high, count });
  }

  /** Calls and control tokens of a place. */
  private fill(place: Place): void {
    if (place.calls) return;
    this.pauseIfDue();
    place.calls = [];
    if (place.kind !== "nodes") return;
    const { edges } = this.program;
    const behind = new Map<number, number[]>();
    const tokens = new Map<number, number[]>();
    for (const node of place.nodes) {
      for (let e = this.out.starts[node]!; e < this.out.starts[node + 1]!; e++) {
        const at = this.out.edges[e]! * edgeWords;
        const kind = edges[at + 2];
        if (kind !== edge.rule && kind !== edge.token) continue;
        const lists = kind === edge.rule ? behind : tokens;
        const list = lists.get(edges[at + 3]!);
        if (list) list.push(edges[at + 1]!);
        else lists.set(edges[at + 3]!, [edges[at + 1]!]);
      }
    }
    place.calls = [...behind].map(([rule, to]) => ({ start: this.startOf(rule), behind: this.placeOf(to) }));
    if (tokens.size > 0) place.tokens = new Map([...tokens].map(([token, to]) => [token, this.placeOf(to)]));
  }

  private nextPlace(place: Place, byte: number): Place | null {
    if (!place.next) {
      this.pauseIfDue();
      place.next = this.nextPlaces(place);
    }
    if (place.kind !== "word") return place.next[byte]!;
    const known = place.next[byte];
    if (known !== undefined) return known;
    const next = this.nextWord(place, byte);
    place.next[byte] = next;
    return next;
  }

  private nextPlaces(place: Place): (Place | null)[] {
    if (place.kind === "word") return new Array(256) as (Place | null)[];
    const next = new Array<Place | null>(256).fill(null);
    if (place.loop) this.fillLoop(place, place.loop, next);
    else this.fillNodes(place, next);
    return next;
  }

  private fillLoop({ count, within }: Place, loop: Loop, next: (Place | null)[]): void {
    if (within === 0 && count >= loop.max) return;
    for (let byte = 0; byte < 256; byte++) {
      const to = loop.bytes.next[256 * within + byte]!;
      if (to === -2) next[byte] = this.loopPlace(loop, count + 1, 0);
      else if (to >= 0) next[byte] = this.loopPlace(loop, count, to);
    }
  }

  /** Cuts the bytes at the ends of all ranges, so that each stretch is looked up once. */
  private fillNodes(place: Place, next: (Place | null)[]): void {
    const { edges } = this.program;
    const targets: number[][] = Array.from({ length: 256 }, () => []);
    for (const node of place.nodes) {
      for (let e = this.out.starts[node]!; e < this.out.starts[node + 1]!; e++) {
        const at = this.out.edges[e]! * edgeWords;
        if (edges[at + 2] !== edge.bytes) continue;
        for (let byte = edges[at + 3]!; byte <= edges[at + 4]!; byte++) targets[byte]!.push(edges[at + 1]!);
      }
    }
    let last = "";
    targets.forEach((to, byte) => {
      if (to.length === 0) return;
      const key = to.join();
      next[byte] = byte > 0 && key === last && next[byte - 1] ? next[byte - 1]! : this.placeOf(to);
      last = key;
    });
  }

  private nextWord({ words, low, high, count }: Place, byte: number): Place | null {
    const from = firstAtLeast(words, low, high, count, byte);
    const to = firstAtLeast(words, from, high, count, byte + 1);
    return from === to ? null : this.wordPlace(words, from, to, count + 1);
  }
}

/** The first of words[low..high], which share `at` bytes, whose next byte is at least `byte`. */
function firstAtLeast(words: readonly string[], low: number, high: number, at: number, byte: number): number {
  let [from, to] = [low, high];
  while (from < to) {
    const middle = (from + to) >> 1;
    const word = words[middle]!;
    if (word.length > at && word.charCodeAt(at) >= byte) to = middle;
    else from = middle + 1;
  }
  return from;
}

/** Followers that are kept in a list. */
const mostListed = 8;

function remember(state: State, byte: number, after: State | null): void {
  if (!state.table && state.bytes.length < mostListed) {
    state.bytes.push(byte);
    state.after.push(after);
    return;
  }
  if (!state.table) {
    state.table = new Array<State | null | undefined>(256).fill(undefined);
    for (let i = 0; i < state.bytes.length; i++) state.table[state.bytes[i]!] = state.after[i];
  }
  state.table[byte] = after;
}

function tooManyReadings(limit: string) {
  return unexpected("unsupported", "grammar", `texts that can be followed in ${limit}`, "one with more", {
    fix: "Make the grammar less ambiguous",
    details: { grammar: true },
  });
}
