/** The example of docs/three-processes.md, as it is written there. */
import { expect, test } from "bun:test";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Scene } from "./testing/scene.ts";

const root = join(import.meta.dir, "..", "..");

test("worker, joiner and validator, pasted from the page", async () => {
  using scene = new Scene();
  const page = readFileSync(join(root, "docs/three-processes.md"), "utf8");
  const commands = [...page.matchAll(/^```bash\n([\s\S]*?)^```$/gm)].map((m) => m[1]).join("\n");
  const program = join(scene.packaged, "psionic");
  writeFileSync(program, `#!/bin/sh\nexec "${process.execPath}" "${join(root, "src/main.ts")}" "$@"\n`);
  chmodSync(program, 0o755);
  const free = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = free;
  free.stop();
  const child = Bun.spawn(["bash", "-c", commands], {
    cwd: scene.folder,
    env: {
      ...process.env,
      ...scene.environment({ PATH: `${scene.packaged}:${process.env.PATH}`, PORT: String(port) }),
    },
    ...({ stdout: "pipe", stderr: "pipe" } as const),
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  expect([await child.exited, err]).toEqual([0, ""]);
  const verdicts = out.match(/"detail": .* was accepted with 10000 after doing 8 of 8 steps again"/g) ?? [];
  expect([verdicts.length, out]).toEqual([2, expect.stringContaining("window-2")]);
}, 120_000);
