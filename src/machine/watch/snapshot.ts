/** How a run stands, read from its run root without taking it; files are replaced whole, so any moment will do. */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type * as v from "valibot";
import { PsionicError, unexpected } from "../../core/error.ts";
import { type DigestRule, verified } from "../documents.ts";
import { executionEvidence } from "../evidence.ts";
import { evidencePath, membershipPath, runPacketPath, surfacePath, windowPacketPath } from "../layout.ts";
import { livenessAt, membershipReceipt } from "../membership.ts";
import { runStatusPacket, windowStatusPacket } from "../packets.ts";
import { fileBytes, jsonOf } from "../run_root.ts";
import { stepOfFile } from "../stage_files.ts";
import { checkpointSurface } from "../surface.ts";
import { qualityDriftSignal, rollbackSignal, scoreReceipt } from "../validation.ts";
import { sealedWindowBundle } from "../window.ts";

type Readable<S extends v.GenericSchema> = { readonly schema: S; readonly digest: DigestRule | undefined };

export type Verdict = {
  readonly challenge: string;
  readonly disposition: string;
  readonly score_bps: number;
  readonly validation_index: number | bigint;
  readonly drift_state: string | null;
  readonly rollback_posture: string | null;
};

export type WatchedWindow = {
  readonly window_id: string;
  readonly contributions: readonly {
    readonly assignment_id: string;
    readonly node_pubkey: string;
    readonly outcome: string;
    readonly stage: string | null;
  }[];
  /** Last step that a grouped stage passed on; null where none did. */
  readonly passed_step: number | null;
  readonly verdicts: readonly Verdict[];
};

export type Snapshot = {
  readonly run_root: string;
  readonly read_at_ms: number;
  readonly run: {
    readonly run_id: string | null;
    readonly lane_id: string;
    readonly role: string;
    readonly operation: string;
    readonly work_class: string;
    readonly outcome: string;
    readonly refusal_class: string | null;
    readonly phase: string | null;
    readonly window_state: string | null;
    readonly backend: string;
    readonly detail: string;
  } | null;
  readonly membership: {
    readonly node_pubkey: string;
    readonly revision: number;
    readonly transition: string;
    readonly worker_state: string;
    readonly liveness: string;
    readonly last_heartbeat_at_ms: number;
    readonly lease_expires_at_ms: number;
  } | null;
  readonly checkpoint: {
    readonly label: string | null;
    readonly step: number | bigint | null;
    readonly pointer_state: string | null;
    readonly object_digest: string | null;
  } | null;
  readonly losses: readonly { readonly step: number; readonly loss: string }[];
  readonly windows: readonly WatchedWindow[];
  /** Files that do not parse, or whose digest does not hold. */
  readonly unreadable: readonly string[];
};

/** Throws `file_not_found` where there is no such folder, `file_malformed` where it is none. */
export function snapshotOf(root: string, now = Date.now()): Snapshot {
  const place = statSync(root, { throwIfNoEntry: false });
  if (!place) throw unexpected("file_not_found", root, "a run root", "nothing");
  if (!place.isDirectory()) throw unexpected("file_malformed", root, "a run root", "no folder");
  const unreadable: string[] = [];
  const read = <S extends v.GenericSchema>(doc: Readable<S>, path: string): v.InferOutput<S> | undefined => {
    if (!existsSync(join(root, path))) return undefined;
    try {
      return verified(doc, jsonOf(fileBytes(join(root, path)), path), path);
    } catch (cause) {
      if (!(cause instanceof PsionicError)) throw cause;
      unreadable.push(path);
      return undefined;
    }
  };
  const packet = read(runStatusPacket, runPacketPath);
  const window = read(windowStatusPacket, windowPacketPath);
  const member = read(membershipReceipt, membershipPath);
  const surface = read(checkpointSurface, surfacePath);
  const evidence = read(executionEvidence, evidencePath);
  const windows = namesIn(join(root, "windows")).map((id) => windowOf(root, id, read));
  return {
    ...{ run_root: root, read_at_ms: now },
    run: packet
      ? {
          ...{
            run_id: packet.run_id,
            lane_id: packet.lane_id,
            role: packet.role,
            operation: packet.operation,
          },
          ...{ work_class: packet.work_class, outcome: packet.outcome, refusal_class: packet.refusal_class },
          ...{ phase: packet.phase, window_state: window?.window_state ?? null },
          backend: packet.capability_projection.backend_family,
          detail: packet.detail,
        }
      : null,
    membership: member
      ? {
          ...{ node_pubkey: member.node_pubkey, revision: member.local_membership_revision },
          ...{ transition: member.transition, worker_state: member.worker_state },
          liveness: livenessAt(member.last_heartbeat_at_ms, now),
          last_heartbeat_at_ms: member.last_heartbeat_at_ms,
          lease_expires_at_ms: member.lease_expires_at_ms,
        }
      : null,
    checkpoint: surface
      ? {
          ...{ label: surface.checkpoint_label, step: surface.optimizer_step },
          ...{ pointer_state: surface.pointer_state, object_digest: surface.checkpoint_object_digest },
        }
      : null,
    losses: evidence?.steps.map(({ step, loss }) => ({ step, loss })) ?? [],
    windows,
    unreadable,
  };
}

function namesIn(folder: string): readonly string[] {
  return existsSync(folder) ? readdirSync(folder).sort() : [];
}

type Read = <S extends v.GenericSchema>(doc: Readable<S>, path: string) => v.InferOutput<S> | undefined;

function windowOf(root: string, id: string, read: Read): WatchedWindow {
  const folder = `windows/${id}`;
  const bundle = read(sealedWindowBundle, `${folder}/sealed_window_bundle.json`);
  const steps = namesIn(join(root, folder, "contributions")).flatMap((contribution) =>
    namesIn(join(root, folder, "contributions", contribution)).flatMap((name) => stepOfFile(name) ?? []),
  );
  return {
    window_id: id,
    contributions: (bundle?.contributions ?? []).map((c) => ({
      ...{ assignment_id: c.assignment_id, node_pubkey: c.node_pubkey, outcome: c.outcome },
      stage: c.grouped_stage_assignment?.stage_id ?? null,
    })),
    passed_step: steps.length > 0 ? steps.reduce((a, b) => Math.max(a, b)) : null,
    verdicts: namesIn(join(root, folder, "validators")).flatMap((challenge) => {
      const at = `${folder}/validators/${challenge}/validator_`;
      const score = read(scoreReceipt, `${at}score_receipt.json`);
      if (!score) return [];
      const drift = read(qualityDriftSignal, `${at}quality_drift_signal.json`);
      const rollback = read(rollbackSignal, `${at}rollback_signal.json`);
      return [
        {
          challenge: score.challenge_id,
          ...{ disposition: score.disposition, score_bps: score.score_bps },
          validation_index: score.validation_index,
          drift_state: drift?.drift_state ?? null,
          rollback_posture: rollback?.rollback_posture ?? null,
        },
      ];
    }),
  };
}
