import { type Pointer, toArrayBuffer } from "bun:ffi";
import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { allocateHost } from "../../backends/index.ts";
import type { PinnedCopies } from "../engine/cache_memory.ts";
import { BlockReaders, type Payload } from "../engine/disk_fetching.ts";
import { type BlockName, blockFile, sealed, statePart } from "./block.ts";
import { type BlockJob, ReadAhead } from "./read_ahead.ts";

const folder = mkdtempSync(join(tmpdir(), "psionic-read-ahead-"));
const readers = new BlockReaders({ pageBytes: [0], stateBytes: 0 });
afterAll(() => {
  readers.close();
  rmSync(folder, { recursive: true, force: true });
});

const payloadOf = (i: number) => new Uint8Array(1000 + 7 * i).fill(i + 1);

function written(i: number, part = 0, payload = payloadOf(i)): BlockJob {
  const name: BlockName = { address: i.toString(16).padStart(64, "0"), part };
  const path = join(folder, blockFile(name));
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, Buffer.concat([sealed(name, payload), payload]));
  return { name, path, bytes: payload.length };
}

test("slots go to blocks in their order, whoever reads them first", () => {
  const ahead = ReadAhead.allocate(8, 2);
  const [a, b] = [new ReadAhead(ahead.memory, 2), new ReadAhead(ahead.memory, 2)];
  expect([a.claim(4), b.claim(4), a.claim(4)]).toEqual([0, 1, 2]);
  b.room(1)!.fill(1);
  b.done(1, true);
  expect(ahead.take(0, 0)).toBeUndefined();
  a.room(0)!.fill(7);
  a.done(0, true);
  expect(ahead.take(0, 0)![3]).toBe(7);
  ahead.release(0);
  a.room(2)!.fill(2);
  a.done(2, false);
  expect(ahead.take(1, 0)![0]).toBe(1);
  expect(ahead.take(2, 1000)).toBeUndefined();
  ahead.cancel();
  expect(a.claim(4)).toBe(-1);
  expect(b.room(3)).toBeUndefined();
});

test("threads read more blocks than there are slots, and a state beside them; some are passed over", () => {
  readers.open();
  const jobs = Array.from({ length: 50 }, (_, i) => written(i));
  const state = written(60, statePart);
  const fetch = readers.fetch(jobs, state)!;
  jobs.forEach(({ path }, i) => {
    if (i % 7 === 3) return; // somebody else had it
    const got: Uint8Array[] = [];
    const keep = ({ bytes }: Payload) => void got.push(bytes.slice());
    expect(fetch.page(path, keep)).toBe(true);
    expect(got).toEqual([payloadOf(i)]);
  });
  expect(Uint8Array.from(fetch.statePayload(state.path)!.bytes)).toEqual(payloadOf(60));
  expect(fetch.statePayload(jobs[0]!.path)).toBeUndefined();
  fetch.cancel();
});

test("slots outside of the heap are filled again once what is copied from them has arrived", () => {
  const taken = new Map<number, ReturnType<typeof allocateHost>>();
  const arrived: Uint8Array[] = [];
  /** A device that copies as late as it may. */
  const send = (address: number, bytes: number) => () =>
    void arrived.push(new Uint8Array(toArrayBuffer(address as Pointer, 0, bytes)).slice());
  const pinned: PinnedCopies = {
    allocate(bytes) {
      const memory = allocateHost(new Uint8Array(bytes));
      taken.set(memory.address, memory);
      return memory.address;
    },
    release(address) {
      taken.get(address)!.free();
      taken.delete(address);
    },
    sendPage: (_, bytes, source) => send(source, bytes),
    sendState: (bytes, source) => send(source, bytes),
  };
  const outside = new BlockReaders({ pageBytes: [2000], stateBytes: 5000, pinned });
  outside.open();
  for (const round of [0, 1]) {
    const jobs = Array.from({ length: 100 }, (_, i) => written(200 + i, 0, payloadOf(i + round)));
    const state = written(400, statePart, new Uint8Array(5000).fill(9 + round));
    const fetch = outside.fetch(jobs, state)!;
    for (const { path, bytes } of jobs)
      expect(fetch.page(path, ({ address }) => pinned.sendPage(0, bytes, address!))).toBe(true);
    fetch.holdState(pinned.sendState(5000, fetch.statePayload(state.path)!.address!));
    fetch.cancel();
    expect(arrived.pop()).toEqual(new Uint8Array(5000).fill(9 + round));
    expect(arrived.splice(0)).toEqual(jobs.map((_, i) => payloadOf(i + round)));
  }
  outside.close();
  expect(taken.size).toBe(0);
});

test("behind a damaged or missing block nothing is given", () => {
  readers.open();
  for (const damage of ["missing", "damaged"] as const) {
    const jobs = Array.from({ length: 8 }, (_, i) => written(100 + i));
    const bad = jobs[5]!;
    if (damage === "missing") rmSync(bad.path);
    else {
      const payload = payloadOf(105);
      writeFileSync(bad.path, Buffer.concat([sealed(bad.name, payload), payload.fill(0)]));
    }
    const fetch = readers.fetch(jobs, undefined)!;
    const given = jobs.map(({ path }) => fetch.page(path, () => undefined));
    expect(given).toEqual([true, true, true, true, true, false, false, false]);
  }
});

test("few blocks are not worth the threads", () => {
  readers.open();
  expect(readers.fetch([written(1), written(2)], undefined)).toBeUndefined();
});
