import { existsSync, rmSync } from "node:fs";
import { unexpected } from "../../core/error.ts";
import { lockFolder } from "../../core/folder_lock.ts";
import {
  findStored,
  folderOf,
  pullSuffix,
  removeStored,
  type StoredModel,
} from "../../models/store/manifest.ts";
import { type AnyCommand, command } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes } from "../../terminal/table.ts";
import { registeredServers } from "../running.ts";
import { storedFacts, storedModel } from "./stored_facts.ts";

export const rm: AnyCommand = command({
  meta: {
    name: "rm",
    description: "Removes a model from the store. One that a running server has is refused.",
  },
  args: {
    model: { type: "positional", required: true, description: "Name of a pulled model" },
    force: { type: "boolean", description: "Remove it although a running server has it" },
    json: { type: "boolean", description: "Print what was removed as JSON" },
  },
  examples: ["psionic rm ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", "psionic rm gemma --force"],
  async run({ args }) {
    if (await removedUnfinished(args.model, args.json ?? false)) return;
    const stored = storedModel(args.model);
    const facts = storedFacts(stored);
    if (!args.force) refuseServed(stored);
    {
      using _lock = lockFolder(`${stored.folder}.lock`, facts.name);
      removeStored(stored);
    }
    if (args.json) return printJson({ removed: facts.name, bytes: facts.bytes });
    await print(`Removed ${facts.name}, ${readableBytes(facts.bytes)}`);
  },
});

/** What an interrupted pull has left of a model that is not there. */
async function removedUnfinished(name: string, json: boolean): Promise<boolean> {
  if (findStored(name) || !/^[\w.-]+(\/[\w.-]+)?(:[\w.-]+)?$/.test(name) || name.includes("..")) return false;
  const folder = folderOf(name);
  if (!existsSync(folder + pullSuffix)) return false;
  {
    using _lock = lockFolder(`${folder}.lock`, name);
    rmSync(folder + pullSuffix, { recursive: true });
  }
  await (json ? printJson({ removed: name, unfinished: true }) : print(`Removed what there was of ${name}`));
  return true;
}

function refuseServed({ manifest, folder, path }: StoredModel): void {
  const server = registeredServers().find(
    ({ alive, models }) => alive && models.some((one) => one === path || one.startsWith(`${folder}/`)),
  );
  if (!server) return;
  throw unexpected(
    "locked",
    manifest.name,
    "a model no server has",
    `process ${server.pid} at ${server.url}`,
    {
      fix: "Stop the server, or give --force: it keeps the files it has open, and cannot load the model again",
    },
  );
}
