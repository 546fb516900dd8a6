/** What is measured of this machine before a run, and whether the lane's profile admits it. */
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { freemem, hostname, totalmem } from "node:os";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { batchOf } from "../data/batches.ts";
import { stallMs } from "../data/loader/loader.ts";
import { BatchReader, emptyBatch } from "../data/loader/reader.ts";
import type { Backend } from "../runtime/device.ts";
import { freeBytes, writeWhole } from "./durable.ts";
import { referenceTo } from "./evidence.ts";
import type { RunParts } from "./lanes/lane.ts";
import { hardwareReasons, type Observed, runShapeReasons } from "./observations.ts";
import type { MemoryPlan } from "./plan.ts";
import {
  datasetIdentityOf,
  ownPaths,
  type Run,
  retainedPaths,
  schemaId,
  withDigest,
  write,
} from "./run_root.ts";
import { telemetryOf } from "./telemetry.ts";
import type { Trainer } from "./trainer.ts";
import { WindowOrder } from "./window_order.ts";

export type Admission = {
  readonly state: "admitted" | "refused";
  readonly reasons: readonly string[];
  readonly digest: string;
};

const probeBytes = 4 * 2 ** 20;

/** Bytes per second of a small file, written and synced, then read. */
function storageProbe(root: string): { readonly write: number; readonly read: number } {
  const path = join(root, `.probe.${process.pid}`);
  const data = new Uint8Array(probeBytes).fill(7);
  const handle = openSync(path, "w+");
  try {
    const begun = performance.now();
    writeSync(handle, data, 0, data.length, 0);
    fsyncSync(handle);
    const written = performance.now();
    readSync(handle, data, 0, data.length, 0);
    const done = performance.now();
    const rate = (ms: number): number => Math.round((probeBytes / Math.max(ms, 0.001)) * 1000);
    return { write: rate(written - begun), read: rate(done - written) };
  } finally {
    closeSync(handle);
    rmSync(path, { force: true });
  }
}

function admission(reasons: readonly string[]): "admitted" | "refused" {
  return reasons.length === 0 ? "admitted" : "refused";
}

/** Microbatches that the loader's probe reads at most, and tokens after which it reads no further one. */
const probedBatches = 8;
const probedTokens = 2 ** 20;

/** The first microbatches of the run as it would read them, one a call. */
function microbatches({ settings: s }: Run, { train, feed }: RunParts): Disposable & { next(): Int32Array } {
  if (feed) {
    const reader = new BatchReader(feed.dataset, feed.contract);
    const next = (): Int32Array => {
      const batch = emptyBatch(s.sequences, s.length);
      reader.next(batch);
      return batch.tokens;
    };
    return { next, [Symbol.dispose]: () => reader[Symbol.dispose]() };
  }
  let at = 0;
  const next = (): Int32Array => {
    const order = new WindowOrder(s.seed, train.starts.length);
    return batchOf(train, order.indices(at++ * s.sequences, s.sequences)).tokens;
  };
  return { next, [Symbol.dispose]() {} };
}

/** The first microbatches of the run, each made twice; a stall is one that takes as long as a loader's. */
function loaderProbe(run: Run, parts: RunParts) {
  const { settings: s } = run;
  const most = Math.min(probedBatches, s.max_steps * s.accumulation);
  const batches = Math.min(most, Math.ceil(probedTokens / (s.sequences * s.length)));
  let [stalls, ms, same] = [0, 0, true];
  using once = microbatches(run, parts);
  using again = microbatches(run, parts);
  const read = (from: typeof once): string => {
    const begun = performance.now();
    const tokens = from.next();
    const took = performance.now() - begun;
    ms += took;
    if (took >= stallMs) stalls++;
    return sha256(new Uint8Array(tokens.buffer));
  };
  for (let i = 0; i < batches; i++) {
    if (read(once) !== read(again)) same = false;
  }
  return {
    observed_horizon_steps: Math.floor(batches / s.accumulation),
    observed_horizon_tokens: batches * s.sequences * s.length,
    observed_batches_per_second: Math.round((2000 * batches) / Math.max(ms, 0.001)),
    observed_stall_count: stalls,
    deterministic_replay_observed: same,
  };
}

/** What forward and backward passes took, before the run. */
export type SpeedProbe = {
  readonly passes: number;
  readonly tokensPerSecond: number;
  readonly stepMs: number;
};

const mostPasses = 3;
/** A pass that takes longer is measured once. */
const longPassMs = 1000;

/** Passes of the first windows through the trainer that will run: only gradients change, which each step clears. */
export function probeSpeed(trainer: Trainer, { train }: RunParts): SpeedProbe {
  const { sequences, accumulation } = trainer.config;
  const batch = batchOf(
    train,
    Array.from({ length: sequences }, (_, i) => i % train.starts.length),
  );
  const tokens = batch.tokens.length;
  let [passes, ms] = [0, 0];
  while (passes < mostPasses && ms < longPassMs) {
    const begun = performance.now();
    trainer.accumulate(batch, 1 / (tokens * accumulation));
    ms = performance.now() - begun;
    passes++;
  }
  return { passes, tokensPerSecond: (1000 * tokens) / Math.max(ms, 1e-3), stepMs: ms * accumulation };
}

/**
 * Memory and device against the plan of the run. `restorable`: true where the checkpoint to go on from was read and its
 * digests are right, null where there is none yet.
 */
export function writeHardwareQualification(
  run: Run,
  plan: MemoryPlan,
  backend: Backend,
  restorable: true | null,
): Admission {
  const info = backend.info();
  const { free, total } = backend.memory?.() ?? { free: freemem(), total: totalmem() };
  const name =
    backend.name === "cpu" ? `cpu ${info.isa ?? ""} ${info.threads ?? ""} threads` : `${info.device}`;
  const telemetry = telemetryOf(run.backend ?? "cpu");
  const seen = run.observations?.hardware;
  const reasons = plan.totalBytes > free ? [`${plan.totalBytes} bytes of memory wanted, ${free} free`] : [];
  if (seen) reasons.push(...hardwareReasons(seen.value, backend.name, plan.totalBytes));
  const { selected_git_ref, git_commit_sha, dirty_tree_admission } = run.git;
  const record = withDigest("hardware_qualification", "receipt_digest", {
    schema_version: schemaId("hardware_qualification"),
    qualification_id: `${run.runId}-hardware`,
    lane_id: run.lane.id,
    run_id: run.runId,
    ...{ selected_git_ref, git_commit_sha, dirty_tree_admission },
    observation_kind: seen?.value.observation_kind ?? "local_probe",
    observation_artifact: seen ? keptObservation(run, "hardware", seen) : null,
    topology_storage_bundle: null,
    systems_bundle: null,
    evidence_contract: null,
    required_backend: backend.name,
    required_worker_count: 1,
    required_device_name_substring: "",
    required_min_free_memory_bytes_per_worker: plan.totalBytes,
    required_credential_sources: [],
    required_recovery_event_ids: [],
    observed_at_utc: seen?.value.observed_at_utc ?? new Date().toISOString(),
    observed_workers: seen?.value.workers ?? [
      {
        worker_label: sha256(hostname()).slice(0, 12),
        backend: backend.name,
        device_name: name,
        total_memory_bytes: total,
        free_memory_bytes: free,
        temperature_celsius: telemetry.temperatureCelsius,
        ecc_uncorrected_error_count: telemetry.eccUncorrectedErrors,
        throttling_observed: telemetry.throttling,
        resident_compute_process_count: null,
        mig_partitioned: telemetry.migPartitioned,
        detail: "Memory was measured; what is null was not.",
      },
    ],
    credential_checks: seen?.value.credential_sources ?? [],
    checkpoint_restore_ready: restorable,
    admission_state: admission(reasons),
    refusal_reasons: reasons,
    claim_boundary: run.lane.claimBoundary,
    detail: seen
      ? "What was supplied, and this machine's memory, against the run's own memory plan."
      : "Limits are those of the run's own memory plan.",
    receipt_digest: "",
  });
  write(run, retainedPaths.hardware_qualification_path, record);
  return { state: admission(reasons), reasons, digest: record.receipt_digest };
}

/** A copy of what was supplied, in the run root. */
function keptObservation(
  run: Run,
  name: "hardware" | "run_shape",
  { bytes, sha256: digest }: Observed<unknown>,
) {
  const path = `preflight/${name}_observation.json`;
  writeWhole(join(run.root, path), [bytes]);
  return { path, sha256: digest };
}

/** Disk and loader against the shape of the run. */
export function writeRunShapeQualification(
  run: Run,
  plan: MemoryPlan,
  parts: RunParts,
  speed: SpeedProbe | undefined,
): Admission {
  mkdirSync(run.root, { recursive: true });
  const storage = storageProbe(run.root);
  const available = freeBytes(run.root);
  // two checkpoints exist at a time while the second is being written, a third is the last kept
  const required = 3 * plan.stateBytes;
  const { sequences, accumulation, length, max_steps: steps } = run.settings;
  const loader = loaderProbe(run, parts);
  const { mostLoaderStalls } = run.lane.limits;
  const reasons = available < required ? [`${required} bytes of disk wanted, ${available} free`] : [];
  if (!loader.deterministic_replay_observed)
    reasons.push("the loader gave two different batches for one step");
  if (loader.observed_stall_count > mostLoaderStalls)
    reasons.push(`the loader stalled ${loader.observed_stall_count} times, ${mostLoaderStalls} allowed`);
  const seen = run.observations?.runShape;
  const wanted = { dataset: datasetIdentityOf(run), length, bytes: required, stalls: mostLoaderStalls };
  if (seen) reasons.push(...runShapeReasons(seen.value, wanted));
  const tokensPerStep = sequences * accumulation * length;
  const { selected_git_ref, git_commit_sha, dirty_tree_admission } = run.git;
  const record = withDigest("run_shape_qualification", "receipt_digest", {
    schema_version: schemaId("run_shape_qualification"),
    qualification_id: `${run.runId}-run-shape`,
    lane_id: run.lane.id,
    run_id: run.runId,
    ...{ selected_git_ref, git_commit_sha, dirty_tree_admission },
    observation_kind: seen?.value.observation_kind ?? "local_probe",
    observation_artifact: seen ? keptObservation(run, "run_shape", seen) : null,
    ...{ baseline_tools_bundle: null, data_bundle: referenceTo(run.root, ownPaths.dataset) },
    ...{ systems_bundle: null, evidence_contract: null },
    required_dataset_identity: datasetIdentityOf(run),
    required_horizon_steps: steps,
    required_tokens_per_step: tokensPerStep,
    required_max_sequence_tokens: length,
    min_healthy_tokens_per_second: null,
    max_healthy_step_latency_ms: null,
    min_checkpoint_write_throughput_bytes_per_second: null,
    min_storage_available_bytes: required,
    max_dataloader_stall_count: mostLoaderStalls,
    observed_at_utc: seen?.value.observed_at_utc ?? new Date().toISOString(),
    observed_run_root: seen?.value.observed_run_root ?? ".",
    throughput_probe: seen?.value.throughput_probe ?? {
      source_receipt_id: null,
      source_receipt_digest: null,
      observed_tokens_per_second: speed ? Math.round(speed.tokensPerSecond) : null,
      observed_step_latency_ms: speed ? Math.ceil(speed.stepMs) : null,
      observed_checkpoint_write_throughput_bytes_per_second: storage.write,
      detail: speed
        ? `The last of ${speed.passes} forward and backward passes of a microbatch, times the microbatches of a step; the optimiser is not part of it.`
        : "No step was measured: the plan does not fit this machine's memory.",
    },
    storage_probe: seen?.value.storage_probe ?? {
      storage_path: ".",
      available_bytes: available,
      observed_read_bytes_per_second: storage.read,
      observed_write_bytes_per_second: storage.write,
      writable: true,
      detail: "4 MiB written and synced, then read.",
    },
    dataloader_probe: seen?.value.dataloader_probe ?? {
      dataset_identity: datasetIdentityOf(run),
      max_sequence_tokens: length,
      planned_optimizer_steps: steps,
      planned_tokens_per_step: tokensPerStep,
      ...loader,
      detail: `Of the first ${probedBatches} microbatches at most, each made twice; a stall takes ${stallMs} ms. They repeat in a new order each epoch.`,
    },
    admission_state: admission(reasons),
    refusal_reasons: reasons,
    claim_boundary: run.lane.claimBoundary,
    detail: seen ? "What was supplied, and this machine's disk and loader." : "Measured on this machine.",
    receipt_digest: "",
  });
  write(run, retainedPaths.run_shape_qualification_path, record);
  return { state: admission(reasons), reasons, digest: record.receipt_digest };
}
