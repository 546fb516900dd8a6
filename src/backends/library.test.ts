import { expect, test } from "bun:test";
import { join } from "node:path";

test("a process that may not compile native calls is told why, and what to do", async () => {
  const main = join(import.meta.dir, "../main.ts");
  const child = Bun.spawn([process.execPath, main, "run", "-p", "hi", "--backend", "cpu"], {
    ...({ stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const),
    // what a small address space, or a service without executable memory, comes to
    env: { ...Bun.env, BUN_JSC_useJIT: "0" },
  });
  const said = await new Response(child.stderr).text();
  expect([await child.exited, said]).toEqual([
    1,
    expect.stringMatching(
      /^psionic: \[ffi\] expected memory that code may be compiled into, got none\. Raise .*\n$/,
    ),
  ]);
}, 60_000);
