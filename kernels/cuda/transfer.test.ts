import type { Pointer } from "bun:ffi";
import { expect, test } from "bun:test";
import { random } from "../cpu/library.ts";
import { check, cuda, deviceBytes, fromDevice } from "./library.ts";

const mib = 2 ** 20;

function randomBytes(size: number, seed: number): Uint8Array<ArrayBuffer> {
  const next = random(seed);
  const words = new Uint32Array(Math.ceil(size / 4)).map(next);
  return new Uint8Array(words.buffer, 0, size);
}

test("uploads of any size arrive, whatever becomes of their source, and across the ring's ends", () => {
  const sizes = [
    1,
    4,
    63,
    64,
    65,
    256,
    260,
    3840,
    3844,
    4096,
    300_001,
    mib - 1,
    mib,
    mib + 1,
    3 * mib + 17,
    4 * mib,
    5 * mib,
  ];
  const sent = sizes.map((size, i) => {
    const data = randomBytes(size, i + 1);
    const kept = data.slice();
    const place = deviceBytes(size);
    check(cuda.psi_upload!(place, data, size));
    data.fill(0);
    return { place, kept };
  });
  for (const { place, kept } of sent) expect(Buffer.compare(fromDevice(place, kept.length), kept)).toBe(0);
});

/** Number of a fetch that was begun. */
function fetchOf(place: Pointer, size: number): number {
  const ticket = new Float64Array(new ArrayBuffer(2048));
  check(cuda.psi_fetch!(ticket, place, size));
  return ticket[0]!;
}

function fetched(ticket: number, size: number): Uint8Array {
  const out = new Uint8Array(new ArrayBuffer(Math.max(size, 2048)), 0, size);
  check(cuda.psi_fetched!(out, ticket, size));
  return out;
}

test("a fetch has what was there when it was begun, and waits its turn", () => {
  const size = 1000;
  const place = deviceBytes(size);
  const values = [1, 2, 3, 4].map((seed) => randomBytes(size, seed));
  const tickets = values.map((data) => {
    check(cuda.psi_upload!(place, data, size));
    return fetchOf(place, size);
  });
  // in any order
  for (const i of [2, 0, 3, 1]) expect(Buffer.compare(fetched(tickets[i]!, size), values[i]!)).toBe(0);
});

test("few words and many, in words and not, go within the device and come back", () => {
  const room = 16_384;
  const [from, to] = [deviceBytes(room), deviceBytes(room)] as [number & Pointer, number & Pointer];
  for (const [i, size] of [4, 252, 1024, 3840, 3844, 10_001, 7].entries())
    for (const shift of [0, 4, 1]) {
      const data = randomBytes(size, i + 20);
      check(cuda.psi_upload!((from + shift) as Pointer, data, size));
      check(cuda.psi_copy!((to + shift) as Pointer, (from + shift) as Pointer, size));
      const ticket = fetchOf((to + shift) as Pointer, size);
      expect(Buffer.compare(fetched(ticket, size), data)).toBe(0);
    }
  check(cuda.psi_copy!(to, from, 0));
});

test("of fetches only the last sixteen can be had, and only up to their bound", () => {
  const place = deviceBytes(300_000);
  const first = fetchOf(place, 8);
  for (let i = 0; i < 16; i++) fetchOf(place, 8);
  expect(() => fetched(first, 8)).toThrow(/psi_fetched.*last 16 fetches/);
  expect(() => fetched(first + 1000, 8)).toThrow(/psi_fetched/);
  expect(() => fetched(Number.NaN, 8)).toThrow(/psi_fetched/);
  expect(() => fetchOf(place, 300_000)).toThrow(/psi_fetch.*262144 bytes.*300000/);
  expect(() => fetchOf(place, 0)).toThrow(/psi_fetch/);
});
