import type { ArgsDef } from "citty";
import { isRepeatable, suggestion } from "../../terminal/arguments.ts";
import { command, UsageError } from "../../terminal/command.ts";
import { valuesOf } from "../../terminal/settings.ts";
import { type DataAction, type Given, withExitCode } from "./action.ts";
import { dedup } from "./dedup.ts";
import { manifest } from "./manifest.ts";
import { packAction } from "./pack.ts";
import { show } from "./show.ts";
import { split } from "./split.ts";
import { trainTokenizer } from "./train_tokenizer.ts";
import { verify } from "./verify.ts";

const actions: readonly DataAction[] = [manifest, split, dedup, trainTokenizer, packAction, verify, show];
const names = actions.map(({ name }) => name);

/** One list of options for help and completions; each says which parts take it, and what it is to each. */
function mergedArgs(): ArgsDef {
  const merged: Record<string, ArgsDef[string]> = {};
  const meanings: Record<string, Map<string, string[]>> = {};
  for (const action of actions) {
    for (const [name, def] of Object.entries(action.args)) {
      if (!merged[name] || isRepeatable(def)) merged[name] = def;
      meanings[name] ??= new Map();
      const text = def.description ?? "";
      meanings[name].set(text, [...(meanings[name].get(text) ?? []), action.name]);
    }
  }
  for (const [name, def] of Object.entries(merged)) {
    const all = [...meanings[name]!];
    const everyone = all.length === 1 && all[0]![1].length === actions.length;
    const description = everyone
      ? all[0]![0]
      : all.map(([text, by]) => `${by.join(", ")}: ${text}`).join("; ");
    merged[name] = { ...def, description };
  }
  return merged;
}

export const data = command({
  meta: {
    name: "data",
    description: `Prepares text for training. ${actions.map((a) => `${a.name}: ${a.description}`).join(" ")}`,
  },
  args: {
    action: { type: "positional", required: true, description: names.join(", "), valueHint: "ACTION" },
    place: {
      type: "positional",
      required: false,
      description: "verify, show: what to look at",
      valueHint: "PATH",
    },
    ...mergedArgs(),
  },
  examples: actions.flatMap((action) => action.examples),
  async run({ args, rawArgs }) {
    const name = String(args.action);
    const action = actions.find((a) => a.name === name);
    if (!action) throw new UsageError(`expected ${names.join(", ")}, got ${name}${suggestion(name, names)}`);
    try {
      await action.run(givenTo(action, rawArgs, typeof args.place === "string" ? args.place : undefined));
    } catch (error) {
      throw withExitCode(error);
    }
  },
});

function givenTo(action: DataAction, rawArgs: readonly string[], place: string | undefined): Given {
  const end = rawArgs.indexOf("--");
  for (const word of end < 0 ? rawArgs : rawArgs.slice(0, end)) {
    const name = /^--([^=]+)/.exec(word)?.[1] ?? word;
    const def = Object.hasOwn(action.args, name) ? action.args[name] : undefined;
    if (!def) throw new UsageError(`data ${action.name} takes no --${name}`);
    // an option may be repeatable for another part
    if (!isRepeatable(def) && valuesOf(rawArgs, name).length > 1)
      throw new UsageError(`--${name} is given twice`);
  }
  const positional = Object.hasOwn(action.args, "path");
  if (place !== undefined && !positional)
    throw new UsageError(`unexpected argument ${JSON.stringify(place)}`);
  const text = (name: string): string | undefined =>
    name === "path"
      ? (place ?? valuesOf(rawArgs, name)[0])
      : (valuesOf(rawArgs, name)[0] ?? defaultOf(action, name));
  return {
    text,
    required: (name) => {
      const found = text(name);
      if (found === undefined || found === "")
        throw new UsageError(`missing ${name === "path" ? "PATH" : `--${name}`}`);
      return found;
    },
    all: (name) => valuesOf(rawArgs, name),
    flag: (name) => valuesOf(rawArgs, name)[0] === "true",
  };
}

function defaultOf(action: DataAction, name: string): string | undefined {
  const def = action.args[name];
  return def && "default" in def && typeof def.default === "string" ? def.default : undefined;
}
