/** node-llama-cpp, llama.cpp's prebuilt binaries for JavaScript, in a folder of its own; npm brings it at the first use. */
import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

export const peerFolder = join(import.meta.dir, "..", ".cache", "llama-peer");
export const peerVersion = "3.22.1";

/** Installs it if it is missing; returns the path of its module. */
export async function installPeer(): Promise<string> {
  if (!existsSync(join(peerFolder, "node_modules", "node-llama-cpp"))) {
    console.error(`installing node-llama-cpp ${peerVersion} into ${peerFolder}`);
    mkdirSync(peerFolder, { recursive: true });
    await Bun.write(join(peerFolder, "package.json"), '{"private":true}\n');
    const install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"];
    const child = Bun.spawn([...install, `node-llama-cpp@${peerVersion}`], {
      ...({ cwd: peerFolder, stdin: "ignore", stdout: "ignore", stderr: "pipe" } as const),
    });
    const err = await new Response(child.stderr).text();
    if ((await child.exited) !== 0) throw new Error(`[llama-install] npm install failed:\n${err}`);
  }
  return createRequire(`${peerFolder}/`).resolve("node-llama-cpp");
}
