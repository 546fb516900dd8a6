import { afterAll, describe, expect, test } from "bun:test";
import { openDevice } from "../backends/index.ts";
import { planDigest } from "../compiler/digest.ts";
import { PsionicError } from "../core/error.ts";
import { apply } from "./apply.ts";
import { Arena } from "./arena.ts";
import { add, addRmsNorm, embedding, rmsNorm } from "./functions.ts";
import { record } from "./recorder.ts";
import { reshape, rowsOf } from "./tensor.ts";

describe("arena", () => {
  let next = 4096;
  const blocks: number[] = [];
  const arena = new Arena(
    (bytes) => {
      const address = next;
      next += bytes + 4096;
      blocks.push(bytes);
      return address;
    },
    () => {},
  );

  test("the same sizes give the same addresses, over block borders too", () => {
    const sizes = [100, 20 * 2 ** 20, 30 * 2 ** 20, 7, 90 * 2 ** 20];
    const start = arena.mark();
    const first = sizes.map((s) => arena.take(s));
    arena.reset(start);
    expect(sizes.map((s) => arena.take(s))).toEqual(first);
    expect(first.every((a) => a % 64 === 0)).toBe(true);
    arena.reset(start);
  });

  test("a mark of the future is refused", () => {
    const start = arena.mark();
    arena.take(64);
    const later = arena.mark();
    arena.reset(start);
    expect(() => arena.reset(later)).toThrow(PsionicError);
  });
});

describe("device", () => {
  const device = openDevice("cpu", { threads: 1 });
  afterAll(() => device.close());
  const f32 = (rows: number, columns: number, value: number) =>
    device.fromHost("f32", [rows, columns], new Float32Array(rows * columns).fill(value));

  test("temporaries need a scope, and end with it", () => {
    expect(() => f32(1, 1, 0)).toThrow(/expected an open scope/);
    let address = 0;
    for (let i = 0; i < 2; i++) {
      using _scope = device.scope();
      const sum = add(f32(2, 3, 1), f32(2, 3, 2));
      expect([...device.downloadF32(sum)]).toEqual([3, 3, 3, 3, 3, 3]);
      if (i === 1) expect(sum.address).toBe(address);
      address = sum.address;
    }
    expect(device.live()).toEqual({ tensors: 0, bytes: 0, scopes: 0 });
  });

  test("scopes end in the reverse order of their start", () => {
    const outer = device.scope();
    const inner = device.scope();
    expect(() => outer[Symbol.dispose]()).toThrow(/reverse order/);
    inner[Symbol.dispose]();
    outer[Symbol.dispose]();
  });

  test("state is freed once, by its owner; what is left is counted", () => {
    const t = device.empty("f32", [4]);
    expect([...device.downloadF32(t)]).toEqual([0, 0, 0, 0]);
    expect(device.live().tensors).toBe(1);
    device.free(t);
    expect(() => device.free(t)).toThrow(/once/);
  });

  test("a device that is closed with live tensors says so", () => {
    const other = openDevice("meta");
    other.empty("f32", [4]);
    expect(() => other.close()).toThrow(/expected no live tensors at close, got 1/);
  });

  test("shapes, devices and places are checked before anything runs", () => {
    using _scope = device.scope();
    const a = f32(2, 3, 1);
    expect(() => add(a, f32(3, 2, 1))).toThrow("[add b] expected f32 [2, 3], got f32 [3, 2]");
    expect(() => rmsNorm(a, f32(1, 3, 1), 1e-5)).toThrow(/rms_norm w/);
    const meta = openDevice("meta");
    using _meta = meta.scope();
    expect(() => add(a, meta.temporary({ dtype: "f32", shape: [2, 3] }))).toThrow(/inputs on cpu/);
    expect(() => add(a, a, f32(3, 3, 0))).toThrow(/add into/);
  });

  test("a status of the library becomes an error with its text", () => {
    using _scope = device.scope();
    const table = f32(4, 8, 1);
    const ids = device.fromHost("i32", [1], Int32Array.of(4));
    expect(() => embedding(table, ids)).toThrow(/expected ids from 0 to 3, got 4/);
  });

  test("an op the backend lacks is refused by name", () => {
    using _scope = device.scope();
    const a = f32(1, 1, 1);
    const unknown = {
      ...{ name: "warp", summary: "", inputs: [{ name: "x" }], params: [], signature: [] },
      ...{ outputs: () => [], cost: () => ({ flops: 0, bytes: 0 }), arguments: () => [] },
    };
    expect(() => apply(unknown, [a], {})).toThrow("[warp] expected an op of the cpu backend");
  });

  test("in-place ops return their input; views share memory", () => {
    using _scope = device.scope();
    const x = f32(2, 16, 1);
    const y = addRmsNorm(x, f32(2, 16, 2), rowsOf(reshape(f32(1, 16, 1), [16]), 0, 16), 0);
    expect(device.downloadF32(x)[5]).toBe(3);
    expect(device.downloadF32(y)[5]).toBeCloseTo(1, 6);
    expect([...device.downloadF32(rowsOf(x, 1, 1))].length).toBe(16);
    expect(() => rowsOf(x, 1, 2)).toThrow(/rowsOf/);
  });

  test("a recorder hears calls, not addresses", () => {
    const step = (columns: number) => () => {
      using _scope = device.scope();
      add(f32(2, columns, 1), f32(2, columns, 2));
    };
    const digest = planDigest(record(device, step(3)));
    {
      using _other = device.scope();
      f32(100, 100, 0);
      expect(planDigest(record(device, step(3)))).toBe(digest);
    }
    expect(planDigest(record(device, step(4)))).not.toBe(digest);
    expect(digest).toMatch(/^sha256:[0-9a-f]{64}$/);
  });
});
