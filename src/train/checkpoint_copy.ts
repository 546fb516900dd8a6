/** Copies of a checkpoint's folder: put together under another name, whole or not at all. */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { PsionicError, unexpected } from "../core/error.ts";
import { removeLeftovers, stepFolder } from "./checkpoint.ts";
import { syncFiles, syncFolder } from "./durable.ts";

/** A checkpoint's folder below `to` as `fill` makes it, whole or not at all. */
export function takeCheckpoint(to: string, step: number, fill: (aside: string) => void): void {
  const aside = asideOf(to, step);
  try {
    mkdirSync(to, { recursive: true });
    removeLeftovers(to);
    fill(aside);
    placeCheckpoint(aside, to, step);
  } catch (cause) {
    throw takingFailed(aside, cause);
  }
}

/** Where a checkpoint is put together before it has its name. */
export const asideOf = (to: string, step: number): string =>
  join(to, `.${stepFolder(step)}.${process.pid}.part`);

/** Makes a folder that is whole last, and gives it its name in the place of what stood there. */
export function placeCheckpoint(aside: string, to: string, step: number): void {
  const target = join(to, stepFolder(step));
  syncFiles(aside);
  if (existsSync(target)) rmSync(target, { recursive: true });
  renameSync(aside, target);
  syncFolder(to);
}

/** Removes what was put together; the error as the one to be told. */
export function takingFailed(aside: string, cause: unknown): unknown {
  if (existsSync(aside)) rmSync(aside, { recursive: true, force: true });
  // what was read and is not whole says so itself
  if (cause instanceof PsionicError) return cause;
  const text = cause instanceof Error ? cause.message : String(cause);
  const code = /ENOSPC|EDQUOT/.test(text) ? "disk_full" : "io_failed";
  return unexpected(code, "train backup", "a folder that takes a checkpoint", text, { cause });
}

/** The files of a checkpoint's folder, what names the others last. */
export function filesOf(folder: string): string[] {
  const last = (name: string): number => (name === "trainer_state.json" ? 1 : 0);
  return readdirSync(folder).sort((a, b) => last(a) - last(b) || (a < b ? -1 : 1));
}
