/**
 * Types, format and lint, and the size of every source file (600 lines are the limit).
 * Usage: bun scripts/check.ts [--sizes]          Output: what is wrong; with --sizes the lines per folder. Exits 1.
 */
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const largest = 600;

async function tool(name: string, args: readonly string[]): Promise<boolean> {
  const child = Bun.spawn([process.execPath, join(root, "node_modules", ".bin", name), ...args], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
  });
  const ok = (await child.exited) === 0;
  console.error(`${name}: ${ok ? "ok" : "failed"}`);
  return ok;
}

async function sizes(): Promise<boolean> {
  const folders = new Map<string, number>();
  let ok = true;
  for (const pattern of ["{src,ffi,scripts}/**/*.ts", "kernels/**/*.{cpp,h,cu,cuh,ts}", "*.ts"]) {
    for await (const file of new Bun.Glob(pattern).scan(root)) {
      const lines = (await Bun.file(join(root, file)).text()).split("\n").length - 1;
      const folder = file.split("/").slice(0, -1).join("/");
      folders.set(folder, (folders.get(folder) ?? 0) + lines);
      if (lines <= largest) continue;
      console.error(`${file}: expected at most ${largest} lines, got ${lines}`);
      ok = false;
    }
  }
  const total = [...folders.values()].reduce((a, b) => a + b, 0);
  if (process.argv.includes("--sizes")) {
    for (const [folder, lines] of [...folders].sort())
      console.log(`${String(lines).padStart(6)}  ${folder || "."}`);
  }
  console.error(`sizes: ${ok ? "ok" : "failed"} (${total} lines)`);
  return ok;
}

const results = [await tool("tsc", ["-p", "."]), await tool("biome", ["check"]), await sizes()];
process.exit(results.every(Boolean) ? 0 : 1);
