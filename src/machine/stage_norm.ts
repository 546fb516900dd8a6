/**
 * The norm that a profile limits is of all stages' gradients. Each stage sends the sum of squares of its own upstream with its
 * gradient; the first one has them all, adds them in the stages' order, and hands them back down, so that all stages limit alike.
 */
import { refuse } from "./contract.ts";
import { type Content, document, sealed, verified } from "./documents.ts";
import { count, digest, filled, listOf, str } from "./fields.ts";
import { givenPayloadKind } from "./stage_files.ts";
import { awaited, givenPath, identityOf, post, type StageWork } from "./stage_post.ts";
import { checkAgainst, openEnvelope, typed } from "./stage_transport.ts";

export const stageNorm = document(
  "psionic.train.grouped_replica_stage_norm.v1",
  {
    lane_id: filled,
    run_id: filled,
    window_id: filled,
    assignment_id: filled,
    replica_id: filled,
    /** Who hands it on. */
    stage_id: filled,
    node_pubkey: filled,
    step: count,
    /** Of the gradients of every stage, in their order: 64-bit floats as text. */
    square_sums: listOf(str),
    lane_profile_digest: digest,
    detail: str,
    norm_digest: str,
  },
  { field: "norm_digest", prefix: "psionic_train_grouped_stage_norm|" },
);
export type StageNorm = Content<typeof stageNorm>;

/** Sums of all stages, where `known` are those of this one and the later ones. */
export function agreed(work: StageWork, step: number, known: readonly number[]): readonly number[] {
  const { stage } = work;
  if (stage.stage_index + known.length !== stage.stage_count)
    refuse(
      "artifact_digest_mismatch",
      `gradient of step ${step}: sums of squares of ${known.length} stages, not ${stage.stage_count - stage.stage_index}`,
    );
  const all = stage.upstream_stage_id === null ? known : received(work, step, known);
  if (stage.downstream_stage_id !== null) {
    const norm = sealed(stageNorm, {
      ...identityOf(work),
      ...{ stage_id: stage.stage_id, node_pubkey: work.work.node, step },
      ...{ square_sums: all.map(String), lane_profile_digest: work.profileDigest },
      detail: `norm of step ${step}.`,
    });
    post(work, "norm", step, norm, []);
  }
  return all;
}

/** Waits for the sums of this step's gradients and keeps a copy. */
function received(work: StageWork, step: number, known: readonly number[]): readonly number[] {
  return awaited(work, "norm", step, (path) => {
    const found = openEnvelope(path);
    checkAgainst(work.manifest, found.envelope);
    const doc = typed(() => verified(stageNorm, found.payload, found.payloadPath));
    const drift = (what: string): never =>
      refuse("artifact_digest_mismatch", `norm of step ${step}: ${what}`);
    for (const field of ["lane_id", "run_id", "window_id", "assignment_id", "replica_id"] as const) {
      if (doc[field] !== found.envelope[field]) drift(`${field} is not the envelope's`);
    }
    if (doc.stage_id !== found.envelope.from_stage_id) drift("another stage made it");
    if (doc.step !== step) drift(`it is of step ${doc.step}`);
    if (doc.square_sums.length !== work.stage.stage_count) drift(`sums of ${doc.square_sums.length} stages`);
    if (doc.lane_profile_digest !== work.profileDigest)
      refuse("stale_assignment", `norm of step ${step} is of another lane profile`);
    if (doc.square_sums.slice(work.stage.stage_index).join() !== known.map(String).join())
      return "what lies there belongs to other gradients";
    work.root.writeBytes(givenPath(work, givenPayloadKind("norm", step), "json"), found.bytes.payload);
    return doc.square_sums.map(Number);
  });
}
