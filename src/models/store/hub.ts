import * as v from "valibot";
import { unexpected } from "../../core/error.ts";
import { checkPath } from "./reference.ts";
import { askJson, type RemoteSettings } from "./remote.ts";

/** A file of a repository with what the hub says about it. */
export type HubFile = {
  readonly path: string;
  readonly bytes: number;
  /** Of the content, where the file is kept as a large one. */
  readonly sha256: string | null;
  /** Of small files: SHA-1 of git's blob. */
  readonly gitBlob: string | null;
};

export type HubRepository = { readonly commit: string; readonly files: readonly HubFile[] };

const hex = (digits: number) => v.pipe(v.string(), v.regex(new RegExp(`^[0-9a-f]{${digits}}$`)));
const answerSchema = v.object({
  sha: hex(40),
  siblings: v.array(
    v.object({
      rfilename: v.string(),
      size: v.optional(v.nullable(v.pipe(v.number(), v.integer(), v.minValue(0)))),
      blobId: v.optional(v.nullable(v.string())),
      lfs: v.optional(
        v.nullable(v.object({ sha256: hex(64), size: v.pipe(v.number(), v.integer(), v.minValue(0)) })),
      ),
    }),
  ),
});

/** The hub's address: HF_ENDPOINT, else Hugging Face. */
export function hubEndpoint(): URL {
  const text = process.env.HF_ENDPOINT || "https://huggingface.co";
  const url = URL.parse(text);
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw unexpected("invalid_argument", "HF_ENDPOINT", "an http or https address", text);
  }
  return url;
}

/** What a repository holds at a revision. */
export async function readRepository(
  endpoint: URL,
  repository: string,
  revision: string,
  settings: RemoteSettings,
): Promise<HubRepository> {
  const path = `/api/models/${repository}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const url = new URL(endpoint.pathname.replace(/\/$/, "") + path, endpoint);
  const read = v.safeParse(answerSchema, await askJson(url, settings));
  if (!read.success) {
    throw unexpected(
      "network_failed",
      endpoint.host,
      "a list of files",
      v.summarize(read.issues).slice(0, 200),
    );
  }
  const files = read.output.siblings.flatMap(({ rfilename, size, blobId, lfs }) => {
    const bytes = lfs?.size ?? size;
    if (bytes === undefined || bytes === null) return [];
    const git = !lfs && blobId && /^[0-9a-f]{40}$/.test(blobId) ? blobId : null;
    return [{ path: rfilename, bytes, sha256: lfs?.sha256 ?? null, gitBlob: git }];
  });
  return { commit: read.output.sha, files };
}

/** Address of a file's content. */
export function fileUrl(endpoint: URL, repository: string, commit: string, path: string): URL {
  const encoded = path.split("/").map(encodeURIComponent).join("/");
  return new URL(
    `${endpoint.pathname.replace(/\/$/, "")}/${repository}/resolve/${commit}/${encoded}`,
    endpoint,
  );
}

/** The files that make one model of a repository. */
export type Chosen = {
  /** Becomes part of the name; absent for a checkpoint. */
  readonly choice?: string;
  /** What to load: a file's path, or empty for the folder. */
  readonly main: string;
  readonly files: readonly HubFile[];
};

/** Taken where a repository has several and none was asked for, as other programs do. */
const usualQuantisation = "Q4_K_M";

/**
 * Chooses by a file's path, by a quantisation (`Q8_0`, found in the names), or what is usual: the only GGUF model, the one
 * called Q4_K_M, or the checkpoint of a repository without GGUF files. Throws with what there is where that is not clear.
 */
export function chooseFiles(repository: string, all: readonly HubFile[], asked?: string): Chosen {
  const models = ggufModels(all);
  if (asked === undefined) {
    const [only] = models;
    if (models.length === 1 && only) return only;
    if (models.length === 0) return checkpoint(repository, all);
    const usual = models.filter(({ main }) => matches(main, usualQuantisation));
    if (usual.length === 1) return usual[0]!;
    throw unclear(repository, "one of its files or quantisations after a colon", "none", models);
  }
  const exact = models.filter(
    ({ choice, files }) =>
      choice === asked || files.some(({ path }) => path === asked || path === `${asked}.gguf`),
  );
  const found = exact.length > 0 ? exact : models.filter(({ main }) => matches(main, asked));
  if (found.length === 1) return found[0]!;
  if (found.length === 0 && isCheckpoint(all) && asked.toLowerCase() === "checkpoint") {
    return checkpoint(repository, all);
  }
  throw unclear(
    repository,
    "a file or quantisation that it has once",
    asked,
    found.length > 0 ? found : models,
  );
}

/** GGUF files, the parts of a split one together; projectors and importance matrices are no models. */
function ggufModels(all: readonly HubFile[]): (Chosen & { readonly choice: string })[] {
  const groups = new Map<string, HubFile[]>();
  for (const file of all) {
    const name = file.path.replace(/^.*\//, "");
    if (!name.endsWith(".gguf") || /(^|[-_.])(mmproj|imatrix)([-_.]|$)/i.test(name)) continue;
    const whole = file.path.replace(/-\d{5}-of-\d{5}\.gguf$/, ".gguf");
    groups.set(whole, [...(groups.get(whole) ?? []), file]);
  }
  const short = [...groups.keys()].map((path) => quantisationOf(path));
  return [...groups].map(([whole, files], i) => {
    const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : 1));
    const tag = short[i];
    const alone = tag !== undefined && short.filter((other) => other === tag).length === 1;
    const choice = alone ? tag : whole.replace(/\.gguf$/, "").replaceAll("/", "--");
    return { choice, main: sorted[0]!.path, files: sorted };
  });
}

/** The quantisation that a file's name ends in. */
function quantisationOf(path: string): string | undefined {
  return /(?:^|[-_.])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|B?F16|F32|MXFP4\w*))\.gguf$/i
    .exec(path)?.[1]
    ?.toUpperCase();
}

/** Whether a path has the quantisation as a part of its own. */
function matches(path: string, quantisation: string): boolean {
  const escaped = quantisation.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`(^|[-_./])${escaped}($|[-./])`, "i").test(path);
}

const checkpointFiles =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|model\.safetensors\.index)\.json$|^(merges\.txt|vocab\.txt|tokenizer\.model|chat_template\.jinja)$/;

function isCheckpoint(all: readonly HubFile[]): boolean {
  return (
    all.some(({ path }) => path === "config.json") &&
    all.some(({ path }) => /^[^/]+\.safetensors$/.test(path))
  );
}

function checkpoint(repository: string, all: readonly HubFile[]): Chosen {
  if (!isCheckpoint(all)) {
    const got = all.length === 0 ? "no files" : `${all.length} files of other kinds`;
    throw unexpected("model_not_found", repository, "GGUF files, or config.json and safetensors", got);
  }
  const named = all.filter(({ path }) => /^model(-\d+-of-\d+)?\.safetensors$/.test(path));
  const weights = named.length > 0 ? named : all.filter(({ path }) => /^[^/]+\.safetensors$/.test(path));
  return { main: "", files: [...all.filter(({ path }) => checkpointFiles.test(path)), ...weights] };
}

function unclear(repository: string, expected: string, got: string, models: readonly Chosen[]): Error {
  const names = models.map(({ choice }) => choice).slice(0, 30);
  const more = models.length > names.length ? ` and ${models.length - names.length} more` : "";
  return unexpected("invalid_argument", repository, expected, got, {
    ...(names.length > 0 ? { fix: `It has ${names.join(", ")}${more}` } : {}),
    details: { choices: names },
  });
}

/** Refuses file names of the hub that would leave the model's folder. */
export function checkChosen({ files, choice }: Chosen): void {
  for (const { path } of files) checkPath(path);
  if (choice !== undefined) checkPath(choice);
}
