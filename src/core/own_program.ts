import { join } from "node:path";

/** The words that run this program again: the executable itself, or Bun with the source. */
export function ownProgram(): string[] {
  if (Bun.isStandaloneExecutable) return [process.execPath];
  return [process.execPath, join(import.meta.dir, "..", "main.ts")];
}
