import type { DecodeOptions } from "./tokenizer.ts";

/** Turns ids into text one at a time. */
export interface StreamDecoder {
  /** The text that is certain after this id; bytes of an unfinished character wait for the next. */
  push(id: number): string;
  /** What is left, with U+FFFD for an unfinished character. The decoder can be used on. */
  flush(): string;
}

/** What decoding needs of a tokenizer. */
export type DecodeSource = {
  readonly tokenBytes: (id: number) => Uint8Array;
  readonly isControl: (id: number) => boolean;
  readonly spacePrefix: boolean;
};

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
const BLANK = 0x20;
const NOTHING = new Uint8Array(0);

/** The text of all ids together. */
export function decodeBytes(source: DecodeSource, ids: Iterable<number>, options: DecodeOptions): string {
  const parts: Uint8Array[] = [];
  for (const id of ids) {
    if (source.isControl(id) && !options.special) continue;
    parts.push(source.tokenBytes(id));
  }
  const bytes = Buffer.concat(parts);
  const drop = source.spacePrefix && !options.continuation && bytes[0] === BLANK;
  return utf8.decode(drop ? bytes.subarray(1) : bytes);
}

export function streamDecoder(source: DecodeSource, options: DecodeOptions): StreamDecoder {
  let held = NOTHING;
  let atStart = source.spacePrefix && !options.continuation;
  return {
    push: (id) => {
      if (source.isControl(id) && !options.special) return "";
      let bytes = source.tokenBytes(id);
      if (atStart && bytes.length > 0) {
        atStart = false;
        if (bytes[0] === BLANK) bytes = bytes.subarray(1);
      }
      if (held.length > 0) bytes = Buffer.concat([held, bytes]);
      const complete = completeLength(bytes);
      held = complete === bytes.length ? NOTHING : bytes.slice(complete);
      return utf8.decode(bytes.subarray(0, complete));
    },
    flush: () => {
      const rest = utf8.decode(held);
      held = NOTHING;
      return rest;
    },
  };
}

/** How many bytes stand before the start of a character at the end that more bytes could still complete. */
function completeLength(bytes: Uint8Array): number {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const lead = bytes[bytes.length - back] as number;
    if ((lead & 0xc0) === 0x80) continue;
    const wants = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
    const open =
      lead < 0xf5 &&
      back < wants &&
      couldContinue(lead, back > 1 ? bytes[bytes.length - back + 1] : undefined);
    return open ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

/** Whether `second` may follow `lead`: overlong forms, surrogates and code points past U+10FFFF are already wrong. */
function couldContinue(lead: number, second: number | undefined): boolean {
  if (second === undefined) return true;
  if (lead === 0xe0) return second >= 0xa0;
  if (lead === 0xed) return second < 0xa0;
  if (lead === 0xf0) return second >= 0x90;
  if (lead === 0xf4) return second < 0x90;
  return true;
}
