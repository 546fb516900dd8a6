/** Documents of the actual lane that only it reads and writes. */
import { type Content, document } from "../documents.ts";
import { count, digest, filled, oneOf, orNull, str } from "../fields.ts";

/** What a checkpoint came to when its state was run on text; losses are nats a token, 32-bit floats as text. */
export const evalDecision = document(
  "psion.actual_pretraining_checkpoint_eval_decision.v1",
  {
    ...{ lane_id: filled, run_id: filled, checkpoint_label: str, optimizer_step: count },
    ...{ checkpoint_ref: filled, checkpoint_object_digest: digest, lane_profile_digest: digest },
    /** On text that no step reads; null where the profile trains on all there is. */
    validation_loss: orNull(str),
    /** On text that the steps read, where nothing else is there. */
    trained_text_loss: orNull(str),
    evaluated_tokens: count,
    /** Of a guess that gives every token the same chance. */
    uniform_loss: str,
    /** Of the last window that was trained in the run root. */
    ...{ first_loss: str, last_loss: str },
    decision_state: oneOf(["continue", "hold_and_review"]),
    decision_reason: str,
    decision_digest: str,
  },
  { field: "decision_digest", prefix: "psion_actual_pretraining_checkpoint_eval_decision|" },
);
export type EvalDecision = Content<typeof evalDecision>;
