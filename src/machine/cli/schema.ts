import { PsionicError } from "../../core/error.ts";
import { command, UsageError } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { documents, exportedSchema } from "../schemas.ts";

export const schema = command({
  meta: {
    name: "schema",
    description:
      "Lists the typed documents of the machine runtime, or prints one as JSON Schema (draft 2020-12).",
  },
  args: {
    action: { type: "positional", required: true, description: "list or show", valueHint: "ACTION" },
    id: { type: "positional", required: false, description: "show: id of a schema", valueHint: "ID" },
    json: { type: "boolean", description: "list: one JSON document with all schemas by id" },
  },
  examples: [
    "psionic schema list",
    "psionic schema show psionic.train.invocation_manifest.v1",
    "psionic schema list --json",
  ],
  async run({ args }) {
    const { action, id, json } = args;
    if (action === "list") {
      if (id !== undefined) throw new UsageError(`list takes no id, got ${id}`);
      if (json !== true) return print([...documents.keys()].join("\n"));
      return printJson(Object.fromEntries([...documents].map(([key, doc]) => [key, exportedSchema(doc)])));
    }
    if (action !== "show") throw new UsageError(`expected list or show, got ${action}`);
    if (id === undefined) throw new UsageError("show takes the id of a schema; psionic schema list has them");
    const doc = documents.get(id);
    if (!doc) {
      throw new PsionicError(
        "invalid_argument",
        `[schema] expected an id that psionic schema list has, got ${id}`,
      );
    }
    await print(JSON.stringify(exportedSchema(doc), null, 2));
  },
});
