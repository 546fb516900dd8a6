/** The input of a grouped stage: an envelope and its payload, checked before any work. */
import { dirname, join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { PsionicError } from "../core/error.ts";
import type { ExactJson } from "../core/json_reader.ts";
import { Refusal, refuse } from "./contract.ts";
import { digestOf, parsed } from "./documents.ts";
import { isBlank } from "./fields.ts";
import type { InvocationManifest } from "./manifest.ts";
import { staysInside } from "./names.ts";
import { fileBytes, jsonOf } from "./run_root.ts";
import { type StagePayload, type StageTransport, stagePayload, stageTransport } from "./stage_documents.ts";

function read(path: string): { readonly bytes: Uint8Array; readonly json: ExactJson } {
  let bytes: Uint8Array;
  try {
    bytes = fileBytes(path);
  } catch (cause) {
    return refuse("artifact_incomplete", cause instanceof Error ? cause.message : String(cause), cause);
  }
  return { bytes, json: typed(() => jsonOf(bytes, path)) };
}

export function typed<T>(act: () => T): T {
  try {
    return act();
  } catch (cause) {
    if (cause instanceof Refusal || !(cause instanceof PsionicError)) throw cause;
    return refuse("artifact_digest_mismatch", cause.message, cause);
  }
}

export function drift(detail: string): never {
  return refuse("artifact_digest_mismatch", detail);
}

/** An envelope that holds together, and the payload beside it, which is the one that it names. */
export type Opened = {
  readonly envelope: StageTransport;
  readonly payloadPath: string;
  readonly payload: ExactJson;
  readonly bytes: { readonly envelope: Uint8Array; readonly payload: Uint8Array };
};

export function openEnvelope(path: string): Opened {
  const sent = read(path);
  const envelope = typed(() => parsed(stageTransport, sent.json, path));
  checkEnvelope(envelope);
  if (!staysInside(envelope.payload_path)) drift("payload_path of the envelope leads out of its folder");
  const payloadPath = join(dirname(path), envelope.payload_path);
  const file = read(payloadPath);
  if (sha256(file.bytes) !== envelope.payload_sha256) drift("the payload is not the one the envelope names");
  if (BigInt(file.bytes.byteLength) !== BigInt(envelope.payload_bytes)) drift("the payload has another size");
  return { envelope, payloadPath, payload: file.json, bytes: { envelope: sent.bytes, payload: file.bytes } };
}

/** Reads and checks what the manifest's binding names. */
export function checkInputTransport(manifest: InvocationManifest): {
  readonly envelope: StageTransport;
  readonly payload: StagePayload;
} {
  const opened = openEnvelope(manifest.grouped_stage_input_transport?.materialized_path ?? "");
  const { envelope, payloadPath } = opened;
  const payload = typed(() => parsed(stagePayload, opened.payload, payloadPath));
  checkPayload(envelope, payload);
  checkAgainst(manifest, envelope);
  return { envelope, payload };
}

function checkEnvelope(envelope: StageTransport): void {
  for (const [key, value] of Object.entries(envelope)) {
    if (key !== "detail" && typeof value === "string" && isBlank(value))
      refuse("grouped_stage_assignment_invalid", `${key} of the envelope is blank`);
  }
  if (envelope.from_stage_id === envelope.to_stage_id)
    refuse("grouped_stage_assignment_invalid", "the envelope comes from the stage that it goes to");
  const rule = stageTransport.digest;
  if (rule && envelope.transport_digest !== digestOf(rule, envelope))
    drift("transport_digest does not fit the envelope");
}

function checkPayload(envelope: StageTransport, payload: StagePayload): void {
  const rule = stagePayload.digest;
  if (rule && payload.payload_digest !== digestOf(rule, payload))
    drift("payload_digest does not fit the payload");
  const same =
    payload.stage_id === envelope.from_stage_id &&
    (["lane_id", "run_id", "window_id", "assignment_id", "replica_id"] as const).every(
      (field) => payload[field] === envelope[field],
    );
  if (!same) drift("payload and envelope are of different work");
}

/** Whether an envelope is of the manifest's work, and comes to its stage from upstream; `back`: from downstream. */
export function checkAgainst(manifest: InvocationManifest, envelope: StageTransport, back = false): void {
  const stage = manifest.grouped_stage_assignment;
  if (envelope.lane_id !== manifest.lane_id)
    drift(`the envelope is of lane ${envelope.lane_id.slice(0, 80)}`);
  const { network_id, window_id, assignment_id } = manifest.coordination;
  const expected = {
    ...{ network_id, run_id: manifest.run_id, window_id, assignment_id },
    ...{
      replica_id: stage?.replica_id,
      to_stage_id: stage?.stage_id,
      from_stage_id: back ? stage?.downstream_stage_id : stage?.upstream_stage_id,
    },
  };
  for (const [field, value] of Object.entries(expected)) {
    if (envelope[field as keyof typeof expected] !== value)
      refuse("stale_assignment", `${field} of the envelope is not that of this assignment`);
  }
}
