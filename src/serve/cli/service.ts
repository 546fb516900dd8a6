import { existsSync, realpathSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "citty";
import { unexpected } from "../../core/error.ts";
import { psionicHome } from "../../models/store/home.ts";
import { type AnyCommand, command, list, UsageError } from "../../terminal/command.ts";
import { messages, print } from "../../terminal/output.ts";
import { readSettingsFile, settle } from "../../terminal/settings.ts";
import {
  activation,
  checkRemovable,
  deactivation,
  removeService,
  type ServiceManager,
  servicePath,
  writeService,
} from "../service/place.ts";
import { checkName, launchdPlist, type ServicePlan, systemdUnit } from "../service/unit.ts";
import { serveArgs } from "./serve_args.ts";
import { checkServe } from "./serve_check.ts";
import { flagsOnly, settingsPaths, settingsPrefix } from "./serve_settings.ts";

export const service: AnyCommand = command({
  meta: {
    name: "service",
    description:
      "Makes a service of psionic serve, for systemd or launchd: install writes its file, uninstall removes it, print " +
      "shows it. What is served stands in a settings file (psionic serve --config).",
  },
  args: {
    action: { type: "positional", required: true, description: "install, uninstall or print" },
    manager: {
      type: "enum",
      options: list("systemd", "launchd"),
      description: "Who runs it; absent: launchd on macOS, systemd elsewhere",
    },
    system: { type: "boolean", description: "For the machine, not for this user" },
    name: { type: "string", default: "psionic", valueHint: "NAME", description: "Name of the service" },
    config: { type: "string", valueHint: "PATH", description: "Settings file of the server" },
    program: { type: "string", valueHint: "PATH", description: "The executable; absent: this one" },
    folder: {
      type: "string",
      valueHint: "PATH",
      description: "Folder of the file; absent: the manager's own",
    },
    now: { type: "boolean", description: "Start it (install) or stop it (uninstall) at once" },
    force: { type: "boolean", description: "Overwrite or remove a file that psionic did not make" },
  },
  examples: [
    "psionic service print",
    "psionic service install --config serve.toml --now",
    "psionic service install --system --config /etc/psionic/serve.toml",
    "psionic service uninstall --now",
  ],
  async run({ args }) {
    const { action, name, force = false, now = false, system = false } = args;
    if (!["install", "uninstall", "print"].includes(action)) {
      throw new UsageError(`expected install, uninstall or print, got ${action}`);
    }
    checkName(name);
    const manager = (args.manager ??
      (process.platform === "darwin" ? "launchd" : "systemd")) as ServiceManager;
    const folder = args.folder === undefined ? undefined : resolve(args.folder);
    const path = servicePath(manager, system, name, folder);
    if (action === "uninstall") return uninstall({ manager, system, name, path, force, now });
    const plan = await servicePlan(name, system, args.program, args.config);
    const text = manager === "systemd" ? systemdUnit(plan) : launchdPlist(plan);
    if (action === "print") return print(text);
    const changed = writeService(path, text, force);
    await print(`${path}: ${changed ? "written" : "as it was"}`);
    await tell(activation(manager, system, name, path), now);
  },
});

type Uninstalling = {
  readonly manager: ServiceManager;
  readonly system: boolean;
  readonly name: string;
  readonly path: string;
  readonly force: boolean;
  readonly now: boolean;
};

async function uninstall({ manager, system, name, path, force, now }: Uninstalling): Promise<void> {
  checkRemovable(path, force);
  await tell(deactivation(manager, system, name, path), now);
  removeService(path, force);
  await print(`${path}: removed`);
}

/** Runs what the manager must be told, or says it. */
async function tell(commands: readonly string[][], now: boolean): Promise<void> {
  for (const words of commands) {
    if (!now) {
      messages.info(`To be run: ${words.join(" ")}`);
      continue;
    }
    const program = Bun.which(words[0]!);
    if (!program)
      throw unexpected("file_not_found", "service", `the program ${words[0]}`, "none in the path");
    const child = Bun.spawn([program, ...words.slice(1)], { stdout: "inherit", stderr: "inherit" });
    const code = await child.exited;
    if (code !== 0)
      throw unexpected("io_failed", "service", `${words.join(" ")} to succeed`, `exit code ${code}`);
  }
}

async function servicePlan(
  name: string,
  system: boolean,
  program: string | undefined,
  config: string | undefined,
): Promise<ServicePlan> {
  const settings = config === undefined ? [] : ["--config", await checkedConfig(config)];
  return {
    ...{ name, system },
    command: [...programWords(program), "serve", ...settings],
    environment: system
      ? { PSIONIC_HOME: `/var/lib/${name}`, PSIONIC_CACHE_DIR: `/var/cache/${name}` }
      : { PSIONIC_HOME: psionicHome() },
    logPath: system ? `/var/log/${name}.log` : join(homedir(), "Library", "Logs", `${name}.log`),
  };
}

/** This executable, or Bun with the program's source. */
function programWords(asked: string | undefined): string[] {
  if (asked !== undefined) {
    if (!existsSync(asked)) throw unexpected("file_not_found", "--program", "an executable", asked);
    return [resolve(asked)];
  }
  const self = realpathSync(process.execPath);
  return Bun.isStandaloneExecutable ? [self] : [self, Bun.main];
}

/** The file must be one that serve would take: a service that cannot start is found here. */
async function checkedConfig(path: string): Promise<string> {
  const file = readSettingsFile(resolve(path));
  const { settings, rawArgs } = settle({
    ...{ args: serveArgs, given: [], environment: {}, prefix: settingsPrefix, file },
    ...{ flagsOnly, secrets: ["api-key"], paths: settingsPaths },
  });
  const args = parseArgs<typeof serveArgs>(rawArgs, serveArgs);
  await checkServe(args, settings);
  return file.path;
}
