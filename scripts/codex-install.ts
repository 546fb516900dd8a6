/**
 * Codex CLI from npm, in a folder of its own: 167 MB to fetch and 404 MB on disk are too much for every checkout.
 * Usage: bun scripts/codex-install.ts          Output: the path of its executable. Exits 1 when npm could not bring it.
 */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";

export const codexVersion = "0.169.0";
const folder = join(import.meta.dir, "..", ".cache", `codex-${codexVersion}`);

/** The executable that was installed before; undefined where there is none. */
export function installedCodex(): string | undefined {
  const modules = join(folder, "node_modules", "@openai");
  if (!existsSync(modules)) return undefined;
  for (const found of new Bun.Glob("codex*/vendor/*/bin/codex").scanSync(modules))
    return join(modules, found);
  return undefined;
}

/** Installs it if it is missing; returns the path of its executable. */
export async function installCodex(): Promise<string> {
  const before = installedCodex();
  if (before) return before;
  console.error(`installing @openai/codex ${codexVersion} into ${folder}`);
  mkdirSync(folder, { recursive: true });
  await Bun.write(join(folder, "package.json"), '{"private":true}\n');
  const install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
  const child = Bun.spawn([...install, `@openai/codex@${codexVersion}`], {
    ...({ cwd: folder, stdin: "ignore", stdout: "ignore", stderr: "pipe" } as const),
  });
  const err = await new Response(child.stderr).text();
  const found = (await child.exited) === 0 ? installedCodex() : undefined;
  if (found === undefined) throw new Error(`[codex-install] npm install failed:\n${err}`);
  return found;
}

if (import.meta.main) console.log(await installCodex());
