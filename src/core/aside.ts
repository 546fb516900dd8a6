import {
  accessSync,
  closeSync,
  constants,
  fsyncSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { unexpected } from "./error.ts";

/**
 * A file that appears under its name only when it is whole: written beside it, synced, renamed. Disposing of one that
 * was not kept removes what was written, and leaves a file that had the name before as it was. Devices and pipes are
 * written as they are. Errors are `io_failed`.
 */
export class AsideFile implements Disposable {
  readonly #where: string;
  readonly #path: string;
  /** undefined: written in place. */
  readonly #aside: string | undefined;
  #handle: number | undefined;

  /** `where`: how messages name the file's place, such as `--out`. */
  constructor(path: string, where: string) {
    this.#where = where;
    const present = guarded(where, () => statSync(path, { throwIfNoEntry: false }));
    // a link stays one: the file that it means is replaced
    this.#path = present?.isFile() ? guarded(where, () => realpathSync(path)) : path;
    this.#aside = present && !present.isFile() ? undefined : `${this.#path}.${process.pid}.part`;
    this.#handle = guarded(where, () => openSync(this.#aside ?? path, "w"));
  }

  /** Throws where the folder of a file is not there or cannot be written; makes nothing. */
  static check(path: string, where: string): void {
    guarded(where, () => {
      const regular = statSync(path, { throwIfNoEntry: false })?.isFile() ?? true;
      if (regular) accessSync(dirname(path), constants.W_OK);
    });
  }

  write(bytes: Uint8Array): void {
    const handle = this.#open();
    for (let at = 0; at < bytes.length; ) at += guarded(this.#where, () => writeSync(handle, bytes, at));
  }

  /** The file is whole: it gets its name. */
  keep(): void {
    const handle = this.#open();
    guarded(this.#where, () => {
      if (this.#aside !== undefined) fsyncSync(handle);
      closeSync(handle);
      this.#handle = undefined;
      if (this.#aside !== undefined) renameSync(this.#aside, this.#path);
    });
  }

  [Symbol.dispose](): void {
    if (this.#handle !== undefined) closeSync(this.#handle);
    this.#handle = undefined;
    if (this.#aside !== undefined) rmSync(this.#aside, { force: true });
  }

  #open(): number {
    if (this.#handle !== undefined) return this.#handle;
    throw unexpected("internal", this.#where, "a file that is being written", "one that is finished");
  }
}

function guarded<T>(where: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw unexpected("io_failed", where, "a file that can be written", reason, { cause });
  }
}
