import { existsSync, openSync, readSync } from "node:fs";

const path = "/proc/self/status";
// held open: a process that has no file left to open is watched all the more
const status = existsSync(path) ? openSync(path, "r") : undefined;
const text = Buffer.alloc(8192);

/** Resident memory of this process, bytes. */
export function residentBytes(): number {
  if (status === undefined) return process.memoryUsage.rss();
  const length = readSync(status, text, 0, text.length, 0);
  const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(text.toString("latin1", 0, length))?.[1];
  return kilobytes === undefined ? process.memoryUsage.rss() : Number(kilobytes) * 1024;
}
