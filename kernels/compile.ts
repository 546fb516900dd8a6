/** Running compilers with a cache: objects and libraries lie in .cache/objects under the hash of all that made them. */
import { existsSync, lstatSync, readlinkSync, rmSync, symlinkSync } from "node:fs";
import { mkdir, rename } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { dirname, join, resolve } from "node:path";

export const kernels = import.meta.dir;
export const cache = join(kernels, "..", ".cache");

/** The C++ compiler that continuous integration has. Others warn of other things, which must not stop a build. */
const strictCompiler = /^\S+ .*\b12\.\d+\.\d+$/m;

/** Warnings are errors with the compiler of continuous integration. */
export function strictness(version: string): readonly string[] {
  return strictCompiler.test(version) ? ["-Werror"] : [];
}

/** Standard output of a command; an error with all its output when it fails. */
export async function run(command: readonly string[]): Promise<string> {
  const child = Bun.spawn([...command], { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`[kernels/build] ${command.join(" ")}\nexited with ${code}:\n${err}${out}`);
  return out;
}

/** The file and everything it includes with quotes, each once. */
export async function sourceClosure(
  file: string,
  seen = new Map<string, string>(),
): Promise<Map<string, string>> {
  if (seen.has(file)) return seen;
  const text = await Bun.file(file).text();
  seen.set(file, text);
  for (const match of text.matchAll(/^\s*#include\s+"([^"]+)"/gm)) {
    await sourceClosure(resolve(dirname(file), match[1]!), seen);
  }
  return seen;
}

/** Whether a process is there; one of another user counts. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Longer than any compiler takes: by then the number belongs to another process. */
const longestMs = 30 * 60_000;

/**
 * Takes the right to make `path`, held by a link that names the process, so that builds at the same time share the work;
 * false when another process has made it meanwhile.
 */
async function claim(path: string, lock: string): Promise<boolean> {
  for (;;) {
    if (existsSync(path)) return false;
    try {
      symlinkSync(String(process.pid), lock);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    try {
      const heldMs = Date.now() - lstatSync(lock).mtimeMs;
      if (!isRunning(Number(readlinkSync(lock))) || heldMs > longestMs) rmSync(lock, { force: true });
    } catch {
      // the holder has just finished
    }
    await Bun.sleep(100);
  }
}

/** Runs `command` (its output path replaced by a cache path) unless the cache has the result; returns the path. */
export async function cached(
  extension: string,
  key: readonly string[],
  command: (out: string) => string[],
): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const part of key) hasher.update(`${part.length}:${part}`);
  const path = join(cache, "objects", `${hasher.digest("hex")}${extension}`);
  if (await Bun.file(path).exists()) return path;
  await mkdir(dirname(path), { recursive: true });
  const lock = `${path}.lock`;
  if (!(await claim(path, lock))) return path;
  const unfinished = `${path}.${process.pid}.part${extension}`;
  try {
    await run(command(unfinished));
    await rename(unfinished, path);
  } finally {
    rmSync(lock, { force: true });
  }
  return path;
}

/** `body` over the items, as many at a time as there are cores. */
export async function inParallel<T, R>(items: readonly T[], body: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = new Array(items.length);
  let next = 0;
  const lanes = Array.from({ length: availableParallelism() }, async () => {
    for (let i = next++; i < items.length; i = next++) results[i] = await body(items[i]!);
  });
  await Promise.all(lanes);
  return results;
}

/** Copies a cached library to `path` in one step, since another process may be loading it. */
export async function install(library: string, path: string): Promise<string> {
  await mkdir(dirname(path), { recursive: true });
  const unfinished = `${path}.${process.pid}.part`;
  await Bun.write(unfinished, Bun.file(library));
  await rename(unfinished, path);
  return path;
}
