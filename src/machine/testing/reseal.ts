/** Changing a contribution the way a forger does: afterwards every digest of it agrees again. */
import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { orderedJson } from "../../core/json.ts";
import { type AnyDocument, digestOf, parsed } from "../documents.ts";
import { bindingOf } from "../run_root.ts";
import { documents } from "../schemas.ts";

export type Json = Record<string, unknown>;
/** New content of artifacts by kind; null takes one out of the manifest. */
export type Edits = Readonly<Record<string, Uint8Array | ((value: Json) => object) | null>>;
type Entry = { artifact_kind: string; binding: { materialized_path: string } };

const read = (path: string): Json => JSON.parse(readFileSync(path, "utf8")) as Json;

/** A document with its own digest made anew. */
export function resealed(value: object): object {
  const doc: AnyDocument | undefined = documents.get(String((value as Json).schema_version));
  if (!doc) return value;
  const ordered = parsed(doc, value, doc.id) as object;
  return doc.digest ? { ...ordered, [doc.digest.field]: digestOf(doc.digest, ordered) } : ordered;
}

/** The file of an artifact in a contribution's folder. */
export function artifactPath(folder: string, kind: string): string {
  const list = read(join(folder, "artifact_manifest.json")).artifacts as Entry[];
  const entry = list.find(({ artifact_kind }) => artifact_kind === kind);
  if (!entry) throw new Error(`no artifact ${kind}`);
  return join(folder, entry.binding.materialized_path.split(`${basename(folder)}/`)[1] ?? "");
}

export const artifactOf = (folder: string, kind: string): Json => read(artifactPath(folder, kind));

/** Makes the edits, then binding, list and receipt fit; `more` changes list and receipt themselves. */
export function forge(
  folder: string,
  edits: Edits,
  more: { readonly list?: (list: Json) => object; readonly receipt?: (receipt: Json) => object } = {},
): void {
  const write = (path: string, value: object): Uint8Array => {
    writeFileSync(path, orderedJson(value, 2));
    return readFileSync(path);
  };
  const listPath = join(folder, "artifact_manifest.json");
  const list = read(listPath);
  let entries = list.artifacts as Entry[];
  for (const [kind, edit] of Object.entries(edits)) {
    if (edit === null) {
      entries = entries.filter(({ artifact_kind }) => artifact_kind !== kind);
      continue;
    }
    const path = artifactPath(folder, kind);
    if (edit instanceof Uint8Array) writeFileSync(path, edit);
    else write(path, resealed(edit(read(path))));
    const bytes = readFileSync(path);
    entries = entries.map((entry) =>
      entry.artifact_kind === kind
        ? { ...entry, binding: bindingOf(kind, bytes, entry.binding.materialized_path) as Entry["binding"] }
        : entry,
    );
  }
  const same = (value: Json): object => value;
  const listed = resealed(
    (more.list ?? same)({ ...list, artifacts: entries, artifact_count: entries.length }),
  ) as Json;
  const listBytes = write(listPath, listed);
  const receiptPath = join(folder, "contribution_receipt.json");
  const receipt = read(receiptPath);
  const { materialized_path } = receipt.artifact_manifest as { materialized_path: string };
  const bound = {
    ...receipt,
    artifact_manifest: bindingOf("contribution_artifact_manifest", listBytes, materialized_path),
    artifact_manifest_digest: listed.artifact_manifest_digest,
    artifact_count: (listed.artifacts as Entry[]).length,
  };
  write(receiptPath, resealed((more.receipt ?? same)(bound)));
}
