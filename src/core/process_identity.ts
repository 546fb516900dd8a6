import { readFileSync } from "node:fs";

/** A process as others can find it again: ids are given anew, so when it started counts too. */
export type ProcessIdentity = {
  readonly pid: number;
  /** Clock ticks since the machine started, as text; null where the system does not tell. */
  readonly started: string | null;
};

export function ownIdentity(): ProcessIdentity {
  return { pid: process.pid, started: startOf(process.pid) };
}

/** Whether the process is still there. */
export function isAlive({ pid, started }: ProcessIdentity): boolean {
  if (!Number.isSafeInteger(pid) || pid < 1) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    // another user's process is there too
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const now = startOf(pid);
  return started === null || now === null || started === now;
}

/** Field 22 of /proc/PID/stat; the name before it may contain blanks and brackets. A dead one not yet waited for is none. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? "ended" : (fields[19] ?? null);
  } catch {
    return null;
  }
}
