/** A folder for one process at a time: each lays a claim of its own, so that removing a dead one's never removes another's. */
import { closeSync, lstatSync, mkdirSync, openSync, readdirSync, rmdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { unexpected } from "./error.ts";
import { isAlive, ownIdentity } from "./process_identity.ts";

/** How long the first of several that came at once waits for the others to give way. */
const givingWayMs = 200;

/**
 * Takes `folder` for this process; `where` is what the error names. A claim is laid before the others are looked at, so of
 * two that come at once at least one sees the other. Claims of processes that died count for nothing.
 * Throws `locked` while another one is at it.
 */
export function lockFolder(folder: string, where: string): Disposable {
  const own = claimName();
  layClaim(folder, own, where);
  const release = (): void => withdraw(folder, own);
  const end = performance.now() + givingWayMs;
  for (;;) {
    const others = livingClaims(folder, own);
    const [first] = others;
    if (first === undefined) return { [Symbol.dispose]: release };
    const isFirst = others.every((name) => own < name);
    if (!isFirst || performance.now() > end) {
      release();
      const pid = pidOf(first);
      throw unexpected("locked", where, "a folder that no other process is at", `process ${pid}`, {
        fix: "Wait for it to end, or stop it",
        details: { pid },
      });
    }
    Bun.sleepSync(2);
  }
}

/** `<pid>-<start in clock ticks, or unknown>-<random>`: never given twice. */
function claimName(): string {
  const { pid, started } = ownIdentity();
  const random = crypto.getRandomValues(new Uint8Array(6)).toHex();
  return `${pid}-${started ?? "unknown"}-${random}`;
}

const pidOf = (claim: string): number => Number(claim.split("-")[0]);

const codeOf = (cause: unknown): string | undefined => (cause as NodeJS.ErrnoException).code;

function layClaim(folder: string, name: string, where: string): void {
  for (let attempt = 0; ; attempt++) {
    try {
      mkdirSync(folder, { recursive: true });
      // a link would carry the claim out of the folder that it is for
      if (!lstatSync(folder).isDirectory()) throw notOurs(folder, where);
      closeSync(openSync(join(folder, name), "wx"));
      return;
    } catch (cause) {
      if (codeOf(cause) === "EEXIST" || codeOf(cause) === "ENOTDIR") throw notOurs(folder, where);
      // one that ended took the folder away between the two
      if (codeOf(cause) !== "ENOENT" || attempt > 100) throw cause;
    }
  }
}

const notOurs = (folder: string, where: string) =>
  unexpected("locked", where, `a folder of claims at ${folder}`, "a file or a link", {
    fix: "Delete it when no process is at work here",
  });

const claim = /^\d+-(\d+|unknown)-[0-9a-f]{12}$/;

/** Removes what dead processes left; names of the others, in no order. */
function livingClaims(folder: string, own: string): string[] {
  return readdirSync(folder).filter((name) => {
    if (name === own || !claim.test(name)) return false;
    const [pid, started] = name.split("-");
    if (isAlive({ pid: Number(pid), started: started === "unknown" ? null : (started ?? null) })) return true;
    rmSync(join(folder, name), { force: true });
    return false;
  });
}

function withdraw(folder: string, name: string): void {
  rmSync(join(folder, name), { force: true });
  try {
    rmdirSync(folder);
  } catch {
    // another one's claim is in it, or it is gone
  }
}
