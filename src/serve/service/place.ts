import { existsSync, lstatSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { AsideFile } from "../../core/aside.ts";
import { unexpected } from "../../core/error.ts";
import { mark } from "./unit.ts";

export type ServiceManager = "systemd" | "launchd";

/** Where the file of a service lies. */
export function servicePath(manager: ServiceManager, system: boolean, name: string, folder?: string): string {
  return join(
    folder ?? usualFolder(manager, system),
    manager === "systemd" ? `${name}.service` : `${name}.plist`,
  );
}

function usualFolder(manager: ServiceManager, system: boolean): string {
  if (manager === "launchd") {
    return system ? "/Library/LaunchDaemons" : join(homedir(), "Library", "LaunchAgents");
  }
  if (system) return "/etc/systemd/system";
  return join(process.env.XDG_CONFIG_HOME || join(homedir(), ".config"), "systemd", "user");
}

/** What the service manager is told afterwards, a command each. */
export function activation(manager: ServiceManager, system: boolean, name: string, path: string): string[][] {
  if (manager === "launchd") return [["launchctl", "bootstrap", domain(system), path]];
  const systemctl = system ? ["systemctl"] : ["systemctl", "--user"];
  return [
    [...systemctl, "daemon-reload"],
    [...systemctl, "enable", "--now", `${name}.service`],
  ];
}

/** What it is told before the file goes. */
export function deactivation(
  manager: ServiceManager,
  system: boolean,
  name: string,
  path: string,
): string[][] {
  if (manager === "launchd") return [["launchctl", "bootout", domain(system), path]];
  return [[...(system ? ["systemctl"] : ["systemctl", "--user"]), "disable", "--now", `${name}.service`]];
}

function domain(system: boolean): string {
  return system ? "system" : `gui/${process.getuid?.() ?? 0}`;
}

/** Writes the file; gives whether it was other before. Throws where a file is there that is not ours, unless `force`. */
export function writeService(path: string, text: string, force: boolean): boolean {
  const before = contentOf(path);
  if (before === text) return false;
  if (before !== undefined && !before.includes(mark) && !force) throw foreign(path, "overwrites");
  mkdirSync(dirname(path), { recursive: true });
  using file = new AsideFile(path, "service");
  file.write(new TextEncoder().encode(text));
  file.keep();
  return true;
}

/** Takes the file away; throws where there is none or it is not ours, unless `force`. */
export function removeService(path: string, force: boolean): void {
  checkRemovable(path, force);
  rmSync(path);
}

/** Checks what `removeService` checks, and removes nothing. */
export function checkRemovable(path: string, force: boolean): void {
  const before = contentOf(path);
  if (before === undefined) throw unexpected("file_not_found", "service", "an installed service", path);
  if (!before.includes(mark) && !force) throw foreign(path, "removes");
}

function contentOf(path: string): string | undefined {
  if (!existsSync(path)) {
    // a link to nowhere, as systemd masks units with, is somebody's decision
    if (lstatSync(path, { throwIfNoEntry: false })) return "";
    return undefined;
  }
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw unexpected("io_failed", "service", "a file that can be read", path, { cause });
  }
}

function foreign(path: string, does: string): Error {
  return unexpected("invalid_argument", "service", "a file of psionic's own", `another one at ${path}`, {
    fix: `--force ${does} it`,
  });
}
