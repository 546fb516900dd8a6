import type { Steps } from "../../core/steps.ts";
import { parseWithIds } from "./json_ids.ts";

/** Bounds of a JSON text, beyond which it takes long to parse and to look through for its size. */
export type JsonLimits = {
  readonly nesting: number;
  readonly containers: number;
  readonly texts: number;
  readonly values: number;
};

/** What is wrong with a text that is beyond a bound, as in "The body has ...". */
export class JsonExcess extends Error {}

/** What ends within so many bytes is left to the engine's own parser, which takes them a millisecond at most. */
const SMALL = 1 << 15;
/** So is a whole text of so many bytes with few objects and lists in it, as a prompt of numbers is: a millisecond, too. */
const PLAIN = 1 << 17;
/** Bytes that are looked at in one step. */
const SEEN_BYTES = 1 << 17;

const [QUOTE, BACKSLASH, COMMA, COLON, UNICODE] = [0x22, 0x5c, 0x2c, 0x3a, 0x75] as const;
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d] as const;

/**
 * The value of a JSON text in UTF-8, as `JSON.parse` reads it. Throws `JsonExcess` beyond a bound, a `SyntaxError` for what is
 * no JSON and a `TypeError` for what is no UTF-8. Of a short text the list under the name `idsOf` comes as an Int32Array where
 * `parseWithIds` takes it.
 */
export function* parseJson(bytes: Uint8Array, limits: JsonLimits, idsOf?: string): Steps<unknown> {
  const text = decoder();
  if (isPlain(bytes, limits)) {
    const value = idsOf === undefined ? undefined : parseWithIds(bytes, idsOf);
    return value ?? JSON.parse(text(0, bytes.length, bytes));
  }
  const large = yield* survey(bytes, limits);
  if (bytes.length <= SMALL) return JSON.parse(text(0, bytes.length, bytes));
  const isBom = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  const start = skipBlank(bytes, isBom ? 3 : 0);
  const end = large.get(start);
  if (end === undefined) throw new JsonExcess("no object or list that fills it");
  const value = yield* new LargeJson(bytes, large).container(start, end);
  if (skipBlank(bytes, end) < bytes.length) throw new SyntaxError("text behind the value");
  return value;
}

/** Whether a text is short and cannot be beyond a bound: brackets are counted wherever they stand. */
function isPlain(json: Uint8Array, { nesting, containers, texts, values }: JsonLimits): boolean {
  if (json.length > Math.min(PLAIN, 2 * texts, values)) return false;
  const bytes = Buffer.from(json.buffer, json.byteOffset, json.length);
  let left = Math.min(nesting, containers);
  for (const bracket of [OPEN_LIST, OPEN_OBJECT])
    for (let at = bytes.indexOf(bracket); at >= 0; at = bytes.indexOf(bracket, at + 1))
      if (--left < 0) return false;
  return true;
}

/** Where the objects and lists end that are longer than `SMALL`, by where they begin. */
function* survey(json: Uint8Array, limits: JsonLimits): Steps<ReadonlyMap<number, number>> {
  const large = new Map<number, number>();
  const open: number[] = [];
  let quoted = false;
  let [containers, texts, values] = [0, 0, 0];
  for (let i = 0, next = SEEN_BYTES; i < json.length; i++) {
    if (i >= next) {
      next = i + SEEN_BYTES;
      yield;
    }
    const byte = json[i];
    if (quoted) {
      if (byte === BACKSLASH) i++;
      else if (byte === QUOTE) quoted = false;
    } else if (byte === QUOTE) {
      quoted = true;
      if (++texts > limits.texts) throw new JsonExcess(`more than ${limits.texts} texts`);
    } else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      open.push(i);
      if (open.length > limits.nesting)
        throw new JsonExcess(`values nested more than ${limits.nesting} deep`);
      if (++containers > limits.containers)
        throw new JsonExcess(`more than ${limits.containers} objects and arrays`);
    } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) {
      const start = open.pop();
      if (start === undefined) throw new SyntaxError("a bracket that closes nothing");
      if (i - start >= SMALL || (open.length === 0 && json.length > SMALL)) large.set(start, i + 1);
    } else if (byte === COMMA && ++values > limits.values) {
      throw new JsonExcess(`more than ${limits.values} values`);
    }
  }
  return large;
}

function decoder() {
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const whole = new TextDecoder("utf-8", { fatal: true });
  return (from: number, to: number, bytes: Uint8Array): string =>
    (from === 0 ? whole : strict).decode(bytes.subarray(from, to));
}

function skipBlank(bytes: Uint8Array, from: number): number {
  let at = from;
  while (bytes[at] === 0x20 || bytes[at] === 0x0a || bytes[at] === 0x0d || bytes[at] === 0x09) at++;
  return at;
}

/**
 * Takes a large text apart: runs of small members are parsed together, a large object, list or string by itself, with `null` in its
 * place in what the parser reads of its member.
 */
class LargeJson {
  private readonly bytes: Uint8Array;
  private readonly large: ReadonlyMap<number, number>;
  private readonly text = decoder();

  constructor(bytes: Uint8Array, large: ReadonlyMap<number, number>) {
    this.bytes = bytes;
    this.large = large;
  }

  *container(start: number, close: number): Steps<unknown> {
    const { bytes } = this;
    const isList = bytes[start] === OPEN_LIST;
    if (bytes[close - 1] !== (isList ? CLOSE_LIST : CLOSE_OBJECT))
      throw new SyntaxError("brackets of two kinds");
    const into: Members = isList ? { list: [] } : { object: {} };
    const stop = close - 1;
    // the run begins at `from`, its last member at `member`
    let [from, member, at] = [start + 1, start + 1, start + 1];
    let isName = !isList;
    while (at < stop) {
      const byte = bytes[at];
      if (byte === COMMA) {
        if (at - from >= SMALL) {
          this.addRun(into, from, at);
          from = at + 1;
          yield;
        }
        member = at + 1;
        isName = !isList;
        at++;
        continue;
      }
      if (byte === COLON) isName = false;
      if (byte !== QUOTE && byte !== OPEN_LIST && byte !== OPEN_OBJECT) {
        at++;
        continue;
      }
      const end = this.large.get(at);
      const small = byte === QUOTE ? this.shortEnd(at) : end === undefined ? this.smallEnd(at) : undefined;
      if (small !== undefined) {
        at = small;
        continue;
      }
      if (isName && byte === QUOTE) throw new JsonExcess(`a name longer than ${SMALL} bytes`);
      if (member > from) this.addRun(into, from, member - 1);
      const [value, behind] =
        end === undefined ? yield* this.longText(at, stop) : ([yield* this.container(at, end), end] as const);
      let next = behind;
      while (next < stop && bytes[next] !== COMMA) next++;
      this.addLarge(into, value, [member, at, behind, next]);
      yield;
      if (next === stop) return into.list ?? into.object;
      [from, member, at] = [next + 1, next + 1, next + 1];
      isName = !isList;
    }
    const isEmpty = from === start + 1 && skipBlank(bytes, from) === stop;
    if (!isEmpty) this.addRun(into, from, stop);
    return into.list ?? into.object;
  }

  /** Adds members that the engine's parser reads together; at least one. */
  private addRun(into: Members, from: number, to: number): void {
    const text = this.text(from, to, this.bytes);
    if (into.list) {
      const members = JSON.parse(`[${text}]`) as unknown[];
      if (members.length === 0) throw new SyntaxError("a comma without a value");
      for (const value of members) into.list.push(value);
      return;
    }
    const members = Object.entries(JSON.parse(`{${text}}`) as object);
    if (members.length === 0) throw new SyntaxError("a comma without a value");
    for (const [name, value] of members) setMember(into.object, name, value);
  }

  /** Adds one member, which has its large value where the parser is given `null`. */
  private addLarge(into: Members, value: unknown, [from, start, end, to]: readonly number[]): void {
    const before = this.text(from!, start!, this.bytes);
    const around = `${before}null${this.text(end!, to!, this.bytes)}`;
    const alone = JSON.parse(into.list ? `[${around}]` : `{${around}}`) as object;
    const [member] = Object.entries(alone);
    if (member === undefined || member[1] !== null) throw new SyntaxError("a value within a value");
    if (into.list) into.list.push(value);
    else setMember(into.object, member[0], value);
  }

  /** The end of an object or list that is not large. */
  private smallEnd(start: number): number {
    let depth = 0;
    let quoted = false;
    for (let i = start; i < this.bytes.length; i++) {
      const byte = this.bytes[i];
      if (quoted) {
        if (byte === BACKSLASH) i++;
        else if (byte === QUOTE) quoted = false;
      } else if (byte === QUOTE) quoted = true;
      else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++;
      else if ((byte === CLOSE_LIST || byte === CLOSE_OBJECT) && --depth === 0) return i + 1;
    }
    throw new SyntaxError("an open bracket");
  }

  /** The end of a string, unless it is long. */
  private shortEnd(start: number): number | undefined {
    const limit = Math.min(start + SMALL, this.bytes.length);
    for (let i = start + 1; i < limit; i++) {
      if (this.bytes[i] === BACKSLASH) i++;
      else if (this.bytes[i] === QUOTE) return i + 1;
    }
    return undefined;
  }

  /** A long string and its end. It is cut where neither a character nor an escape is. */
  private *longText(start: number, stop: number): Steps<readonly [string, number]> {
    const { bytes } = this;
    const parts: string[] = [];
    let from = start + 1;
    for (let i = from; i < stop; ) {
      const byte = bytes[i]!;
      const isEnd = byte === QUOTE;
      if (isEnd || (i - from >= SMALL && (byte & 0xc0) !== 0x80)) {
        parts.push(JSON.parse(`"${this.text(from, i, bytes)}"`) as string);
        if (isEnd) return [parts.join(""), i + 1];
        from = i;
        yield;
      }
      i += byte !== BACKSLASH ? 1 : bytes[i + 1] === UNICODE ? 6 : 2;
    }
    throw new SyntaxError("an open string");
  }
}

type Members =
  | { readonly list: unknown[]; readonly object?: undefined }
  | { readonly object: Record<string, unknown>; readonly list?: undefined };

/** As the parser does it: the last of one name counts, and none is special. */
function setMember(object: Record<string, unknown>, name: string, value: unknown): void {
  if (name !== "__proto__") object[name] = value;
  else Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
}
