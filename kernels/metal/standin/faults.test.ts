/** The stand-in's checks see what they are for, with kernel and thread, and let correct kernels pass. */
import { dlopen, type Pointer } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { buildMetalStandin, standinMissing } from "../../build_metal.ts";

const missing = standinMissing();
const folder = join(import.meta.dir, "..", "..", "..", ".cache", "native");

const { symbols } = missing
  ? { symbols: undefined }
  : dlopen(await buildMetalStandin(folder, "faults"), {
      psi_open: { args: ["cstring", "i32"], returns: "i32" },
      psi_last_error: { args: [], returns: "cstring" },
      psi_alloc: { args: ["ptr", "f64"], returns: "i32" },
      psi_upload: { args: ["ptr", "ptr", "f64"], returns: "i32" },
      psi_download: { args: ["ptr", "ptr", "f64"], returns: "i32" },
      psi_plant: {
        args: ["ptr", "ptr", "cstring", "i32", "i32", "i32", "i32", "i32"],
        returns: "i32",
      },
    });

type Plant = {
  readonly groups?: number;
  readonly threads?: number;
  readonly shift?: number;
  readonly memory?: number;
  readonly what?: number;
};

function memory(): Pointer {
  const address = new BigUint64Array(new ArrayBuffer(8));
  symbols!.psi_alloc(address, 256);
  return Number(address[0]) as Pointer;
}

/** What a kernel made of 0, 1, 2 ...; or the text of what was seen. */
function plant(
  kernel: string,
  { groups = 1, threads = 64, shift = 0, memory: bytes = 0, what = 0 }: Plant = {},
) {
  const [y, x] = [memory(), memory()];
  symbols!.psi_upload(
    x,
    Float32Array.from({ length: 64 }, (_, i) => i),
    256,
  );
  const name = new TextEncoder().encode(`${kernel}\0`);
  const out = new Float32Array(new ArrayBuffer(2048), 0, 64);
  const launched = symbols!.psi_plant(y, x, name as never, groups, threads, shift, bytes, what);
  const status = launched || symbols!.psi_download(out, y, 256);
  return status === 0 ? out : String(symbols!.psi_last_error());
}

const first = (kernel: string, rest: string): RegExp =>
  new RegExp(`kernel ${kernel}, thread \\(\\d+,0,0\\) of threadgroup \\(\\d+,0,0\\): ${rest}`);

const race = "(reads|writes) 4 bytes at \\d+ of t that thread \\d+ (wrote|read) with no barrier between";

describe.skipIf(missing !== undefined)("faults on the Metal stand-in", () => {
  test("opens", () => {
    expect(symbols!.psi_open(new TextEncoder().encode("\0") as never, 0)).toBe(0);
  });

  test("correct kernels pass", () => {
    const up = Float32Array.from({ length: 64 }, (_, i) => i);
    const down = up.slice().reverse();
    expect(plant("good", { shift: 2 })).toEqual(down.map((v) => v + 2));
    expect(plant("simd_barrier_in_one", { threads: 32 })).toEqual(down.map((v, i) => (i < 32 ? v - 32 : 0)));
    expect(plant("device_fence")).toEqual(down);
    expect(plant("given_memory", { memory: 256 })).toEqual(up);
    // lanes that have returned are left out of sums
    const sums = plant("live_lanes") as Float32Array;
    expect([sums[0], sums[39], sums[40]]).toEqual([496, 284, 0]);
  });

  const seen: readonly (readonly [string, string, Plant?])[] = [
    ["reads_past_end", 'reads 4 bytes at 256 of buffer 1 "x", which has 256 bytes'],
    ["writes_past_end", 'writes 4 bytes at 256 of buffer 0 "y", which has 256 bytes'],
    ["reads_before_begin", "reads 4 bytes at"],
    [
      "reads_past_threadgroup",
      "reads 4 bytes at 256 of threadgroup memory t, which has 256 bytes",
      { shift: 1 },
    ],
    [
      "reads_past_threadgroup",
      "reads 4 bytes at .* of threadgroup memory t, which has 256 bytes",
      { shift: 40 },
    ],
    ["writes_const", 'writes to buffer 1 "x", which is const'],
    ["atomic_outside", 'writes 4 bytes at 256 of buffer 0 "y"'],
    ["misaligned", "reads 16 bytes at an address that is no multiple of 16", { threads: 16 }],
    ["no_barrier", race],
    ["wrong_fence", race],
    ["no_second_barrier", race],
    ["no_simd_barrier", race, { threads: 32 }],
    ["simd_barrier_in_two", race],
    [
      "device_race",
      'writes 4 bytes at 0 of buffer 0 "y" that a thread of threadgroup 0 wrote',
      { groups: 2 },
    ],
    [
      "device_fence",
      'reads 4 bytes at \\d+ of buffer 0 "y" that thread \\d+ wrote with no barrier',
      { shift: 1 },
    ],
    ["early_return", "returns while thread 0 waits at a threadgroup barrier"],
    ["late_barrier", "waits at a threadgroup barrier, which a thread that has returned never reaches"],
    ["two_barriers", "is at another threadgroup barrier than thread 0"],
    ["divergent_simd", "calls simd_(sum|max) where lane \\d+ of its simdgroup calls something else"],
    ["too_much_memory", "expected at most 32768 bytes of threadgroup memory, got 32800"],
  ];
  test.each(seen.map(([kernel, text, options]) => [kernel, text, options ?? {}] as const))(
    "%s: %s",
    (kernel, text, options) => {
      expect(plant(kernel, options)).toMatch(first(kernel, text));
    },
  );

  test("a barrier that threads wait at for ever names its threads", () => {
    expect(plant("divergent_barrier", { threads: 32 })).toMatch(
      first(
        "divergent_barrier",
        "divergent barrier: 16 threads wait at a threadgroup barrier, 16 in a simdgroup function",
      ),
    );
  });

  test("of several command buffers that fail the first is told, at the end or at a later launch", () => {
    const [y, x] = [memory(), memory()];
    const out = new Float32Array(new ArrayBuffer(2048), 0, 64);
    /** Launches one after another; each 64 of them are a command buffer of the stand-in. */
    const launch = (kernel: string, times: number): number => {
      const name = new TextEncoder().encode(`${kernel}\0`);
      let status = 0;
      for (let i = 0; i < times && status === 0; i++) {
        status = symbols!.psi_plant(y, x, name as never, 1, 64, 0, 0, 0);
      }
      return status;
    };
    expect([launch("reads_past_end", 1), launch("good", 64), launch("writes_const", 1)]).toEqual([0, 0, 0]);
    expect(symbols!.psi_download(out, y, 256)).not.toBe(0);
    expect(String(symbols!.psi_last_error())).toMatch(first("reads_past_end", "reads 4 bytes"));
    expect(launch("reads_past_end", 1)).toBe(0);
    expect(launch("good", 9 * 64)).not.toBe(0);
    expect(String(symbols!.psi_last_error())).toMatch(first("reads_past_end", "reads 4 bytes"));
    expect([launch("good", 1), symbols!.psi_download(out, y, 256)]).toEqual([0, 0]);
  });

  test("limits of devices", () => {
    expect(plant("good", { threads: 1025 })).toContain(
      "expected 1 to 1024 threads in a threadgroup of kernel good, got 1025",
    );
    expect(plant("given_memory", { memory: 40_000 })).toContain(
      "expected at most 32768 bytes of threadgroup memory",
    );
    expect(plant("given_memory")).toContain("expected a length of threadgroup memory at index 0, got none");
    expect(plant("good", { what: 1 })).toContain("expected a buffer at index 1, got none");
    expect(plant("good", { what: 2 })).toContain("expected buffer indices of kernel good below 31, got 31");
  });

  test("constants and kernels that do not fit", () => {
    expect(plant("good", { what: 3 })).toContain(
      "function constant SHIFT at index 0: expected a value of type int, got none",
    );
    expect(plant("good", { what: 4 })).toContain("got another type");
    expect(plant("nothing_of_that_name")).toContain("no function nothing_of_that_name");
  });
});
