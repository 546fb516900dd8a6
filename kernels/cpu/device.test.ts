import { type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import { expect, test } from "bun:test";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bytesAt, check, floats, levels, native, opened } from "./library.ts";

const lastError = (status: number) => `${status} ${native.psi_last_error()}`;

test("open chooses the best level, takes a lower one by name, and refuses others", () => {
  const read = () => {
    const text = new Uint8Array(4096);
    check(native.psi_info(text, text.length));
    return new TextDecoder().decode(text.subarray(0, text.indexOf(0)));
  };
  expect(opened("", 2, read)).toContain(`isa=${levels.at(-1)}\n`);
  expect(opened("plain", 1, read)).toContain("isa=plain\n");
  expect(opened("plain", 3, read)).toContain("threads=3\n");
  expect(lastError(native.psi_open("sse9", 1))).toStartWith("1 [psi_open] expected isa");
  expect(lastError(native.psi_open("", -1))).toStartWith("1 [psi_open] expected 0 to 512 threads, got -1.");
});

test("ops on a closed device say so", () => {
  const status = native.psi_dequantize(floats(32), new Uint8Array(2048), 1, 32, 8);
  expect(lastError(status)).toBe(
    "1 [psi_dequantize] expected an open device, got none. Call psi_open first.",
  );
});

test("info is cut at its capacity and terminated", () => {
  opened("plain", 1, () => {
    const text = new Uint8Array(8).fill(255);
    check(native.psi_info(text, 5));
    expect([...text]).toEqual([...new TextEncoder().encode("isa="), 0, 255, 255, 255]);
  });
});

test("memory is zero, aligned, and freed with its size; absurd sizes are refused", () => {
  const big = 9 << 20;
  const address = bytesAt(big);
  expect((address as number) % (2 << 20)).toBe(0);
  expect(new Uint8Array(toArrayBuffer(address, 0, big)).every((b) => b === 0)).toBe(true);
  check(native.psi_free(address, big));
  for (const bytes of [0, -1, 0.5, Number.NaN, Infinity, 2 ** 60]) {
    expect(lastError(native.psi_alloc(new BigUint64Array(1), bytes))).toStartWith("1 [psi_alloc]");
  }
});

test("copy moves overlapping bytes", () => {
  const address = bytesAt(64);
  const view = new Uint8Array(toArrayBuffer(address, 0, 64));
  view.set([1, 2, 3, 4, 5]);
  check(native.psi_copy(((address as number) + 2) as Pointer, address, 5));
  expect([...view.subarray(0, 8)]).toEqual([1, 2, 1, 2, 3, 4, 5, 0]);
});

test("a file is mapped, dropped from memory, read again, unmapped", async () => {
  const path = join(tmpdir(), `psionic-map-${process.pid}`);
  const content = new Uint8Array(100_000).map((_, i) => i % 251);
  await Bun.write(path, content);
  const out = new Float64Array(256);
  check(native.psi_map(ptr(out), ptr(out, 8), path));
  const [address, bytes] = [out[0]! as Pointer, out[1]!];
  expect(bytes).toBe(content.length);
  const view = new Uint8Array(toArrayBuffer(address, 0, bytes));
  expect(view).toEqual(content);
  check(native.psi_advise(((address as number) + 100) as Pointer, bytes - 200, 1));
  check(native.psi_advise(address, bytes, 0));
  expect(view).toEqual(content);
  expect(lastError(native.psi_advise(address, bytes, 7))).toBe(
    "1 [psi_advise] expected advice 0 or 1, got 7.",
  );
  check(native.psi_unmap(address, bytes));
  await Bun.file(path).delete();
  expect(lastError(native.psi_map(ptr(out), ptr(out, 8), path))).toContain("No such file or directory");
  expect(lastError(native.psi_map(ptr(out), ptr(out, 8), tmpdir()))).toContain("expected a regular file");
});

test("measure gives positive numbers", () => {
  const out = new Float64Array(256);
  opened("", 1, () => check(native.psi_measure(ptr(out), ptr(out, 8), ptr(out, 16), 1 << 24)));
  for (const value of out.subarray(0, 3)) expect(value).toBeGreaterThan(0);
});
