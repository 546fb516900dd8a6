import {
  constants,
  copyFileSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { unexpected } from "../../core/error.ts";
import { isAlive, ownIdentity, type ProcessIdentity } from "../../core/process_identity.ts";

/** A file that says which process is at work; disposing of it takes it away. Throws `locked` where another one is. */
export class FileLock implements Disposable {
  readonly #path: string;

  constructor(path: string, what: string) {
    this.#path = path;
    mkdirSync(dirname(path), { recursive: true });
    // a name appears with its content or not at all, so nobody reads half a lock
    const own = `${path}.${process.pid}`;
    writeFileSync(own, JSON.stringify(ownIdentity()));
    try {
      while (!tryLink(own, path)) {
        const holder = holderOf(path);
        if (holder && isAlive(holder)) {
          throw unexpected("locked", what, "nobody else at it", `process ${holder.pid}`, {
            fix: "Wait for it to end, or stop it",
            details: { pid: holder.pid },
          });
        }
        takeAway(path, own, holder);
      }
    } finally {
      rmSync(own, { force: true });
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.#path, { force: true });
  }
}

function tryLink(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return false;
    // memory cards and some shares have no second names
    if (code === "EPERM" || code === "ENOTSUP" || code === "ENOSYS") return tryCopy(from, to);
    throw unexpected("io_failed", "lock", "a folder that can be written", to, { cause: error });
  }
}

function tryCopy(from: string, to: string): boolean {
  try {
    copyFileSync(from, to, constants.COPYFILE_EXCL);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw unexpected("io_failed", "lock", "a folder that can be written", to, { cause: error });
  }
}

function holderOf(path: string): ProcessIdentity | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as ProcessIdentity;
  } catch {
    // just taken away, or not ours
    return undefined;
  }
}

/** Removes the lock of a process that has ended. Who finds that it has got a newer one puts it back. */
function takeAway(path: string, own: string, ended: ProcessIdentity | undefined): void {
  const aside = `${own}.stale`;
  try {
    renameSync(path, aside);
  } catch {
    // somebody else was faster
    return;
  }
  if (holderOf(aside)?.pid !== ended?.pid) tryLink(aside, path);
  rmSync(aside, { force: true });
}
