import { readFileSync } from "node:fs";
import { freemem } from "node:os";

/** Bytes this process may still take: what the system can free up, within its control group's limit. */
export function availableMemory(): number {
  return Math.min(systemAvailable(), groupAvailable());
}

function systemAvailable(): number {
  const line = /^MemAvailable:\s+(\d+) kB/m.exec(textOf("/proc/meminfo"));
  if (line) return Number(line[1]) * 1024;
  return (process.platform === "darwin" ? availableOnMac(vmStat()) : undefined) ?? freemem();
}

/**
 * What macOS can give, from the text of `vm_stat`: pages free, read ahead, or not used lately. Its free pages alone are
 * few on any Mac that has run for a while. Undefined where the text is something else.
 */
export function availableOnMac(text: string): number | undefined {
  const page = /page size of (\d+) bytes/.exec(text)?.[1];
  const counts = ["free", "speculative", "inactive"].map(
    (kind) => new RegExp(`^Pages ${kind}:\\s+(\\d+)`, "m").exec(text)?.[1],
  );
  if (page === undefined || counts.includes(undefined)) return undefined;
  return Number(page) * counts.reduce((sum, count) => sum + Number(count), 0);
}

function vmStat(): string {
  try {
    return Bun.spawnSync(["/usr/bin/vm_stat"], { stderr: "ignore" }).stdout.toString();
  } catch {
    return "";
  }
}

/** Control group version 2; file cache counts as free, since the kernel gives it up first. */
function groupAvailable(): number {
  const limit = Number.parseInt(textOf("/sys/fs/cgroup/memory.max"), 10);
  const used = Number.parseInt(textOf("/sys/fs/cgroup/memory.current"), 10);
  if (!Number.isFinite(limit) || !Number.isFinite(used)) return Infinity;
  const files = /^inactive_file (\d+)/m.exec(textOf("/sys/fs/cgroup/memory.stat"));
  return Math.max(0, limit - used + Number(files?.[1] ?? 0));
}

/** Not every system has these files; an absent one has no text. */
function textOf(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
