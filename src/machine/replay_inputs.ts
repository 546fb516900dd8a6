/** Finding what a contribution names: at its path, in its own run root, in ours, or where a resolver left it. */
import { existsSync, readdirSync, realpathSync, statSync } from "node:fs";
import { dirname, isAbsolute, join, sep } from "node:path";
import type * as v from "valibot";
import { sha256 } from "../core/digest.ts";
import { PsionicError } from "../core/error.ts";
import { refuse } from "./contract.ts";
import { type DigestRule, verified } from "./documents.ts";
import { record, str } from "./fields.ts";
import { resolvedFolder } from "./layout.ts";
import type { Binding } from "./manifest.ts";
import { resolvedKey, staysInside } from "./names.ts";
import { fileBytes, hashedFile, jsonOf, type RunRoot } from "./run_root.ts";

/** A file that is what was bound. `bytes` are those that were hashed; of tensors and whatever is larger than any document there are none. */
export type Found = {
  readonly path: string;
  readonly sha256: string;
  readonly size: bigint;
  readonly bytes: Uint8Array | undefined;
};

/**
 * The first candidate that has the promised size and digest; a tag `sha256:` and the case of digits do not matter. An absolute
 * path is taken only from a binding of the validator's own manifest (`trusted`): what a worker wrote must not choose which
 * files of this machine are read, so its paths, links in them followed, stay below the roots.
 */
export function resolveInput(
  { artifact_ref, materialized_path: declared }: Binding,
  name: string,
  roots: readonly string[],
  trusted: "trusted" | "foreign",
): Found {
  const key = resolvedKey(artifact_ref.artifact_id);
  const absolute = declared !== undefined && isAbsolute(declared);
  const relative = declared !== undefined && !absolute && staysInside(declared) ? [declared] : [];
  const below = [...relative, `${resolvedFolder}/${key}.json`, `${resolvedFolder}/${key}`];
  const places = roots.flatMap((root) =>
    below.map((path) => join(root, path)).filter((path) => trusted === "trusted" || liesBelow(root, path)),
  );
  const candidates = absolute && trusted === "trusted" ? [declared, ...places] : places;
  const expected = artifact_ref.artifact_digest?.toLowerCase().replace(/^sha256:/, "");
  let mismatch: string | undefined;
  for (const path of candidates.filter((candidate) => existsSync(candidate))) {
    mismatch = path;
    // what has another size need not be read
    const { artifact_bytes: bytes } = artifact_ref;
    const stat = statSync(path, { bigint: true });
    if (bytes !== undefined && stat.isFile() && stat.size !== BigInt(bytes)) continue;
    const found = readable(() => hashedFile(path, !/\.(safetensors|zst)$/.test(path)));
    const fits =
      (expected === undefined || found.sha256 === expected) &&
      (bytes === undefined || BigInt(bytes) === found.size);
    if (fits) return { path, ...found };
  }
  if (mismatch !== undefined)
    return refuse("artifact_digest_mismatch", `${name}: ${mismatch} is not what is bound`);
  const checkpoint = name.includes("checkpoint") || artifact_ref.artifact_id.includes("checkpoint");
  return refuse(
    checkpoint ? "checkpoint_missing" : "artifact_incomplete",
    `${name}: no local copy of ${artifact_ref.artifact_id.slice(0, 160)}; ${resolvedFolder}/${key} is where to put one`,
  );
}

/** Whether a file is there and, links followed, below the folder. */
function liesBelow(folder: string, path: string): boolean {
  if (!existsSync(path)) return false;
  const [inside, place] = [realpathSync(folder), realpathSync(path)];
  return place.startsWith(inside.endsWith(sep) ? inside : inside + sep);
}

/** A document that must be there; `artifact_incomplete` where it is not, or cannot be read. */
export function foundFile(path: string): Found & { readonly bytes: Uint8Array } {
  const bytes = readable(() => fileBytes(path));
  return { path, sha256: sha256(bytes), size: BigInt(bytes.length), bytes };
}

/** The bytes of a file that was found: those that were hashed, or such as hash to the same now. */
export function boundBytes({ path, sha256: expected, bytes }: Found, largest?: number): Uint8Array {
  if (bytes) return bytes;
  const read = readable(() => fileBytes(path, largest));
  if (sha256(read) !== expected) refuse("artifact_digest_mismatch", `${path} changed while it was judged`);
  return read;
}

function readable<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    return refuse("artifact_incomplete", cause instanceof Error ? cause.message : String(cause), cause);
  }
}

/** A document whose digest holds; anything else is `artifact_digest_mismatch`. */
export function replayed<S extends v.GenericSchema>(
  doc: { readonly schema: S; readonly digest: DigestRule | undefined },
  found: Found,
): v.InferOutput<S> {
  const { path } = found;
  const bytes = boundBytes(found);
  try {
    return verified(doc, jsonOf(bytes, path), path);
  } catch (cause) {
    if (cause instanceof PsionicError) return refuse("artifact_digest_mismatch", cause.message, cause);
    throw cause;
  }
}

/** The schema that a document names; what is no JSON is `artifact_digest_mismatch`. */
export const schemaIn = (found: Found): unknown => replayed(anyDocument, found).schema_version;
const anyDocument = { schema: record({ schema_version: str }), digest: undefined };

/** The run root that a file lies in at `windows/<window>/contributions/<id>/<name>`. */
export const contributorRoot = (path: string): string => join(dirname(path), "..", "..", "..", "..");

/** Paths below the run root of every challenge's file of a name. */
export function verdictFiles(root: RunRoot, name: string): string[] {
  const folders = (path: string): string[] => (root.has(path) ? readdirSync(root.path(path)) : []);
  return folders("windows")
    .map((window) => `windows/${window}/validators`)
    .flatMap((folder) => folders(folder).map((challenge) => `${folder}/${challenge}/${name}`))
    .filter((path) => root.has(path));
}
