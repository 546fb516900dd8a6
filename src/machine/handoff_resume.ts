/** Taking over a checkpoint that a peer handed on: receipt, pointer, manifest and the object's bytes, each as it is named. */
import { copyFileSync, existsSync, renameSync, rmSync } from "node:fs";
import { resolve as absolute, basename, dirname, isAbsolute, join } from "node:path";
import type * as v from "valibot";
import { sha256 } from "../core/digest.ts";
import { PsionicError } from "../core/error.ts";
import { syncFolder } from "../train/durable.ts";
import {
  actualManifest,
  actualPointer,
  checkpointManifest,
  checkpointPointer,
  type HandoffReceipt,
  handoffReceipt,
} from "./checkpoint.ts";
import { Refusal, refuse } from "./contract.ts";
import { type DigestRule, sealed, verified } from "./documents.ts";
import { retainHandoff } from "./handoff.ts";
import { resolvedIndexPath, resolvedObjectPath } from "./handoff_fetch.ts";
import { findObject, handoffIndex, isObjectPath } from "./handoff_index.ts";
import { objectPathOf, pointerPath, resolvedFolder } from "./layout.ts";
import type { Binding } from "./manifest.ts";
import { resolvedKey, staysInside } from "./names.ts";
import { fileBytes, fileRecord, jsonOf, type RunRoot } from "./run_root.ts";
import type { Invocation } from "./surfaces.ts";

/** Brings the handoff that the manifest names over the network, where it names an address; the receipt's path. */
export type Bring = (address: string, invocation: Invocation) => string;

/** Before anything else of a `resume` that names a handoff. */
export function takeOver(invocation: Invocation, bring: Bring): void {
  const { root, manifest } = invocation;
  const binding = manifest.peer_checkpoint_handoff_receipt;
  if (binding === null) return;
  const address = binding.materialized_path ?? "";
  const named = /^https?:\/\//.test(address)
    ? { ...binding, materialized_path: absolute(bring(address, invocation)) }
    : binding;
  const found = resolve(named, "peer_checkpoint_handoff_receipt", root, [root.root]);
  const receipt = strict(() => verified(handoffReceipt, jsonOf(found.bytes, found.path), found.path));
  if (receipt.peer_node_pubkey !== manifest.coordination.node_pubkey)
    refuse("checkpoint_digest_mismatch", "the handoff receipt is made out to another node");
  const bases = [dirname(found.path), sourceRoot(found.path), root.root];
  const pointer = resolve(receipt.source_checkpoint_pointer, "checkpoint_pointer", root, bases);
  const listed = resolve(receipt.source_checkpoint_manifest, "checkpoint_manifest", root, bases);
  const manifestPath = strict(() => checkNamed(receipt, pointer, listed));
  const object = findBytes(root, receipt, bases);
  const target = objectPlace(root, receipt, object);
  keepObject(root, receipt, object.path, target);
  root.writeBytes(manifestPath, listed.bytes);
  root.writeBytes(pointerPath, pointer.bytes);
  retainHandoff(root, localReceipt(receipt, manifestPath));
}

type Found = { readonly path: string; readonly bytes: Uint8Array };

/** `<root>/status/<receipt>` or `<root>/status/peer_checkpoint_handoffs/<receipt>`. */
function sourceRoot(path: string): string {
  const folder = dirname(path);
  return basename(folder) === "peer_checkpoint_handoffs" ? dirname(dirname(folder)) : dirname(folder);
}

const plain = (digest: string | undefined): string | undefined =>
  digest?.toLowerCase().replace(/^sha256:/, "");

/** The first candidate of the promised size and digest: as given, below the bases, beside the receipt, in the cache. */
function resolve(binding: Binding, name: string, root: RunRoot, bases: readonly string[]): Found {
  const { artifact_ref: ref, materialized_path: given } = binding;
  const key = resolvedKey(ref.artifact_id);
  const relative = given !== undefined && !isAbsolute(given) && staysInside(given) ? given : undefined;
  const keyed = (folder: string): string[] => [join(folder, `${key}.json`), join(folder, key)];
  const candidates = [
    ...(given !== undefined && isAbsolute(given) ? [given] : []),
    ...(relative === undefined ? [] : bases.map((base) => join(base, relative))),
    ...keyed(bases[0] ?? root.root),
    ...keyed(root.path(resolvedFolder)),
  ];
  const expected = plain(ref.artifact_digest);
  let mismatch: string | undefined;
  for (const path of candidates.filter((candidate) => existsSync(candidate))) {
    const bytes = readable(path);
    const sized = ref.artifact_bytes === undefined || BigInt(ref.artifact_bytes) === BigInt(bytes.length);
    if (sized && (expected === undefined || sha256(bytes) === expected)) return { path, bytes };
    mismatch ??= path;
  }
  if (mismatch !== undefined)
    return refuse("checkpoint_digest_mismatch", `${name}: ${mismatch} is not what is bound`);
  return refuse(
    "checkpoint_missing",
    `${name}: no local copy of ${ref.artifact_id.slice(0, 160)}; ${resolvedFolder}/${key} is where to put one`,
  );
}

function readable(path: string): Uint8Array {
  try {
    return fileBytes(path);
  } catch (cause) {
    return refuse("checkpoint_missing", cause instanceof Error ? cause.message : String(cause), cause);
  }
}

/** What does not parse or contradicts itself is `checkpoint_digest_mismatch`. */
function strict<T>(act: () => T): T {
  try {
    return act();
  } catch (cause) {
    if (cause instanceof Refusal || !(cause instanceof PsionicError)) throw cause;
    return refuse("checkpoint_digest_mismatch", cause.message, cause);
  }
}

/** Pointer and manifest against the receipt; where the manifest lies below a run root. */
function checkNamed(receipt: HandoffReceipt, pointerFile: Found, manifestFile: Found): string {
  const json = jsonOf(pointerFile.bytes, pointerFile.path) as { readonly schema_version?: unknown };
  const generic = json?.schema_version === checkpointPointer.id;
  const [pointer, manifest] = generic
    ? [read(checkpointPointer, pointerFile), read(checkpointManifest, manifestFile)]
    : [read(actualPointer, pointerFile), read(actualManifest, manifestFile)];
  const path = pointer.checkpoint_manifest_relative_path ?? "";
  const common = {
    ...{ lane_id: receipt.lane_id, run_id: receipt.source_run_id },
    checkpoint_label: receipt.checkpoint_label,
    ...{ optimizer_step: receipt.optimizer_step, checkpoint_ref: receipt.checkpoint_ref },
    ...(generic && { window_id: receipt.window_id, assignment_id: receipt.assignment_id }),
  };
  const object = {
    manifest_digest: receipt.checkpoint_manifest_digest,
    checkpoint_object_digest: receipt.checkpoint_object_digest,
    ...{ checkpoint_total_bytes: receipt.checkpoint_total_bytes, relative_manifest_path: path },
  };
  agree("pointer", pointer, common);
  agree("manifest", manifest, { ...common, ...object });
  for (const doc of [pointer, manifest]) {
    const stage = "grouped_stage_assignment" in doc ? doc.grouped_stage_assignment : undefined;
    if (stage?.assignment_digest !== receipt.grouped_stage_assignment?.assignment_digest)
      refuse("checkpoint_digest_mismatch", "the checkpoint is of another stage than its receipt");
  }
  if (pointer.pointer_state === "pending_first_checkpoint" || !isManifestPath(path))
    refuse("checkpoint_digest_mismatch", "the pointer names no checkpoint manifest below a run root");
  return path;
}

const isManifestPath = (path: string): boolean =>
  staysInside(path) && /^checkpoints\/[A-Za-z0-9._/-]+\.json$/.test(path) && path !== pointerPath;

function read<S extends v.GenericSchema>(
  doc: { readonly schema: S; readonly digest: DigestRule | undefined },
  { bytes, path }: Found,
): v.InferOutput<S> {
  return verified(doc, jsonOf(bytes, path), path);
}

function agree(what: string, found: object, expected: Readonly<Record<string, unknown>>): void {
  for (const [field, value] of Object.entries(expected)) {
    const got = (found as Record<string, unknown>)[field];
    if (String(got) !== String(value))
      refuse("checkpoint_digest_mismatch", `${field} of the checkpoint ${what} is not the receipt's`);
  }
}

type FoundObject = { readonly path: string; readonly base?: string; readonly relative?: string };

/** The object's bytes: in the cache, or below a run root that lies on this machine. */
function findBytes(root: RunRoot, receipt: HandoffReceipt, bases: readonly string[]): FoundObject {
  const { checkpoint_object_digest: digest, checkpoint_total_bytes: total, optimizer_step: step } = receipt;
  const cached = root.path(resolvedObjectPath(digest));
  if (existsSync(cached)) {
    const found = fileRecord(cached);
    if (found.sha256 === digest && BigInt(found.bytes) === BigInt(total)) return { path: cached };
    return refuse("checkpoint_digest_mismatch", `${cached} is not the object that the receipt names`);
  }
  for (const base of bases) {
    const relative = findObject(base, step, digest, total);
    if (relative !== undefined) return { path: join(base, relative), base, relative };
  }
  return refuse(
    "checkpoint_missing",
    `no copy of the checkpoint's ${total} bytes; ${resolvedObjectPath(digest)} is where to put one`,
  );
}

/** A copy, since who lent it may write to it; hashed as it is here. */
function keepObject(root: RunRoot, receipt: HandoffReceipt, from: string, to: string): void {
  if (root.path(to) === from) return;
  const target = root.place(to);
  const aside = `${target}.${process.pid}.part`;
  try {
    copyFileSync(from, aside);
    const found = fileRecord(aside);
    if (found.sha256 !== receipt.checkpoint_object_digest)
      refuse("checkpoint_digest_mismatch", `${from} changed while it was copied`);
    syncFolder(aside);
    renameSync(aside, target);
    syncFolder(dirname(target));
  } catch (cause) {
    rmSync(aside, { force: true });
    if (cause instanceof Refusal) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    refuse("artifact_incomplete", `the checkpoint cannot be kept in ${target}: ${why}`, cause);
  }
}

/** Where the object lies in this run root: as at its source, where that is told, else as lanes keep it. */
function objectPlace(root: RunRoot, receipt: HandoffReceipt, object: FoundObject): string {
  const step = receipt.optimizer_step;
  if (object.relative !== undefined) return object.relative.replace("/backups/", "/");
  const path = resolvedIndexPath(receipt.checkpoint_object_digest);
  const index = strict(() => root.read(handoffIndex, path));
  const told = index?.object_digest === receipt.checkpoint_object_digest ? index.object_path : undefined;
  if (told === undefined) return objectPathOf(step);
  if (!isObjectPath(told, step))
    return refuse("checkpoint_digest_mismatch", `${path} names no place of a checkpoint`);
  return told;
}

/** The receipt with the paths that hold here. */
function localReceipt(receipt: HandoffReceipt, manifestPath: string): HandoffReceipt {
  const at = (binding: Binding, materialized_path: string): Binding => ({ ...binding, materialized_path });
  return sealed(handoffReceipt, {
    ...receipt,
    source_checkpoint_pointer: at(receipt.source_checkpoint_pointer, pointerPath),
    source_checkpoint_manifest: at(receipt.source_checkpoint_manifest, manifestPath),
  });
}
