import { modelsFolder, storedModels } from "../../models/store/manifest.ts";
import { type AnyCommand, command } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes, table } from "../../terminal/table.ts";
import { storedFacts } from "./stored_facts.ts";

export const list: AnyCommand = command({
  meta: {
    name: "list",
    description: "Lists the models in the store. Any command takes their names after -m.",
  },
  args: {
    names: { type: "boolean", description: "Print the names alone, one a line" },
    json: { type: "boolean", description: "Print the list as JSON" },
  },
  examples: ["psionic list", "psionic list --json"],
  async run({ args }) {
    const models = storedModels().map(storedFacts);
    if (args.names) return models.length > 0 ? print(models.map(({ name }) => name).join("\n")) : undefined;
    if (args.json) return printJson({ folder: modelsFolder(), models });
    if (models.length === 0) return print(`Nothing in ${modelsFolder()}; psionic pull brings models there.`);
    const rows = models.map(({ name, bytes, files, pulled_at }) => [
      ...[name, readableBytes(bytes), String(files.length), pulled_at.slice(0, 16).replace("T", " ")],
    ]);
    await print(table([["NAME", "SIZE", "FILES", "PULLED"], ...rows], [1, 2]));
  },
});
