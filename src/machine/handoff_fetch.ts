/**
 * Brings a checkpoint from a peer into `artifacts/resolved/` of a run root, where `resume` finds it. Nothing the peer says
 * is believed that the receipt's digests do not bear out, and it names no place on this machine.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { type ErrorCode, PsionicError, unexpected } from "../core/error.ts";
import { PartFile } from "../models/store/part_file.ts";
import { ask, PassingFailure, persevere, type RemoteSettings } from "../models/store/remote.ts";
import { checkRoom, writeWhole } from "../train/durable.ts";
import { type HandoffReceipt, handoffReceipt } from "./checkpoint.ts";
import { Refusal, type RefusalClass, refuse } from "./contract.ts";
import { verified } from "./documents.ts";
import { count, filled, record } from "./fields.ts";
import { checkIndex, type HandoffIndex, handoffIndex } from "./handoff_index.ts";
import { handoffRoute } from "./handoff_server.ts";
import { resolvedFolder } from "./layout.ts";
import type { Binding } from "./manifest.ts";
import { resolvedKey } from "./names.ts";
import { bindingOf, jsonOf } from "./run_root.ts";

export type FetchOptions = {
  /** Origin of the peer's server. */
  readonly from: URL;
  readonly root: string;
  /** Who fetches; the receipt must be made out to it. */
  readonly node?: string | undefined;
  /** SHA-256 that the receipt's file must have. */
  readonly receiptDigest?: string | undefined;
  readonly token?: string | undefined;
  readonly stallMs: number;
  readonly attempts: number;
  readonly pauseMs: number;
  readonly onProgress?: (done: number, total: number) => void;
};

export type Fetched = {
  readonly receipt: HandoffReceipt;
  /** Of the receipt, as a manifest of `resume` names it; its path is below the run root. */
  readonly binding: Binding;
  readonly objectPath: string;
  readonly bytes: number;
  /** What an earlier attempt had left. */
  readonly resumedBytes: number;
};

const mostDocument = 2 ** 20;
const mostIndex = 2 ** 27;
/** A peer that hands out less is left, bytes a second. */
const leastRate = 4096;

/** Where the object of a checkpoint lies in the cache, below the run root. */
export const resolvedObjectPath = (objectDigest: string): string =>
  `${resolvedFolder}/${resolvedKey(`psionic.train.artifact.checkpoint_object.${objectDigest}`)}`;
/** Where the receipt lies that came with it, below the run root. */
export const resolvedIndexPath = (objectDigest: string): string =>
  `${resolvedFolder}/${resolvedKey(`psionic.train.artifact.checkpoint_handoff_index.${objectDigest}`)}.json`;

/**
 * Throws a `Refusal`: `checkpoint_missing` where the peer is gone, stalls or breaks off for good, `checkpoint_digest_mismatch`
 * where it says or sends something else, `artifact_incomplete` where this machine cannot keep it.
 */
export async function fetchHandoff(options: FetchOptions): Promise<Fetched> {
  try {
    return await fetched(options);
  } catch (cause) {
    throw asRefusal(cause);
  }
}

function asRefusal(cause: unknown): unknown {
  if (cause instanceof Refusal || !(cause instanceof PsionicError)) return cause;
  const classes: Partial<Record<ErrorCode, RefusalClass>> = {
    ...{ network_failed: "checkpoint_missing", unauthorized: "checkpoint_missing" },
    ...{ model_not_found: "checkpoint_missing", disk_full: "artifact_incomplete" },
    ...{ io_failed: "artifact_incomplete", file_malformed: "checkpoint_digest_mismatch" },
    digest_mismatch: "checkpoint_digest_mismatch",
  };
  const found = classes[cause.code];
  return found ? new Refusal(found, cause.message, cause) : cause;
}

function settingsOf({ from, token, stallMs, attempts, pauseMs }: FetchOptions): RemoteSettings {
  const signal = new AbortController().signal;
  return {
    stallMs,
    attempts,
    pauseMs,
    signal,
    ...(token !== undefined && { token, tokenOrigin: from.origin }),
  };
}

async function fetched(options: FetchOptions): Promise<Fetched> {
  const { root, node } = options;
  const settings = settingsOf(options);
  const bytes = await documentOf(options, settings, "receipt", mostDocument);
  const expected = options.receiptDigest?.toLowerCase().replace(/^sha256:/, "");
  if (expected !== undefined && sha256(bytes) !== expected)
    return refuse("checkpoint_digest_mismatch", `the receipt has SHA-256 ${sha256(bytes)}, not ${expected}`);
  const receipt = verified(handoffReceipt, jsonOf(bytes, "handoff receipt"), "handoff receipt");
  if (node !== undefined && receipt.peer_node_pubkey !== node)
    refuse(
      "checkpoint_digest_mismatch",
      `the receipt is made out to ${JSON.stringify(receipt.peer_node_pubkey.slice(0, 120))}`,
    );
  const pointer = await boundDocument(options, settings, "pointer", receipt.source_checkpoint_pointer);
  const manifest = await boundDocument(options, settings, "manifest", receipt.source_checkpoint_manifest);
  checkNamed(receipt, manifest);
  const indexBytes = await documentOf(options, settings, "index", mostIndex);
  const index = verified(handoffIndex, jsonOf(indexBytes, "handoff index"), "handoff index");
  checkIndex(index, {
    ...{ receipt_digest: receipt.receipt_digest, step: receipt.optimizer_step },
    ...{ digest: receipt.checkpoint_object_digest, bytes: receipt.checkpoint_total_bytes },
  });
  const folder = join(root, resolvedFolder);
  mkdirSync(folder, { recursive: true });
  const resumedBytes = await objectOf(options, settings, index);
  const put = (binding: Binding, content: Uint8Array): void =>
    writeWhole(join(folder, `${resolvedKey(binding.artifact_ref.artifact_id)}.json`), [content]);
  put(receipt.source_checkpoint_pointer, pointer);
  put(receipt.source_checkpoint_manifest, manifest);
  writeWhole(join(root, resolvedIndexPath(index.object_digest)), [indexBytes]);
  const { artifact_ref } = bindingOf("checkpoint_handoff_receipt", bytes, "");
  put({ artifact_ref }, bytes);
  const path = `${resolvedFolder}/${resolvedKey(artifact_ref.artifact_id)}.json`;
  return {
    receipt,
    binding: { artifact_ref, materialized_path: path },
    objectPath: resolvedObjectPath(index.object_digest),
    ...{ bytes: index.object_bytes, resumedBytes },
  };
}

const urlOf = ({ from }: FetchOptions, part: string): URL => new URL(handoffRoute(part), from);

/** A document of bearable size, in one answer. */
function documentOf(
  options: FetchOptions,
  settings: RemoteSettings,
  part: string,
  most: number,
): Promise<Uint8Array> {
  return persevere(async () => {
    const answer = await ask(urlOf(options, part), {}, settings);
    const length = answer.response.headers.get("content-length");
    const pieces: Uint8Array[] = [];
    let size = 0;
    const slowest = deadline(settings, most / 64);
    for await (const bytes of answer.body()) {
      size += bytes.length;
      pieces.push(bytes);
      if (size > most) return refuse("checkpoint_digest_mismatch", `the ${part} has more than ${most} bytes`);
      if (performance.now() > slowest) throw new PassingFailure(`${options.from.host} is too slow`);
    }
    if (length !== null && Number(length) !== size)
      throw new PassingFailure(`${options.from.host} broke off after ${size} bytes of the ${part}`);
    return new Uint8Array(Buffer.concat(pieces));
  }, settings);
}

const deadline = ({ stallMs }: RemoteSettings, bytes: number): number =>
  performance.now() + 2 * stallMs + (1000 * bytes) / leastRate;

async function boundDocument(
  options: FetchOptions,
  settings: RemoteSettings,
  part: string,
  { artifact_ref }: Binding,
): Promise<Uint8Array> {
  const bytes = await documentOf(options, settings, part, mostDocument);
  const expected = artifact_ref.artifact_digest?.toLowerCase().replace(/^sha256:/, "");
  const size = artifact_ref.artifact_bytes;
  if (sha256(bytes) !== expected || (size !== undefined && BigInt(size) !== BigInt(bytes.length)))
    return refuse("checkpoint_digest_mismatch", `the ${part} is not the one that the receipt names`);
  return bytes;
}

/** What both families of manifests say of the object. */
const namedObject = {
  schema: record({ checkpoint_object_digest: filled, checkpoint_total_bytes: count, optimizer_step: count }),
  digest: undefined,
};

function checkNamed(receipt: HandoffReceipt, bytes: Uint8Array): void {
  const named = verified(namedObject, jsonOf(bytes, "checkpoint manifest"), "checkpoint manifest");
  const same =
    named.checkpoint_object_digest === receipt.checkpoint_object_digest &&
    BigInt(named.checkpoint_total_bytes) === BigInt(receipt.checkpoint_total_bytes) &&
    BigInt(named.optimizer_step) === BigInt(receipt.optimizer_step);
  if (!same) refuse("checkpoint_digest_mismatch", "receipt and checkpoint manifest name two objects");
}

/** Chunks that are not there yet, each against its digest, then the whole; what was there before. */
async function objectOf(
  options: FetchOptions,
  settings: RemoteSettings,
  index: HandoffIndex,
): Promise<number> {
  const path = join(options.root, resolvedObjectPath(index.object_digest));
  if (await isWhole(path, index)) return index.object_bytes;
  checkRoom(join(options.root, resolvedFolder), index.object_bytes);
  const identity = {
    ...{ bytes: index.object_bytes, chunkBytes: index.chunk_bytes },
    content: index.index_digest,
  };
  using part = new PartFile(path, identity);
  // a journal may be older than its bytes: what was left is read again
  await part.verify(true, () => {});
  const resumed = part.doneBytes;
  for (const chunk of part.missing) {
    await fetchChunk(options, settings, index, part, chunk);
    options.onProgress?.(part.doneBytes, index.object_bytes);
  }
  const digest = await part.verify(false, () => {});
  if (digest !== index.object_digest) {
    part.discard();
    return refuse(
      "checkpoint_digest_mismatch",
      `the object has SHA-256 ${digest}, not ${index.object_digest}`,
    );
  }
  part.keep();
  return resumed;
}

async function isWhole(path: string, index: HandoffIndex): Promise<boolean> {
  const file = Bun.file(path);
  if (!(await file.exists()) || file.size !== index.object_bytes) return false;
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const piece of file.stream()) hasher.update(piece);
  return hasher.digest("hex") === index.object_digest;
}

/** A chunk in as many answers as it takes; one that comes with another digest is asked for again, and then refused. */
async function fetchChunk(
  options: FetchOptions,
  settings: RemoteSettings,
  index: HandoffIndex,
  part: PartFile,
  chunk: number,
): Promise<void> {
  const [from, to] = part.range(chunk);
  const content = new Uint8Array(to - from);
  for (let attempt = 0; attempt < 2; attempt++) {
    await fillRange(options, settings, index, content, from);
    const digest = sha256(content);
    if (digest !== index.chunks[chunk]) continue;
    part.write(from, content);
    part.complete(chunk, digest);
    return;
  }
  refuse(
    "checkpoint_digest_mismatch",
    `${options.from.host} sends chunk ${chunk} with another digest than it said`,
  );
}

function fillRange(
  options: FetchOptions,
  settings: RemoteSettings,
  index: HandoffIndex,
  into: Uint8Array,
  start: number,
): Promise<void> {
  let done = 0;
  const end = start + into.length;
  const etag = `"${index.object_digest}"`;
  return persevere(async (progress) => {
    const range = `bytes=${start + done}-${end - 1}`;
    const answer = await ask(urlOf(options, "object"), { range, "if-range": etag }, settings, [206]);
    const said = `bytes ${start + done}-${end - 1}/${index.object_bytes}`;
    if (answer.response.headers.get("content-range") !== said) {
      answer.leave();
      return refuse(
        "checkpoint_digest_mismatch",
        `${options.from.host} answers with another range than ${said}`,
      );
    }
    const slowest = deadline(settings, end - start - done);
    const before = done;
    for await (const bytes of answer.body()) {
      if (done + bytes.length > into.length)
        return refuse("checkpoint_digest_mismatch", `${options.from.host} sends more than was asked for`);
      into.set(bytes, done);
      done += bytes.length;
      if (performance.now() > slowest) throw new PassingFailure(`${options.from.host} is too slow`);
    }
    if (done > before + 64 * 1024) progress();
    if (done < into.length)
      throw new PassingFailure(`${options.from.host} broke off after ${done - before} bytes`);
  }, settings);
}

/** Throws for an address that names more than a host. */
export function peerAddress(text: string): URL {
  const url = URL.parse(text);
  const plain =
    url && /^https?:$/.test(url.protocol) && url.username === "" && url.search === "" && url.hash === "";
  if (!plain)
    throw unexpected("invalid_argument", "peer", "an http address", JSON.stringify(text.slice(0, 120)));
  return url;
}
