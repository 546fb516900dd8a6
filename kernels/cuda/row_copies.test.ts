import type { Pointer } from "bun:ffi";
import { toArrayBuffer } from "bun:ffi";
import { expect, test } from "bun:test";
import { random } from "../cpu/library.ts";
import { check, cuda, deviceBytes, fromDevice } from "./library.ts";

function pinned(bytes: number): { readonly address: Pointer; readonly view: Uint8Array } {
  const place = new BigUint64Array(new ArrayBuffer(2048));
  check(cuda.psi_host_alloc!(place, bytes));
  const address = Number(place[0]!) as Pointer;
  return { address, view: new Uint8Array(toArrayBuffer(address, 0, bytes)) };
}

function send(to: Pointer, stride: number, from: Pointer, bytes: number, rows: number): number {
  const ticket = new Float64Array(new ArrayBuffer(2048));
  check(cuda.psi_send_rows!(ticket, to, stride, from, bytes, rows));
  return ticket[0]!;
}

// 1 MiB is the stand-in's largest stride of one copy; a device's is beyond what a test should take
test.each([
  [1, 64, 64],
  [5, 4096, 3 * 4096],
  [3, 1000, 1024],
  [2, 2 ** 16, 3 * 2 ** 20],
])("%d rows of %d bytes, %d apart, there and back; nothing between them changes", (rows, bytes, stride) => {
  const next = random(rows);
  const source = pinned(rows * bytes);
  for (let i = 0; i < rows * bytes; i++) source.view[i] = next();
  const kept = source.view.slice();
  const size = rows * stride;
  const place = deviceBytes(size);
  const between = new Uint8Array(size).fill(7);
  check(cuda.psi_upload!(place, between, size));
  check(cuda.psi_sent!(send(place, stride, source.address, bytes, rows)));
  source.view.fill(0);
  for (let r = 0; r < rows; r++) between.set(kept.subarray(r * bytes, (r + 1) * bytes), r * stride);
  expect(Buffer.compare(fromDevice(place, size), between)).toBe(0);
  const back = new Uint8Array(new ArrayBuffer(Math.max(rows * bytes, 2048)), 0, rows * bytes);
  check(cuda.psi_receive_rows!(back, place, stride, bytes, rows));
  expect(Buffer.compare(back, kept)).toBe(0);
  check(cuda.psi_host_free!(source.address));
});

test("rows of more than a bounce buffer in all come in parts", () => {
  const [rows, bytes, stride] = [9, 2 ** 20, 2 ** 20 + 256];
  const place = deviceBytes(rows * stride);
  const all = new Uint8Array(rows * stride).map((_, i) => (i * 31) >> 8);
  check(cuda.psi_upload!(place, all, all.length));
  const back = new Uint8Array(new ArrayBuffer(rows * bytes));
  check(cuda.psi_receive_rows!(back, place, stride, bytes, rows));
  for (let r = 0; r < rows; r++) {
    const row = back.subarray(r * bytes, (r + 1) * bytes);
    expect(Buffer.compare(row, all.subarray(r * stride, r * stride + bytes))).toBe(0);
  }
});

test("refusals: rows beyond their stride, tickets that were not given, memory that is not its own", () => {
  const place = deviceBytes(4096);
  const source = pinned(4096);
  expect(() => send(place, 63, source.address, 64, 2)).toThrow(/psi_send_rows.*2 of 64 in 63/);
  expect(() => send(place, 64, source.address, 64, 0)).toThrow(/psi_send_rows.*0 of 64/);
  expect(() => check(cuda.psi_sent!(1e9))).toThrow(/psi_sent.*1000000000/);
  expect(() => check(cuda.psi_sent!(Number.NaN))).toThrow(/psi_sent/);
  expect(() => check(cuda.psi_receive_rows!(source.view, place, 2 ** 23, 2 ** 23, 1))).toThrow(/4194304/);
  check(cuda.psi_host_free!(source.address));
  expect(() => check(cuda.psi_host_free!(source.address))).toThrow(/psi_host_free.*once/);
});
