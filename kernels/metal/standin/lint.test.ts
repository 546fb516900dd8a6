/** What compiles in C++ and not in Metal is found; the kernels of this folder are clean. */
import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { metalSources, standinMissing } from "../../build_metal.ts";
import { lint } from "./lint.ts";

const missing = standinMissing() !== undefined;

/** A kernel with this body, y device float*, x device const float*, t threadgroup float*, p constant float&. */
async function found(body: string, before = ""): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "psionic-lint-"));
  const path = join(folder, "planted.metal");
  await Bun.write(
    path,
    `#include <metal_stdlib>\nusing namespace metal;\n${before}\n` +
      "kernel void planted(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], constant float& p [[buffer(2)]],\n" +
      "  threadgroup float* t [[threadgroup(0)]], uint i [[thread_position_in_grid]]) {\n" +
      `${body}\n}\n`,
  );
  try {
    return (await lint(path)).join("\n");
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const faults: readonly (readonly [string, string, RegExp, string?])[] = [
  ["a pointer without an address space", "float* q = y + i; q[0] = 1;", /cannot initialize|address space/],
  ["device memory as threadgroup memory", "threadgroup float* q = y; q[0] = 1;", /cannot initialize/],
  ["a threadgroup pointer as device memory", "device float* q = t; q[0] = 1;", /cannot initialize/],
  ["device memory as constant", "constant float* q = y; t[0] = q[0];", /cannot initialize/],
  ["a local variable as device memory", "float v = 1; device float* q = &v; q[0] = 2;", /cannot initialize/],
  ["const that is lost", "device float* q = x; q[0] = 1;", /cannot initialize|const/],
  ["a write to constant memory", "p = 1.0f; y[i] = p;", /cannot assign|read-only|const-qualified/],
  [
    "a helper of another address space",
    "y[i] = first(t);",
    /no matching function/,
    "static inline float first(device const float* a) { return a[0]; }",
  ],
  [
    "an element that a vector lacks",
    "float3 v = float3(1.0f, 2.0f, 3.0f); y[i] = v.w;",
    /exceeds|component|out of/,
  ],
  ["a name that is not declared", "y[i] = nowhere;", /undeclared/],
  [
    "max of an int and an uint",
    "y[i] = float(max(int(i), i));",
    /no matching function|ambiguous|conflicting/,
  ],
  ["double", "double z = 1; y[i] = float(z);", /no double/],
  ["a literal that C++ takes for a double", "y[i] = 0.5 * x[i];", /literal without f/],
  [
    "recursion",
    "y[i] = down(x[i]);",
    /down calls itself/,
    "static inline float down(float v) { return v < 1.0f ? v : down(v - 1.0f); }",
  ],
  [
    "recursion by way of another",
    "y[i] = a(x[i]);",
    /[ab] calls itself/,
    "static float b(float);\nstatic inline float a(float v) { return b(v); }\nstatic inline float b(float v) { return v < 1.0f ? v : a(v - 1.0f); }",
  ],
  ["exceptions", "if (i > 3) throw 1; y[i] = 0;", /no exceptions/],
  ["allocation", "thread float* q = new float[3]; y[i] = q[0];", /allocates no memory/],
  [
    "what the preprocessor refuses",
    "y[i] = 0;",
    /preprocessor ended with 1: .*error: planted/s,
    "#error planted",
  ],
  [
    "a pointer to a variable of its own without an address space",
    "float v = p; float* q = &v; y[i] = *q;",
    /names its address space: "float\*".* \[kernel planted\]/,
  ],
  [
    "a helper's reference without an address space",
    "float v = p; grow(v); y[i] = v;",
    /names its address space: "float&".* \[function grow\]/,
    "static inline void grow(float& v) { v += 1.0f; }",
  ],
  ["clamp of a float between ints", "y[i] = clamp(x[i], 0, 1);", /no matching function/],
  ["exp of an integer", "y[i] = float(exp(i));", /no matching function/],
  ["a lane's 64 bits", "y[i] = float(simd_max(ulong(i)));", /no matching function/],
  ["a null pointer", "threadgroup float* q = 0; y[i] = q[i];", /zero as null pointer/],
  ["a null pointer by name", "threadgroup float* q = nullptr; y[i] = q[i];", /address of threadgroup memory/],
  ["what C++17 brought", "if constexpr (sizeof(float) == 4) y[i] = 0.0f;", /C\+\+14/],
  [
    "a threadgroup variable inside of a block",
    "if (i < 8) { threadgroup float u[8]; u[i] = p; y[i] = u[i]; }",
    /beginning of a kernel: u/,
  ],
  [
    "a threadgroup variable of a helper",
    "y[i] = kept(p);",
    /beginning of a kernel: u/,
    "static inline float kept(float v) { threadgroup float u[8]; u[0] = v; return u[0]; }",
  ],
  [
    "a function that other files see",
    "y[i] = one();",
    /function of a file is static: one/,
    "inline float one() { return 1.0f; }",
  ],
  [
    "a constant that other files see",
    "y[i] = LEVELS[i & 1];",
    /constant of a file is static: LEVELS/,
    "constant float LEVELS[2] = {1, 2};",
  ],
  [
    "positions as a scalar and a vector",
    "y[i] = 0.0f;",
    /one length, got 1 and 2 \[kernel mixed\]/,
    "kernel void mixed(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]], uint2 g [[threadgroup_position_in_grid]]) { y[i + g.x] = 0.0f; }",
  ],
  ["a lambda", "auto f = [&](float v) { return v; }; y[i] = f(x[i]);", /lambda/],
];

describe.skipIf(missing)("the lint of Metal kernels", () => {
  test("a correct kernel passes", async () => {
    const body =
      "threadgroup float u[8][4]; u[i][0] = x[i] * p; threadgroup_barrier(mem_flags::mem_threadgroup);\n" +
      "float4 v = float4(u[i][0]); y[i] = v.x + first(y) + t[0];";
    expect(await found(body, "static inline float first(device const float* a) { return a[0]; }")).toBe("");
  });
  test.each(faults.map(([name, body, text, before]) => [name, body, text, before ?? ""] as const))(
    "%s is found",
    async (_name, body, text, before) => {
      const said = await found(body, before);
      expect(said).toMatch(text);
      if (said.includes("error: cannot")) expect(said).toContain("[kernel planted]");
    },
  );
  test("all kernels are clean", async () => {
    const { kernels } = await metalSources();
    const all = await Promise.all(kernels.map(({ path }) => lint(path)));
    expect(all.flat()).toEqual([]);
  }, 240_000);
});
