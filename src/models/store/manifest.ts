import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join, relative, sep } from "node:path";
import * as v from "valibot";
import { AsideFile } from "../../core/aside.ts";
import { unexpected } from "../../core/error.ts";
import { psionicHome } from "./home.ts";

const fileSchema = v.object({
  path: v.string(),
  bytes: v.pipe(v.number(), v.integer(), v.minValue(0)),
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  /** Whether the host had named the digest before. */
  verified: v.boolean(),
  /** What the host calls this content. */
  etag: v.nullable(v.string()),
});

const manifestSchema = v.object({
  version: v.literal(1),
  name: v.string(),
  source: v.string(),
  /** Commit of a hub's repository. */
  revision: v.nullable(v.string()),
  /** What to load, below the model's folder; empty for the folder itself. */
  main: v.string(),
  files: v.array(fileSchema),
  pulledAtMs: v.number(),
});

/** What a pulled model is made of; stands in its folder as `manifest.json`. */
export type Manifest = v.InferOutput<typeof manifestSchema>;
export type ManifestFile = v.InferOutput<typeof fileSchema>;

/** A pulled model with its place. */
export type StoredModel = { readonly manifest: Manifest; readonly folder: string; readonly path: string };

const manifestName = "manifest.json";

/** The folder below which models lie: `hub/ORG/REPO/CHOICE`, `hub/ORG/REPO/REPO` of a checkpoint, or `url/NAME`. */
export function modelsFolder(): string {
  return join(psionicHome(), "models");
}

/** Folder of a model: names are made of parts that are safe as folders. */
export function folderOf(name: string): string {
  const [repository, choice] = split(name);
  if (!repository.includes("/")) return join(modelsFolder(), "url", repository);
  const parts = repository.split("/");
  // a checkpoint is called by its folder
  return join(modelsFolder(), "hub", ...parts, choice ?? parts.at(-1)!);
}

function split(name: string): [string, string | undefined] {
  const at = name.indexOf(":");
  return at < 0 ? [name, undefined] : [name.slice(0, at), name.slice(at + 1)];
}

export function writeManifest(folder: string, manifest: Manifest): void {
  using file = new AsideFile(join(folder, manifestName), "model store");
  file.write(new TextEncoder().encode(`${JSON.stringify(manifest, undefined, 2)}\n`));
  file.keep();
}

/** The model in a folder; undefined where there is none or its manifest is not one of ours. */
export function readStored(folder: string): StoredModel | undefined {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(join(folder, manifestName), "utf8"));
  } catch {
    return undefined;
  }
  const read = v.safeParse(manifestSchema, value);
  if (!read.success) return undefined;
  const manifest = read.output;
  return { manifest, folder, path: manifest.main === "" ? folder : join(folder, manifest.main) };
}

/** Every pulled model, by name. */
export function storedModels(): readonly StoredModel[] {
  const root = modelsFolder();
  if (!existsSync(root)) return [];
  const found: StoredModel[] = [];
  const walk = (folder: string, depth: number): void => {
    const stored = readStored(folder);
    if (stored) found.push(stored);
    else if (depth > 0) {
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        if (entry.isDirectory() && !entry.name.endsWith(pullSuffix))
          walk(join(folder, entry.name), depth - 1);
      }
    }
  };
  walk(root, 4);
  return found.sort((a, b) => (a.manifest.name < b.manifest.name ? -1 : 1));
}

/** Ends the name of the folder that a pull fills. */
export const pullSuffix = ".pull";

/**
 * The pulled model of a name: whole (`org/repo:Q4_K_M`), without the choice where one was pulled, or its file's name.
 * Undefined when there is none; throws `invalid_argument` when the name fits several.
 */
export function findStored(name: string): StoredModel | undefined {
  const bare = name.replace(/^(https?:\/\/)?(hf\.co|(www\.)?huggingface\.co)\//, "");
  const all = storedModels();
  const kinds: readonly ((manifest: Manifest) => boolean)[] = [
    (manifest) => manifest.name === bare,
    (manifest) => manifest.name.toLowerCase() === bare.toLowerCase(),
    ({ name: whole, main }) =>
      `${split(whole)[0]}:${main}` === bare || `${split(whole)[0]}:${main}` === `${bare}.gguf`,
    (manifest) => split(manifest.name)[0] === bare,
    ({ main }) => main !== "" && (main === bare || main.replace(/\.gguf$/, "") === bare),
  ];
  for (const fits of kinds) {
    const found = all.filter(({ manifest }) => fits(manifest));
    if (found.length === 1) return found[0];
    if (found.length > 1) {
      const names = found.map(({ manifest }) => manifest.name).join(", ");
      throw unexpected(
        "invalid_argument",
        "model",
        "a name of one pulled model",
        `${name}, which is ${names}`,
      );
    }
  }
  return undefined;
}

/** Takes a model off the disk, with the folders above it that are empty then. */
export function removeStored({ folder }: StoredModel): void {
  // without its manifest a half-removed folder is no model any more
  rmSync(join(folder, manifestName), { force: true });
  rmSync(folder, { recursive: true, force: true });
  const parts = relative(modelsFolder(), folder).split(sep);
  for (parts.pop(); parts.length > 1; parts.pop()) {
    const above = join(modelsFolder(), ...parts);
    if (readdirSync(above).length > 0) break;
    rmSync(above, { recursive: true });
  }
}
