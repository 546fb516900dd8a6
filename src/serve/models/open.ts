import { readdirSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { openDevice } from "../../backends/index.ts";
import { PsionicError, unexpected } from "../../core/error.ts";
import { openAdapter } from "../../models/adapter.ts";
import { ContentDigest } from "../../models/files/content_digest.ts";
import { indexName } from "../../models/files/shards.ts";
import { type ModelFiles, openModelFiles } from "../../models/files/source.ts";
import { splitName } from "../../models/files/split.ts";
import { loadModel, supportedArchitectures } from "../../models/registry.ts";
import { pullSuffix, readStored } from "../../models/store/manifest.ts";
import { checkBase } from "../engine/adapter.ts";
import type { OnProgress, OnWarning } from "../engine/index.ts";
import { quantization } from "../engine/quantization.ts";
import { backendTruths } from "../engine/truth.ts";
import type { ServedModel } from "../http/options.ts";
import type { BackendTruth, EngineOptions } from "../protocol.ts";
import { openServedModel } from "../served_model.ts";
import { takeLibrary } from "./library_copies.ts";
import { withAdapter } from "./names.ts";
import type { LoadRoom, ModelHeader, ModelSource } from "./source.ts";

/** Engine options that all models of a server share. */
export type SharedOptions = Omit<
  EngineOptions,
  "modelPath" | "memoryBytes" | "sharesMemory" | "wholeContext" | "adapter"
>;

/** Whom loading and running engines tell. */
type Told = { readonly onProgress?: OnProgress; readonly onWarning?: OnWarning };

type AdapterChoice = NonNullable<EngineOptions["adapter"]>;

type SourceOptions = Told &
  Pick<EngineOptions, "adapter"> & {
    readonly aliases?: readonly string[];
  };

function named(aliases: readonly string[]): readonly string[] {
  return aliases.filter((alias) => alias !== "");
}

/** The only model of a server: nothing is read before it is loaded, which tells what it is called. */
export function onlySource(
  path: string,
  options: SharedOptions,
  { aliases = [], ...told }: SourceOptions = {},
): ModelSource {
  return {
    name: "",
    aliases: named(aliases),
    open: () => openServedModel({ ...options, modelPath: path }, told.onProgress, told.onWarning),
  };
}

/**
 * A model of files: headers are read and checked now, everything else when it is loaded. With an adapter it is another model
 * than without: `base:adapter`, also by the further names, and with the base's ending left out.
 */
export function fileSource(
  path: string,
  options: SharedOptions,
  { aliases = [], adapter, ...told }: SourceOptions = {},
): ModelSource {
  const files = openModelFiles(path);
  if (adapter) checkFits(files, adapter, options);
  const name = basename(files.path);
  const others = adapter ? [name.replace(/\.gguf$/i, ""), ...named(aliases)] : named(aliases);
  return {
    name: withAdapter(name, adapter),
    aliases: others.map((alias) => withAdapter(alias, adapter)),
    header: {
      ...headerOf(files, backendTruths[options.backend]),
      ...(adapter && { adapter: { name: adapter.name } }),
    },
    open: (room) => openAlone(files.path, { ...options, ...(adapter && { adapter }) }, room, told),
  };
}

/**
 * An adapter of another base, by its digest or by its matrices, is refused before a request asks for it. Of the model the
 * headers are enough, but for a digest, which is made once.
 */
function checkFits(files: ModelFiles, named: AdapterChoice, { backend }: SharedOptions): void {
  const adapter = openAdapter(named.path);
  const device = openDevice("meta", { like: backend });
  try {
    loadModel(device, files, { adapter }).free();
  } finally {
    device.close();
  }
  if (adapter.baseDigest === undefined) return;
  using digest = new ContentDigest(files.files);
  checkBase(named, adapter, digest);
}

/** Opens a model in an engine that shares no library with others. */
async function openAlone(
  modelPath: string,
  options: SharedOptions & Pick<EngineOptions, "adapter">,
  { memoryBytes, shared, whole }: LoadRoom,
  { onProgress, onWarning }: Told,
): Promise<ServedModel> {
  const library = takeLibrary(options.backend);
  try {
    const served = await openServedModel(
      {
        ...{ ...options, modelPath },
        ...(library.path === undefined ? {} : { libraryPath: library.path }),
        ...(shared ? { memoryBytes, sharesMemory: true, wholeContext: whole } : {}),
      },
      onProgress,
      onWarning,
    );
    return { ...served, release: () => library.release(served.engine.failure !== undefined) };
  } catch (error) {
    const clean =
      error instanceof PsionicError && error.code !== "native_failed" && error.code !== "internal";
    library.release(!clean);
    throw error;
  }
}

function headerOf(files: ModelFiles, backend: BackendTruth): ModelHeader {
  const { architecture } = files;
  const context =
    files.kind === "gguf"
      ? files.setting(`${architecture}.context_length`)
      : files.setting("max_position_embeddings");
  const title = files.kind === "gguf" ? files.setting("general.name") : undefined;
  const tensors = [...files.tensors.values()];
  return {
    ...{ architecture, path: files.path, backend },
    title: typeof title === "string" ? title : "",
    trainedContext: typeof context === "number" ? context : null,
    parameters: tensors.reduce((sum, { shape }) => sum + shape.reduce((n, size) => n * size, 1), 0),
    weightBytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    quantization: quantization(files),
  };
}

/** Models below a folder are looked for so many folders deep; in the store it is `hub/org/repository/choice`. */
const deepest = 4;

export type FoundModels = {
  readonly sources: readonly ModelSource[];
  /** What looks like a model and is none that can be served. */
  readonly skipped: readonly { readonly path: string; readonly reason: string }[];
};

/** Every model in a folder and the folders in it: GGUF files (a split one once), and checkpoints. */
export function folderSources(folder: string, options: SharedOptions, told: Told = {}): FoundModels {
  const sources: ModelSource[] = [];
  const skipped: { path: string; reason: string }[] = [];
  for (const path of modelPaths(resolve(folder), deepest)) {
    try {
      const stored = readStored(path) ?? readStored(dirname(path));
      const aliases = stored ? [stored.manifest.name] : [];
      const source = fileSource(path, options, { aliases, ...told });
      const { architecture } = source.header!;
      if (supportedArchitectures.includes(architecture)) sources.push(source);
      else skipped.push({ path, reason: `the family ${architecture} is not executed` });
    } catch (error) {
      skipped.push({ path, reason: error instanceof Error ? error.message : String(error) });
    }
  }
  return { sources, skipped };
}

function modelPaths(folder: string, depth: number): string[] {
  let names: readonly string[];
  try {
    names = readdirSync(folder).sort();
  } catch (cause) {
    throw unexpected("file_not_found", "models-dir", "a folder that can be read", folder, { cause });
  }
  const weights = names.some((name) => name.endsWith(".safetensors") || name === indexName);
  if (names.includes("config.json") && weights) return [folder];
  return names.flatMap((name) => {
    if (name.startsWith(".") || name.endsWith(pullSuffix)) return [];
    const path = join(folder, name);
    if (name.endsWith(".gguf")) return firstPart(path) ? [path] : [];
    return depth > 0 && isFolder(path) ? modelPaths(path, depth - 1) : [];
  });
}

/** Whether a file stands for a model: not so the later parts of a split one. */
function firstPart(path: string): boolean {
  try {
    return (splitName(path)?.index ?? 0) === 0;
  } catch {
    // a part number that cannot be: opening it says so
    return true;
  }
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** Joins models named one by one with those of folders. Names must differ; the same file twice is one model. */
export function distinctSources(sources: readonly ModelSource[]): readonly ModelSource[] {
  const byName = new Map<string, ModelSource>();
  for (const source of sources) {
    const other = byName.get(source.name);
    if (!other) byName.set(source.name, source);
    else if (resolve(other.header?.path ?? "") !== resolve(source.header?.path ?? "")) {
      const got = `${other.header?.path} and ${source.header?.path}`;
      throw unexpected("invalid_argument", "models", `one model called ${source.name}`, got, {
        fix: "Requests could not tell them apart; rename one",
      });
    }
  }
  return [...byName.values()];
}
