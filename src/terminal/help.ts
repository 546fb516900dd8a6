import type { ArgDef, ArgsDef } from "citty";
import { aliasesOf } from "./arguments.ts";
import type { AnyCommand } from "./command.ts";
import { table } from "./table.ts";

/** Help of one command, from the value that also reads its arguments. */
export function commandHelp({ meta, args, examples }: AnyCommand): string {
  const places = Object.entries(args).filter(([, def]) => def.type === "positional");
  const options = Object.entries(args).filter(([, def]) => def.type !== "positional");
  const usage = places.map(([name, def]) =>
    def.required === false ? `[${name.toUpperCase()}]` : name.toUpperCase(),
  );
  const sections = [meta.description, `Usage: psionic ${[meta.name, "[options]", ...usage].join(" ")}`];
  if (places.length > 0) {
    sections.push(
      `Arguments:\n${table(places.map(([name, def]) => [`  ${name.toUpperCase()}`, described(def)]))}`,
    );
  }
  const rows = options.map(([name, def]) => [`  ${spelling(name, def)}`, described(def)]);
  sections.push(`Options:\n${table([...rows, ["  -h, --help", "Show this text"]])}`);
  sections.push(`Examples:\n${examples.map((e) => `  ${e}`).join("\n")}`);
  return `${sections.join("\n\n")}\n`;
}

/** Help of the program. */
export function programHelp(
  version: string,
  description: string,
  commands: readonly (readonly [string, string])[],
): string {
  return [
    `psionic ${version}: ${description}`,
    "Usage: psionic COMMAND [options]",
    `Commands:\n${table(commands.map(([name, text]) => [`  ${name}`, text]))}`,
    `Options:\n${table([
      ["  -h, --help", "Show this text, or that of a command"],
      ["  -V, --version", "Print the version"],
    ])}`,
    "Examples:\n  psionic serve\n  psionic run -p 'Why does HTTPS matter?'\n  psionic inspect -m model.gguf",
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. PSIONIC_DEBUG=1 prints stack traces.",
  ]
    .join("\n\n")
    .concat("\n");
}

function spelling(name: string, def: ArgDef): string {
  const names = [...aliasesOf(def).map(dashed), `--${name}`].join(", ");
  return def.type === "boolean" ? names : `${names} ${hint(name, def)}`;
}

/** Short names have one dash, as llama.cpp writes `-ngl`. */
function dashed(alias: string): string {
  return alias.length > 3 ? `--${alias}` : `-${alias}`;
}

function hint(name: string, def: ArgDef): string {
  if (def.type === "enum" && def.options) return def.options.join("|");
  return def.valueHint ?? name.toUpperCase();
}

function described(def: ArgDef): string {
  const text = def.description ?? "";
  return def.default === undefined || def.type === "boolean" ? text : `${text} [default: ${def.default}]`;
}

/** Names of every option of a command, with one dash for single letters and llama.cpp's names. */
export function optionSpellings(args: ArgsDef): string[] {
  return Object.entries(args).flatMap(([name, def]) =>
    def.type === "positional" ? [] : [`--${name}`, ...aliasesOf(def).map(dashed)],
  );
}
