import {
  accessSync,
  constants,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { unexpected } from "../../core/error.ts";
import { lockFolder } from "../../core/folder_lock.ts";
import { recordDigest } from "../files/content_digest.ts";
import { openModelFiles } from "../files/source.ts";
import { checkChosen, chooseFiles, fileUrl, hubEndpoint, readRepository } from "./hub.ts";
import {
  folderOf,
  type Manifest,
  pullSuffix,
  readStored,
  type StoredModel,
  writeManifest,
} from "./manifest.ts";
import { fileNameOf, parseReference, type Reference } from "./reference.ts";
import { defaultRemote, type RemoteSettings } from "./remote.ts";
import { probe, type WantedFile } from "./remote_file.ts";
import {
  defaultChunkBytes,
  defaultConnections,
  removeTraces,
  Transfer,
  type TransferOptions,
} from "./transfer.ts";

export type PullOptions = {
  readonly signal?: AbortSignal;
  readonly connections?: number;
  readonly chunkBytes?: number;
  readonly remote?: Partial<Pick<RemoteSettings, "stallMs" | "attempts" | "pauseMs">>;
  readonly freeBytes?: TransferOptions["freeBytes"];
  readonly onProgress?: TransferOptions["onProgress"];
  /** What is about to be fetched, once it is known. */
  readonly onPlan?: (plan: { readonly name: string; readonly files: number }) => void;
};

export type Pulled = { readonly model: StoredModel; readonly state: "pulled" | "already there" };

/** The store may lie on a disk that is read only, or belong to somebody else: said before anything is fetched. */
function makeStore(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
  } catch (cause) {
    const fix = "Name another place with PSIONIC_HOME";
    throw unexpected("io_failed", "store", "a folder to write to", `${folder}: ${(cause as Error).message}`, {
      fix,
      cause,
    });
  }
}

type Plan = {
  readonly name: string;
  readonly source: string;
  readonly revision: string | null;
  readonly main: string;
  readonly files: readonly WantedFile[];
};

/** Brings a model into the store. It appears there when all of it is whole; until then nothing of it can be used. */
export async function pullModel(asked: string, options: PullOptions = {}): Promise<Pulled> {
  const reference = parseReference(asked);
  const settings = remoteSettings(reference, options);
  const plan = await planOf(reference, settings);
  const folder = folderOf(plan.name);
  options.onPlan?.({ name: plan.name, files: plan.files.length });
  makeStore(dirname(folder));
  using _lock = lockFolder(`${folder}.lock`, plan.name);
  const pulling = folder + pullSuffix;
  // an earlier pull was stopped between its last file and its name
  if (readStored(pulling)) swap(pulling, folder);
  const before = readStored(folder);
  if (before && (await isCurrent(before, plan, settings))) return { model: before, state: "already there" };
  mkdirSync(pulling, { recursive: true });
  if (before) linkUnchanged(before, plan, pulling);
  const transfer = new Transfer(pulling, {
    settings,
    connections: options.connections ?? defaultConnections,
    chunkBytes: options.chunkBytes ?? defaultChunkBytes,
    onProgress: options.onProgress ?? (() => {}),
    ...(options.freeBytes ? { freeBytes: options.freeBytes } : {}),
  });
  const files = await transfer.run(plan.files).catch((error: unknown) => {
    removeIfEmpty(pulling);
    throw error;
  });
  const { name, source, revision, main } = plan;
  checkModel(pulling, main, name);
  const manifest: Manifest = { version: 1, name, source, revision, main, files, pulledAtMs: Date.now() };
  removeTraces(pulling, files);
  for (const { path, sha256 } of files) recordDigest(join(pulling, path), sha256);
  writeManifest(pulling, manifest);
  swap(pulling, folder);
  return { model: readStored(folder)!, state: "pulled" };
}

function remoteSettings(reference: Reference, { signal, remote = {} }: PullOptions): RemoteSettings {
  const token = process.env.HF_TOKEN?.trim() || undefined;
  return {
    ...defaultRemote,
    ...remote,
    signal: signal ?? new AbortController().signal,
    // a token of the hub is nobody else's business
    ...(reference.kind === "hub" ? { token, tokenOrigin: hubEndpoint().origin } : {}),
  };
}

async function planOf(reference: Reference, settings: RemoteSettings): Promise<Plan> {
  if (reference.kind === "url") return urlPlan(reference.url);
  const endpoint = hubEndpoint();
  const { repository, choice, revision } = reference;
  const { commit, files } = await readRepository(endpoint, repository, revision ?? "main", settings);
  const chosen = chooseFiles(repository, files, choice);
  checkChosen(chosen);
  return {
    name: chosen.choice === undefined ? repository : `${repository}:${chosen.choice}`,
    source: new URL(`/${repository}`, endpoint).href,
    revision: commit,
    main: chosen.main,
    files: chosen.files.map(({ path, bytes, sha256, gitBlob }) => ({
      ...{ path, bytes, sha256, gitBlob, url: fileUrl(endpoint, repository, commit, path) },
    })),
  };
}

/** One file, or all parts of a split one. */
function urlPlan(url: URL): Plan {
  const name = fileNameOf(url);
  const split = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/.exec(name);
  const count = split ? Number(split[3]) : 1;
  if (count < 1 || count > 999) throw unexpected("invalid_argument", "pull", "1 to 999 parts", count);
  const names = split
    ? Array.from(
        { length: count },
        (_, i) => `${split[1]}-${String(i + 1).padStart(5, "0")}-of-${split[3]}.gguf`,
      )
    : [name];
  const files = names.map((path) => {
    const part = new URL(url);
    part.pathname = url.pathname.replace(/[^/]*$/, encodeURIComponent(path));
    return { path, url: part, bytes: null, sha256: null, gitBlob: null };
  });
  const shown = new URL(url);
  // addresses may be signed
  shown.search = "";
  return {
    name: (split?.[1] ?? name.replace(/\.gguf$/, "")).replace(/[^A-Za-z0-9._-]+/g, "-"),
    ...{ source: shown.href, revision: null, main: names[0]!, files },
  };
}

/** Whether what is in the store is what would be pulled. */
async function isCurrent(before: StoredModel, plan: Plan, settings: RemoteSettings): Promise<boolean> {
  const { manifest, folder } = before;
  const whole = manifest.files.every(
    ({ path, bytes }) => statSync(join(folder, path), { throwIfNoEntry: false })?.size === bytes,
  );
  const paths = (files: readonly { readonly path: string }[]) =>
    files
      .map(({ path }) => path)
      .sort()
      .join("\n");
  if (!whole || manifest.source !== plan.source || paths(manifest.files) !== paths(plan.files)) return false;
  if (plan.revision !== null) return manifest.revision === plan.revision;
  const probes = await Promise.all(plan.files.map((file) => probe(file, settings)));
  return plan.files.every(({ path }, i) => {
    const known = manifest.files.find((file) => file.path === path);
    const { bytes, etag, sha256 } = probes[i]!;
    if (known?.bytes !== bytes) return false;
    return sha256 !== null ? known.sha256 === sha256 : etag !== null && known.etag === etag;
  });
}

/** Files that a newer revision has unchanged need not come again. */
function linkUnchanged({ manifest, folder }: StoredModel, plan: Plan, pulling: string): void {
  for (const { path, sha256 } of plan.files) {
    const known = manifest.files.find((file) => file.path === path && file.sha256 === sha256);
    const from = join(folder, path);
    const to = join(pulling, path);
    const stat = known && statSync(from, { throwIfNoEntry: false });
    if (!known || stat?.size !== known.bytes || existsSync(to)) continue;
    mkdirSync(dirname(to), { recursive: true });
    if (!linked(from, to)) return;
    const { bytes, verified, etag } = known;
    const entry = { bytes, sha256, verified, etag };
    writeFileSync(`${to}.done`, JSON.stringify({ content: sha256, entry, mtimeMs: stat.mtimeMs }));
  }
}

/** Gives a file a second name; false on disks that have none, where it comes again. */
function linked(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch {
    return false;
  }
}

/** A pull that brought nothing leaves nothing. */
function removeIfEmpty(folder: string): void {
  if (readdirSync(folder).length === 0) rmSync(folder, { recursive: true });
}

/** A page with an error is no model, however well its digest fits. */
function checkModel(folder: string, main: string, name: string): void {
  try {
    openModelFiles(main === "" ? folder : join(folder, main));
  } catch (cause) {
    rmSync(folder, { recursive: true, force: true });
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw unexpected("file_malformed", name, "a model", reason, { cause });
  }
}

/** Puts the new folder in the place of the old one. Who has the old files open keeps them. */
function swap(pulling: string, folder: string): void {
  const old = `${folder}.old${pullSuffix}`;
  rmSync(old, { recursive: true, force: true });
  if (existsSync(folder)) renameSync(folder, old);
  renameSync(pulling, folder);
  rmSync(old, { recursive: true, force: true });
}
