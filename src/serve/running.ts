import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { AsideFile } from "../core/aside.ts";
import { isAlive, ownIdentity, type ProcessIdentity } from "../core/process_identity.ts";
import { psionicHome } from "../models/store/home.ts";

/** A server as it stands in the register. */
export type RunningRecord = ProcessIdentity & {
  readonly url: string;
  readonly version: string;
  readonly startedAtMs: number;
  /** Paths of the models it can load. */
  readonly models: readonly string[];
  /** Callers need a key. */
  readonly keyed: boolean;
};

export type FoundServer = RunningRecord & { readonly file: string; readonly alive: boolean };

/** The folder with a file for each running server, named by process id and port. */
export function registerFolder(): string {
  return join(psionicHome(), "run");
}

/**
 * Writes this server into the register; the result takes it out again. A server that cannot be written there runs all
 * the same: `onFailure` hears why.
 */
export function register(
  record: Omit<RunningRecord, keyof ProcessIdentity | "startedAtMs">,
  onFailure: (error: unknown) => void,
): () => void {
  const path = join(registerFolder(), `${process.pid}-${new URL(record.url).port}.json`);
  try {
    mkdirSync(registerFolder(), { recursive: true, mode: 0o700 });
    using file = new AsideFile(path, "register of servers");
    const whole: RunningRecord = { ...ownIdentity(), ...record, startedAtMs: Date.now() };
    file.write(new TextEncoder().encode(`${JSON.stringify(whole)}\n`));
    file.keep();
  } catch (error) {
    onFailure(error);
  }
  return () => rmSync(path, { force: true });
}

/** Every server in the register, those too that ended without taking themselves out. */
export function registeredServers(): readonly FoundServer[] {
  const folder = registerFolder();
  let names: readonly string[];
  try {
    names = readdirSync(folder);
  } catch {
    // nobody has ever served from this home
    return [];
  }
  return names
    .filter((name) => /^\d+-\d+\.json$/.test(name))
    .sort()
    .flatMap((name) => {
      const file = join(folder, name);
      const record = readRecord(file);
      return record ? [{ ...record, file, alive: isAlive(record) }] : [];
    });
}

function readRecord(path: string): RunningRecord | undefined {
  try {
    const value = JSON.parse(readFileSync(path, "utf8")) as Partial<RunningRecord>;
    const { pid, url, models } = value;
    const whole = typeof pid === "number" && typeof url === "string" && Array.isArray(models);
    return whole && URL.canParse(url) ? (value as RunningRecord) : undefined;
  } catch {
    // half-written by another hand, or just taken out
    return undefined;
  }
}

/** Takes out servers that are gone; gives how many. */
export function removeStale(servers: readonly FoundServer[]): number {
  const stale = servers.filter(({ alive }) => !alive);
  for (const { file } of stale) rmSync(file, { force: true });
  return stale.length;
}
