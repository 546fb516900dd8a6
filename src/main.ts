#!/usr/bin/env bun
import { commands, description } from "./cli/commands.ts";
import { version } from "./core/version.ts";
import { ExitError, UsageError } from "./terminal/command.ts";
import { visible } from "./terminal/visible.ts";

/** Exit code of a process that Ctrl-C ended. */
const interrupted = 130;

async function main(words: readonly string[]): Promise<number> {
  const [name, ...rest] = words;
  if (name === "--version" || name === "-V" || name === "version") {
    process.stdout.write(`psionic ${version}\n`);
    return 0;
  }
  const named = Object.hasOwn(commands, name ?? "") ? commands[name!] : undefined;
  const action = named?.actions?.[rest[0] ?? ""];
  if (action?.own) return (await action.own())(rest.slice(1));
  if (action?.load) return (await import("./cli/action.ts")).ownAction(await action.load())(rest.slice(1));
  const onlyHelp = rest.length === 1 && (rest[0] === "--help" || rest[0] === "-h");
  if (named?.own && !onlyHelp) return (await named.own())(rest);
  const { checkedArguments, suggestion } = await import("./terminal/arguments.ts");
  const { commandHelp, programHelp } = await import("./terminal/help.ts");
  const entries = Object.entries(commands);
  const help = () =>
    programHelp(
      version,
      description,
      entries.map(([n, c]) => [n, c.description] as const),
    );
  if (name === undefined) throw new UsageError(`expected a command: ${Object.keys(commands).join(", ")}`);
  const wantsHelp = (list: readonly string[]) => list.some((w) => w === "--help" || w === "-h");
  const { print } = await import("./terminal/output.ts");
  if (name === "--help" || name === "-h" || (name === "help" && rest.length === 0)) {
    await print(help());
    return 0;
  }
  const asked = name === "help" ? rest[0]! : name;
  const entry = commands[asked];
  if (!entry) throw new UsageError(`unknown command ${asked}${suggestion(asked, Object.keys(commands))}`);
  const command = await entry.load();
  const options = rest.includes("--") ? rest.slice(0, rest.indexOf("--")) : rest;
  if (name === "help" || wantsHelp(options)) {
    const actions = Object.entries(entry.actions ?? {}).map(
      ([word, { description: text }]) => `\nAlso: psionic ${asked} ${word}  ${text} (--help)\n`,
    );
    await print(commandHelp(command) + actions.join(""));
    return 0;
  }
  const rawArgs = checkedArguments(rest, command.args);
  const { runCommand } = await import("citty");
  await runCommand(command, { rawArgs });
  return 0;
}

/** One line for people; the whole error where it was asked for. */
function report(error: unknown): number {
  const code = (error as { code?: unknown } | undefined)?.code;
  if (code === "EPIPE") return 0;
  if (process.env.PSIONIC_DEBUG) console.error(error);
  const text = error instanceof Error ? error.message : String(error);
  process.stderr.write(`psionic: ${visible(text)}\n`);
  if (error instanceof UsageError) {
    process.stderr.write("Run psionic --help, or psionic COMMAND --help.\n");
    return 2;
  }
  if (error instanceof ExitError) return error.exitCode;
  return code === "cancelled" ? interrupted : 1;
}

// A reader that has seen enough (`| head -1`) is no failure; a full disk is.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  process.exit(error.code === "EPIPE" ? 0 : report(error));
});

let exitCode: number;
try {
  exitCode = await main(process.argv.slice(2));
} catch (error) {
  exitCode = report(error);
}
process.exit(exitCode);
