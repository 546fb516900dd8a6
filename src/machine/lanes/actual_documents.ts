/** Documents of the actual lane that only it writes. */
import { dirtyTreeAdmissions } from "../contract.ts";
import { document } from "../documents.ts";
import { filled, listOf, oneOf, orNull, str } from "../fields.ts";

export const drill = document(
  "psion.actual_pretraining_checkpoint_failure_drill.v1",
  {
    ...{ lane_id: filled, run_id: filled, drill_id: filled },
    drill_kind: oneOf(["failed_upload", "corrupt_pointer", "stale_pointer"]),
    trigger_surface: oneOf(["backup", "resume"]),
    selected_git_ref: filled,
    git_commit_sha: str,
    dirty_tree_admission: oneOf(dirtyTreeAdmissions),
    workspace_status_sha256: orNull(str),
    outcome: oneOf(["recovered_without_manual_edit", "retained_refusal"]),
    evidence_paths: listOf(str),
    refusal_reason: orNull(str),
    claim_boundary: str,
    detail: str,
    receipt_digest: str,
  },
  { field: "receipt_digest", prefix: "psion_actual_pretraining_checkpoint_failure_drill|" },
);
