/** The corpora of a data set: which files, under which licences, with which bytes. */
import { createReadStream, statSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { unexpected } from "../../core/error.ts";
import { isObject } from "../../models/files/strict_json.ts";
import { type RecordKind, readRecord, sealed } from "../record.ts";
import { type CorpusFormat, formatOf, readDocuments } from "./document.ts";

export const corporaKind: RecordKind = {
  schema: "psionic.data.corpora_manifest.v1",
  digestField: "manifest_digest",
  prefix: "psionic_data_corpora_manifest|",
};

export type Corpus = {
  readonly corpus_id: string;
  /** Relative to the manifest's folder. */
  readonly path: string;
  readonly format: CorpusFormat;
  /** SPDX expression, or words where there is none. */
  readonly licence: string;
  readonly origin: string | null;
  /** All documents belong to this split; null: a rule decides. */
  readonly split: string | null;
  readonly sha256: string;
  readonly size_bytes: number;
  readonly document_count: number;
  readonly text_bytes: number;
};

export type CorporaManifest = {
  readonly manifest_id: string;
  readonly corpora: readonly Corpus[];
  readonly manifest_digest: string;
};

export type CorpusInput = {
  readonly path: string;
  readonly licence: string;
  readonly origin?: string;
  readonly split?: string;
};

export type OnBytes = (file: string, done: number, total: number) => void;

export const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

export async function fileDigest(path: string): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }))
      hasher.update(chunk as Uint8Array);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw unexpected("file_not_found", path, "a readable file", reason, { cause });
  }
  return hasher.digest("hex");
}

/** Reads every file once and says what it holds. A corpus without a document, or one without a licence, is refused. */
export async function makeCorporaManifest(
  id: string,
  inputs: readonly CorpusInput[],
  manifestPath: string,
  onBytes: OnBytes = () => {},
): Promise<CorporaManifest> {
  if (inputs.length === 0)
    throw unexpected("invalid_request", "data manifest", "at least one corpus", "none");
  const corpora: Corpus[] = [];
  for (const input of inputs) {
    if (input.licence.trim() === "") throw unexpected("invalid_request", input.path, "a licence", "none");
    const total = statSync(input.path, { throwIfNoEntry: false })?.size ?? 0;
    let [read, documents, textBytes] = [0, 0, 0];
    const heard = (count: number): void => {
      read += count;
      onBytes(basename(input.path), read, total);
    };
    for await (const { text } of readDocuments(input.path, heard)) {
      documents++;
      textBytes += Buffer.byteLength(text);
    }
    if (textBytes === 0) throw unexpected("invalid_request", input.path, "a corpus with text", "none in it");
    corpora.push({
      corpus_id: corpusId(input.path, corpora),
      path: relative(dirname(resolve(manifestPath)), resolve(input.path)),
      format: formatOf(input.path),
      licence: input.licence,
      origin: input.origin ?? null,
      split: input.split ?? null,
      sha256: await fileDigest(input.path),
      size_bytes: total,
      document_count: documents,
      text_bytes: textBytes,
    });
  }
  return sealed(corporaKind, { manifest_id: id, corpora, manifest_digest: "" });
}

function corpusId(path: string, before: readonly Corpus[]): string {
  const name = basename(path)
    .replace(/\.zst$/i, "")
    .replace(/\.[^.]+$/, "");
  const taken = (id: string): boolean => before.some((c) => c.corpus_id === id);
  for (let n = 1; ; n++) {
    const id = n === 1 ? name : `${name}-${n}`;
    if (!taken(id)) return id;
  }
}

/** A manifest from disk, its fields checked. */
export function readCorporaManifest(path: string): CorporaManifest {
  const { manifest_id, corpora, manifest_digest } = readRecord(path, corporaKind);
  const list: readonly unknown[] = Array.isArray(corpora) ? corpora : [];
  const wrong = list.findIndex((corpus) => !isCorpus(corpus));
  if (list.length === 0 || wrong >= 0) {
    throw unexpected(
      "file_malformed",
      path,
      "corpora with id, path, format and digest",
      `number ${wrong + 1} that is none`,
    );
  }
  return {
    manifest_id: String(manifest_id),
    corpora: list as readonly Corpus[],
    manifest_digest: String(manifest_digest),
  };
}

function isCorpus(value: unknown): boolean {
  return (
    isObject(value) &&
    ["corpus_id", "path", "licence", "sha256"].every((key) => typeof value[key] === "string") &&
    (value.format === "jsonl" || value.format === "text") &&
    (value.split === null || typeof value.split === "string") &&
    Number.isSafeInteger(value.size_bytes)
  );
}

/** Where a corpus of a manifest lies. */
export function corpusPath(manifestPath: string, corpus: Corpus): string {
  return join(dirname(resolve(manifestPath)), corpus.path);
}

/** Throws `digest_mismatch` where a file is not the one that the manifest describes. */
export async function checkCorpora(manifestPath: string, manifest: CorporaManifest): Promise<void> {
  for (const corpus of manifest.corpora) {
    const path = corpusPath(manifestPath, corpus);
    const digest = await fileDigest(path);
    if (digest !== corpus.sha256)
      throw unexpected("digest_mismatch", path, `SHA-256 ${corpus.sha256}`, digest, {
        fix: "Make the manifest again if the file was meant to change",
      });
  }
}
