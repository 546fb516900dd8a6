import { unexpected } from "../../core/error.ts";
import { Machine } from "./machine.ts";
import { type Search, TokenMasks } from "./masks.ts";
import type { Mask, State } from "./places.ts";
import type { Program } from "./program.ts";
import { TokenTrie } from "./token_trie.ts";

/** What the tokens of an answer must keep to. Plain data. */
export type ConstraintSource = {
  /** Names the program, which the engine has got before. */
  readonly digest: string;
  /** Tokens at the end of the prompt that count as the answer's first. */
  readonly consumed: readonly number[];
  /** Tokens that end the answer where the grammar lets it end. */
  readonly stops: readonly number[];
};

/** Tokens that may come next. */
export type TokenMask = {
  /** Token i is bit i % 32 of word i / 32. Must not be written. */
  readonly words: Mask;
  readonly count: number;
};

/** A program made ready for one vocabulary and one set of tokens that end answers. */
class Matcher {
  readonly machine: Machine;
  readonly masks: TokenMasks;
  readonly trie: TokenTrie;
  private readonly stops: readonly number[];
  private readonly ready = new Map<State, TokenMask>();
  private readyBytes = 0;

  constructor(program: Program, trie: TokenTrie, stops: readonly number[]) {
    this.machine = new Machine(program);
    this.masks = new TokenMasks(this.machine, trie);
    this.trie = trie;
    this.stops = stops;
  }

  get bytes(): number {
    return this.masks.bytes + this.readyBytes + this.machine.made * bytesPerState;
  }

  tokenMask(state: State): TokenMask {
    const known = this.ready.get(state);
    if (known) return known;
    // one long answer must not fill the memory either
    if (this.masks.bytes + this.readyBytes > mostMaskBytes) this.forget();
    const text = this.masks.mask(state);
    const controls = this.controls(state);
    const words = controls.length > 0 ? text.slice() : text;
    for (const id of controls) words[id >> 5]! |= 1 << (id & 31);
    const mask = { words, count: population(words) };
    this.ready.set(state, mask);
    this.readyBytes += words === text ? 0 : words.byteLength;
    return mask;
  }

  /** Looks for the mask of a state for about so many milliseconds; whether it is known now. */
  prepare(state: State, search: Search, ms: number): boolean {
    if (this.ready.has(state)) return true;
    if (search.work === 0 && this.masks.bytes + this.readyBytes > mostMaskBytes) this.forget();
    return this.masks.advance(state, search, ms);
  }

  /** Control tokens that the grammar names here, and those that end the answer where it may end. */
  private controls(state: State): number[] {
    this.machine.open(state);
    const ids: number[] = [];
    for (const place of state.openPlaces!) {
      for (const id of place.tokens?.keys() ?? []) if (this.machine.stepToken(state, id)) ids.push(id);
    }
    const limit = this.trie.maskWords * 32;
    return [...ids, ...(state.complete ? this.stops : [])].filter((id) => id < limit);
  }

  /** Whether the text may end here and no byte and no token of the grammar may follow. */
  isOver(state: State): boolean {
    this.machine.open(state);
    if (!state.complete) return false;
    for (const place of state.openPlaces!) if (place.tokens) return false;
    for (let byte = 0; byte < 256; byte++) if (this.machine.step(state, byte)) return false;
    return true;
  }

  forget(): void {
    this.masks.forget();
    this.ready.clear();
    this.readyBytes = 0;
  }
}

/** What a state with its lists takes, about. */
const bytesPerState = 600;

function population(words: Mask): number {
  let count = 0;
  for (let i = 0; i < words.length; i++) {
    let x = words[i]!;
    x -= (x >>> 1) & 0x55555555;
    x = (x & 0x33333333) + ((x >>> 2) & 0x33333333);
    count += Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }
  return count;
}

/** Programs that an engine keeps; who sends them keeps account of the same ones with `rememberProgram`. */
const mostPrograms = 128;

/** Enters a program by its digest; beyond the most the first one goes. Both sides of a link do so in the same order. */
export function rememberProgram<T>(programs: Map<string, T>, digest: string, program: T): void {
  programs.set(digest, program);
  const first = programs.keys().next().value;
  if (programs.size > mostPrograms && first !== undefined) programs.delete(first);
}

/** Memory for all that is remembered of grammars, bytes; the one used longest ago is given up first. */
const mostBytes = 96 * 2 ** 20;
const mostMatchers = 64;
/** Of these, masks of one grammar. */
const mostMaskBytes = 32 * 2 ** 20;

/** The grammars that an engine has seen, over its vocabulary. What is remembered changes nothing but the time it takes. */
export class Grammars {
  private trie: TokenTrie | undefined;
  private readonly width: number;
  private readonly matchers = new Map<string, Matcher>();
  private readonly programs = new Map<string, Program>();

  /** `width`: logits in a row. */
  constructor(width: number) {
    this.width = width;
  }

  /** Takes the vocabulary, as `packTokens` wrote it. */
  learn(packed: Int32Array): void {
    this.trie = new TokenTrie(packed, this.width);
    this.matchers.clear();
  }

  /** Takes a program that constraints may name. */
  add(digest: string, program: Program): this {
    rememberProgram(this.programs, digest, program);
    return this;
  }

  /** The constraint of one choice, behind the tokens that are there already. Throws where these do not fit. */
  open(source: ConstraintSource): Constraint {
    if (!this.trie) throw unexpected("internal", "grammar", "a vocabulary before the first grammar", "none");
    const { stops } = source;
    const key = `${source.digest} ${stops.join()}`;
    const program = this.programs.get(source.digest);
    if (!program) throw unexpected("internal", "grammar", "a program before its first use", "none");
    const matcher = this.matchers.get(key) ?? new Matcher(program, this.trie, stops);
    this.matchers.delete(key);
    this.matchers.set(key, matcher);
    this.makeRoom(matcher);
    const constraint = new Constraint(matcher);
    for (const token of source.consumed) constraint.accept(token);
    return constraint;
  }

  private makeRoom(current: Matcher): void {
    let bytes = 0;
    for (const matcher of this.matchers.values()) bytes += matcher.bytes;
    for (const [key, matcher] of this.matchers) {
      if (bytes <= mostBytes && this.matchers.size <= mostMatchers) return;
      bytes -= matcher.bytes;
      // running answers keep what they stand on
      if (matcher !== current) this.matchers.delete(key);
      else if (bytes > mostBytes / 2) matcher.forget();
    }
  }
}

/** Where one answer stands in its grammar. */
export class Constraint {
  private readonly matcher: Matcher;
  private state: State;
  /** For the mask of `state`, and why there is none. */
  private search: Search = { work: 0, made: 0 };
  private failure: unknown;

  constructor(matcher: Matcher) {
    this.matcher = matcher;
    this.state = matcher.machine.start;
  }

  /** Looks for what may come next for about so many milliseconds; false when `mask` would take longer still. */
  prepare(ms: number): boolean {
    try {
      return this.matcher.prepare(this.state, this.search, ms);
    } catch (error) {
      this.failure = error;
      return true;
    }
  }

  /** Tokens that may come next, at least one. */
  mask(): TokenMask {
    if (this.failure !== undefined) throw this.failure;
    const mask = this.matcher.tokenMask(this.state);
    if (mask.count > 0) return mask;
    throw unexpected(
      "unsupported",
      "grammar",
      "a vocabulary that can write what it asks for",
      "one without such a token",
      {
        details: { grammar: true },
      },
    );
  }

  /** The answer is whole and nothing may follow. */
  get ended(): boolean {
    return this.matcher.isOver(this.state);
  }

  /** Takes a token; throws where the grammar does not allow it. */
  accept(token: number): void {
    const { machine, trie } = this.matcher;
    let state = machine.stepToken(this.state, token);
    if (!state) {
      state = this.state;
      const bytes = trie.bytesOf(token);
      for (let i = 0; bytes && state && i < bytes.length; i++) state = machine.step(state, bytes[i]!);
      if (!bytes) state = null;
    }
    if (!state) {
      throw unexpected("invalid_request", "grammar", "tokens that it allows", `token ${token}`, {
        details: { grammar: true },
      });
    }
    this.state = state;
    this.search = { work: 0, made: 0 };
  }
}
