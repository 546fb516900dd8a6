/** A refusal comes soon: nothing that computes is loaded for it. */
import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

const src = join(import.meta.dir, "..");

/** Modules that are loaded with one, and which of them brought each in. */
function loadedWith(entry: string): ReadonlyMap<string, string> {
  const found = new Map([[entry, ""]]);
  for (const [file] of found) {
    const text = readFileSync(file, "utf8");
    for (const [, path] of text.matchAll(/^(?:import|export)\s+(?!type\b)[^;]*?from\s*"(\.[^"]+\.ts)"/gms)) {
      const target = resolve(dirname(file), path!);
      if (!found.has(target)) found.set(target, file);
    }
  }
  return found;
}

test("train manifest loads no kernels, no ops, no models and no data before it needs them", () => {
  const loaded = loadedWith(join(src, "machine", "cli", "manifest.ts"));
  const heavy = /^(backends|runtime|compiler|ir|data|train\/(trainer|models|optimizer|lanes))\b/;
  const reached = [...loaded]
    .map(([file, by]) => [relative(src, file), relative(src, by)] as const)
    .filter(([file]) => heavy.test(file));
  expect(reached).toEqual([]);
  expect(loaded.size).toBeGreaterThan(40);
});
