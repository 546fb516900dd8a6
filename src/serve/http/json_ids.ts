import { isAscii } from "node:buffer";

/** Shorter lists are left to the engine's own parser. */
const leastBytes = 1 << 11;
/** Digits of a number that a signed word of 32 bits holds whatever they are. */
const mostDigits = 9;
/** Stands for the list while the rest is parsed: nobody can know it, so the member that has it is the list's. */
const stand = crypto.getRandomValues(new Uint32Array(1))[0]! + 0.5;

const [OPEN, CLOSE, COMMA, ZERO] = [0x5b, 0x5d, 0x2c, 0x30] as const;

/** Numbers on their way; used again, since memory of this size is dear to get. */
let scratch = new Int32Array(1 << 12);

/**
 * A JSON object whose member `name` is a long list of whole numbers below 1e9, with the list as an Int32Array: the general parser makes
 * a value of each, which takes half as long again and has to be copied. Undefined for every other text, right or wrong.
 */
export function parseWithIds(json: Uint8Array, name: string): object | undefined {
  const bytes = Buffer.from(json.buffer, json.byteOffset, json.length);
  const [open, close] = longList(bytes);
  const count = open < 0 ? 0 : readIds(bytes, open + 1, close);
  if (count === 0) return undefined;
  const [head, tail] = [bytes.subarray(0, open), bytes.subarray(close + 1)];
  if (!isAscii(head) || !isAscii(tail)) return undefined;
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(`${head.toString("latin1")}${stand}${tail.toString("latin1")}`);
  } catch {
    return undefined;
  }
  if (value === null || !Object.hasOwn(value, name) || value[name] !== stand) return undefined;
  value[name] = scratch.slice(0, count);
  return value;
}

/** The brackets around the first long stretch without another; -1 where there is none. */
function longList(bytes: Buffer): readonly [number, number] {
  for (let open = bytes.indexOf(OPEN); open >= 0; open = bytes.indexOf(OPEN, open + 1)) {
    const close = bytes.indexOf(CLOSE, open);
    if (close - open >= leastBytes) return [open, close];
  }
  return [-1, -1];
}

/** Puts the numbers of a list into `scratch` and gives how many there are; 0 where something else is among them. */
function readIds(bytes: Uint8Array, from: number, to: number): number {
  const most = (to - from + 1) >> 1;
  if (scratch.length < most) scratch = new Int32Array(most);
  const ids = scratch;
  let count = 0;
  let at = from;
  // the bracket at `to` ends every number
  while (at <= to) {
    let digit = bytes[at]! - ZERO;
    while (isBlank(digit)) digit = bytes[++at]! - ZERO;
    const first = at;
    let value = 0;
    for (; digit >= 0 && digit <= 9; digit = bytes[++at]! - ZERO) value = (value * 10 + digit) | 0;
    const digits = at - first;
    // no zero stands before another digit
    if (digits === 0 || digits > mostDigits || (digits > 1 && bytes[first] === ZERO)) return 0;
    while (isBlank(digit)) digit = bytes[++at]! - ZERO;
    if (digit !== COMMA - ZERO && at !== to) return 0;
    ids[count++] = value;
    at += 1;
  }
  return count;
}

/** Of a byte less `ZERO`: whether it is a blank, a tab or the end of a line. */
function isBlank(digit: number): boolean {
  return digit < 0 && (digit === -16 || digit === -39 || digit === -38 || digit === -35);
}
