import { type PsionicError, unexpected } from "./error.ts";

/** A number that was written with a fraction or an exponent; it is no integer, whatever its value. */
export class JsonFloat {
  readonly value: number;
  constructor(value: number) {
    this.value = value;
  }
}

/** What `parseExactJson` gives: integers beyond 2^53 are bigint, objects have no prototype. */
export type ExactJson =
  | null
  | boolean
  | number
  | bigint
  | string
  | JsonFloat
  | readonly ExactJson[]
  | { readonly [key: string]: ExactJson };

/** More digits than any integer of 64 bits has; nobody's counter, and quadratic to read. */
const mostDigits = 32;

/**
 * Reads JSON without losing anything: keys that occur twice, halves of surrogate pairs and nesting deeper than `maxDepth`
 * are refused, 64-bit integers stay exact, `1.0` is told from `1`. Throws `file_malformed`.
 */
export function parseExactJson(text: string, where: string, maxDepth = 64): ExactJson {
  const reader = new Reader(text, where, maxDepth);
  const value = reader.value(0);
  reader.end();
  return value;
}

const numberToken = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
/** Where a string ends; what may stand in it is JSON.parse's to say. */
const stringToken = /"[^"\\]*(?:\\.[^"\\]*)*"/y;
const blank = /[ \t\n\r]*/y;

/** A place in a text. */
class Reader {
  readonly #text: string;
  readonly #where: string;
  readonly #maxDepth: number;
  #at = 0;

  constructor(text: string, where: string, maxDepth: number) {
    this.#text = text;
    this.#where = where;
    this.#maxDepth = maxDepth;
  }

  end(): void {
    this.#skip();
    if (this.#at < this.#text.length) throw this.#wrong("the end");
  }

  value(depth: number): ExactJson {
    this.#skip();
    const c = this.#text[this.#at];
    if (c === "{" || c === "[") {
      if (depth >= this.#maxDepth) throw this.#wrong(`nesting of at most ${this.#maxDepth}`);
      this.#at++;
      return c === "{" ? this.#object(depth + 1) : this.#array(depth + 1);
    }
    if (c === '"') return this.#string();
    for (const [word, value] of [
      ["true", true],
      ["false", false],
      ["null", null],
    ] as const) {
      if (!this.#text.startsWith(word, this.#at)) continue;
      this.#at += word.length;
      return value;
    }
    return this.#number();
  }

  #object(depth: number): { readonly [key: string]: ExactJson } {
    const found: Record<string, ExactJson> = Object.create(null);
    if (this.#taken("}")) return found;
    do {
      this.#skip();
      const key = this.#string();
      if (Object.hasOwn(found, key)) throw this.#wrong(`${JSON.stringify(key.slice(0, 80))} once`);
      if (!this.#taken(":")) throw this.#wrong("a colon");
      found[key] = this.value(depth);
    } while (this.#taken(","));
    if (!this.#taken("}")) throw this.#wrong("a comma or a closing brace");
    return found;
  }

  #array(depth: number): readonly ExactJson[] {
    const found: ExactJson[] = [];
    if (this.#taken("]")) return found;
    do found.push(this.value(depth));
    while (this.#taken(","));
    if (!this.#taken("]")) throw this.#wrong("a comma or a closing bracket");
    return found;
  }

  #string(): string {
    const token = this.#match(stringToken);
    if (token === undefined) throw this.#wrong("a string");
    const value = unquoted(token[0]);
    if (value === undefined) throw this.#wrong("escapes and no control characters in a string");
    if (!value.isWellFormed()) throw this.#wrong("whole characters in a string");
    return value;
  }

  #number(): number | bigint | JsonFloat {
    const token = this.#match(numberToken);
    if (token === undefined) throw this.#wrong("a value");
    const [digits, fraction, exponent] = token;
    if (fraction !== undefined || exponent !== undefined || digits === "-0")
      return new JsonFloat(Number(digits));
    const value = Number(digits);
    if (Number.isSafeInteger(value)) return value;
    if (digits.length > mostDigits) return new JsonFloat(value);
    return BigInt(digits);
  }

  #match(token: RegExp): RegExpExecArray | undefined {
    token.lastIndex = this.#at;
    const found = token.exec(this.#text);
    if (found === null) return undefined;
    this.#at += found[0].length;
    return found;
  }

  #skip(): void {
    this.#match(blank);
  }

  #taken(c: string): boolean {
    this.#skip();
    if (this.#text[this.#at] !== c) return false;
    this.#at++;
    return true;
  }

  #wrong(expected: string): PsionicError {
    const got =
      this.#at < this.#text.length ? JSON.stringify(this.#text.slice(this.#at, this.#at + 20)) : "the end";
    return unexpected("file_malformed", this.#where, `JSON with ${expected} at ${this.#at}`, got);
  }
}

function unquoted(token: string): string | undefined {
  try {
    const value: string = JSON.parse(token);
    return value;
  } catch {
    return undefined;
  }
}
