/** What a supervisor observed of the machine before a launch of the actual lane. */
import { sha256 } from "../../core/digest.ts";
import { PsionicError } from "../../core/error.ts";
import { refuse } from "../contract.ts";
import { type AnyDocument, document, verified } from "../documents.ts";
import { bool, filled, listOf, orNull, record, str, u64 } from "../fields.ts";
import type { InvocationManifest } from "../manifest.ts";
import { fileBytes, jsonOf } from "../run_root.ts";
import type { Invocation } from "../surfaces.ts";

const head = { observation_id: filled, lane_id: filled, observation_kind: filled, observed_at_utc: filled };

/** How its digest is made is nowhere said, so that is read and kept, not recomputed. */
export const hardwareObservation = document("psion.actual_pretraining_hardware_observation.v1", {
  ...head,
  backend: filled,
  workers: listOf(
    record({
      ...{ worker_label: filled, backend: filled, device_name: filled },
      ...{ total_memory_bytes: u64, free_memory_bytes: u64, temperature_celsius: orNull(u64) },
      ecc_uncorrected_error_count: orNull(u64),
      throttling_observed: orNull(bool),
      resident_compute_process_count: orNull(u64),
      ...{ mig_partitioned: bool, detail: str },
    }),
  ),
  credential_sources: listOf(
    record({
      ...{ source_name: filled, kind: filled, present: bool },
      ...{ redacted_digest: orNull(str), detail: str },
    }),
  ),
  ...{ checkpoint_restore_ready: bool, summary: str, observation_digest: filled },
});

export const runShapeObservation = document(
  "psion.actual_pretraining_run_shape_observation.v1",
  {
    ...head,
    observed_run_root: str,
    throughput_probe: record({
      ...{ source_receipt_id: str, source_receipt_digest: str },
      ...{ observed_tokens_per_second: u64, observed_step_latency_ms: u64 },
      ...{ observed_checkpoint_write_throughput_bytes_per_second: u64, detail: str },
    }),
    storage_probe: record({
      ...{ storage_path: str, available_bytes: u64, observed_read_bytes_per_second: u64 },
      ...{ observed_write_bytes_per_second: u64, writable: bool, detail: str },
    }),
    dataloader_probe: record({
      ...{ dataset_identity: filled, max_sequence_tokens: u64, planned_optimizer_steps: u64 },
      ...{ planned_tokens_per_step: u64, observed_horizon_steps: u64, observed_horizon_tokens: u64 },
      ...{ observed_batches_per_second: u64, observed_stall_count: u64 },
      ...{ deterministic_replay_observed: bool, detail: str },
    }),
    ...{ summary: str, observation_digest: str },
  },
  { field: "observation_digest", prefix: "psion_actual_pretraining_run_shape_observation|" },
);

const read = {
  hardware_observation_path: hardwareObservation,
  run_shape_observation_path: runShapeObservation,
} as const satisfies Partial<Record<keyof InvocationManifest, AnyDocument>>;

/** SHA-256 of each observation's file; `bad_config` for one that is not there, does not parse or is of another lane. */
export function observedDigests({ manifest, lane }: Pick<Invocation, "manifest" | "lane">) {
  const of = (field: keyof typeof read): string | null => {
    const path = manifest[field];
    if (path === null) return null;
    try {
      const bytes = fileBytes(path);
      const { lane_id } = verified<(typeof read)[typeof field]["schema"]>(
        read[field],
        jsonOf(bytes, path),
        path,
      );
      if (lane_id === lane.id) return sha256(bytes);
      return refuse(
        "bad_config",
        `${field}: the observation is of lane ${lane_id.slice(0, 60)}, not ${lane.id}`,
      );
    } catch (cause) {
      if (!(cause instanceof PsionicError) || cause.name === "Refusal") throw cause;
      return refuse("bad_config", `${field}: ${cause.message}`, cause);
    }
  };
  return {
    hardware_observation_sha256: of("hardware_observation_path"),
    run_shape_observation_sha256: of("run_shape_observation_path"),
  };
}
