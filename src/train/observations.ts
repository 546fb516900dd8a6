/** What an operator has observed of machine and run shape before a launch, given as files, and what speaks against it. */
import { readFileSync } from "node:fs";
import * as v from "valibot";
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import { fileError } from "../models/files/bytes.ts";
import { isObject, type Json, parseJson } from "../models/files/strict_json.ts";
import { schemaId, withDigest } from "./run_root.ts";

const count = v.pipe(v.number(), v.minValue(0));
const head = {
  ...{ observation_id: v.string(), lane_id: v.string(), observation_kind: v.string() },
  ...{ observed_at_utc: v.string(), summary: v.string(), observation_digest: v.string() },
};

const hardwareShape = v.looseObject({
  ...head,
  backend: v.string(),
  workers: v.pipe(
    v.array(
      v.looseObject({
        ...{ worker_label: v.string(), backend: v.string(), device_name: v.string() },
        ...{ total_memory_bytes: count, free_memory_bytes: count },
        temperature_celsius: v.nullish(count),
        ecc_uncorrected_error_count: v.nullish(count),
        throttling_observed: v.nullish(v.boolean()),
        resident_compute_process_count: v.nullish(count),
        mig_partitioned: v.boolean(),
      }),
    ),
    v.minLength(1),
  ),
  credential_sources: v.array(
    v.looseObject({ source_name: v.string(), kind: v.string(), present: v.boolean() }),
  ),
  checkpoint_restore_ready: v.boolean(),
});

const runShapeShape = v.looseObject({
  ...head,
  observed_run_root: v.string(),
  throughput_probe: v.looseObject({
    ...{ observed_tokens_per_second: count, observed_step_latency_ms: count },
    observed_checkpoint_write_throughput_bytes_per_second: count,
  }),
  storage_probe: v.looseObject({ available_bytes: count, writable: v.boolean() }),
  dataloader_probe: v.looseObject({
    ...{ dataset_identity: v.string(), max_sequence_tokens: count, observed_stall_count: count },
    ...{ observed_horizon_steps: count, deterministic_replay_observed: v.boolean() },
  }),
});

export type HardwareObservation = v.InferOutput<typeof hardwareShape>;
export type RunShapeObservation = v.InferOutput<typeof runShapeShape>;

/** An observation with the bytes that it was read from. */
export type Observed<T> = { readonly value: T; readonly bytes: Uint8Array; readonly sha256: string };
export type Observations = {
  readonly hardware?: Observed<HardwareObservation>;
  readonly runShape?: Observed<RunShapeObservation>;
};

/** Reads the files that were named; throws where one is none, is of another lane, or was changed after it was sealed. */
export function readObservations(
  laneId: string,
  hardware: string | undefined,
  runShape: string | undefined,
): Observations {
  return {
    ...(hardware !== undefined && {
      hardware: read(hardware, "hardware_observation", hardwareShape, laneId),
    }),
    ...(runShape !== undefined && {
      runShape: read(runShape, "run_shape_observation", runShapeShape, laneId),
    }),
  };
}

function read<S extends typeof hardwareShape | typeof runShapeShape>(
  path: string,
  name: "hardware_observation" | "run_shape_observation",
  shape: S,
  laneId: string,
): Observed<v.InferOutput<S>> {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw fileError(path, cause);
  }
  const raw = parseJson(new TextDecoder().decode(bytes), path);
  const found = v.safeParse(shape, raw);
  const named = isObject(raw) ? raw.schema_version : undefined;
  if (!found.success || named !== schemaId(name)) {
    const issue = found.success ? `schema_version ${named}` : v.flatten(found.issues as never);
    throw unexpected("file_malformed", path, `a ${schemaId(name)}`, JSON.stringify(issue).slice(0, 300));
  }
  if (found.output.lane_id !== laneId)
    throw unexpected("invalid_request", path, `an observation of ${laneId}`, found.output.lane_id);
  // how the other one's digest is made is nowhere said
  const sealed = raw as { readonly [key: string]: Json } & { observation_digest: string };
  if (
    name === "run_shape_observation" &&
    withDigest(name, "observation_digest", sealed).observation_digest !== sealed.observation_digest
  )
    throw unexpected(
      "digest_mismatch",
      path,
      "an observation with the digest of its fields",
      "another digest",
    );
  return { value: found.output, bytes, sha256: sha256(bytes) };
}

/** Hotter than this a machine is not admitted. */
const mostCelsius = 79;

/** Why the observed workers are not admitted; what was not observed speaks against them. */
export function hardwareReasons(o: HardwareObservation, backend: string, freeBytes: number): string[] {
  return o.workers.flatMap((w) => {
    const found: string[] = [];
    if (w.backend !== backend) found.push(`has backend ${w.backend}, not ${backend}`);
    if (w.free_memory_bytes < freeBytes)
      found.push(`has ${w.free_memory_bytes} bytes of memory free, ${freeBytes} wanted`);
    if (w.temperature_celsius == null) found.push("was not asked for its temperature");
    else if (w.temperature_celsius > mostCelsius) found.push(`is ${w.temperature_celsius} °C hot`);
    if (w.ecc_uncorrected_error_count !== 0)
      found.push("has uncorrected errors of memory, or did not count them");
    if (w.throttling_observed !== false) found.push("is slowed down, or was not asked whether it is");
    if (w.resident_compute_process_count !== 0) found.push("has other processes, or did not count them");
    if (w.mig_partitioned) found.push("is partitioned");
    return found.map((reason) => `worker ${w.worker_label} ${reason}`);
  });
}

/** 2^63 and more stand for a time that nobody took. */
const mostLatencyMs = 2 ** 63;

export function runShapeReasons(
  o: RunShapeObservation,
  wanted: {
    readonly dataset: string;
    readonly length: number;
    readonly bytes: number;
    readonly stalls: number;
  },
): string[] {
  const { throughput_probe: t, storage_probe: s, dataloader_probe: d } = o;
  const found: string[] = [];
  if (!(t.observed_tokens_per_second > 0 && t.observed_step_latency_ms < mostLatencyMs))
    found.push("no throughput was observed");
  if (!s.writable || s.available_bytes < wanted.bytes)
    found.push(`${wanted.bytes} bytes of disk wanted, ${s.available_bytes} observed`);
  if (d.dataset_identity !== wanted.dataset)
    found.push(`the loader was observed on ${d.dataset_identity}, not ${wanted.dataset}`);
  if (d.max_sequence_tokens < wanted.length)
    found.push(`sequences of ${d.max_sequence_tokens} were observed, ${wanted.length} wanted`);
  if (d.observed_stall_count > wanted.stalls)
    found.push(`the loader stalled ${d.observed_stall_count} times, ${wanted.stalls} allowed`);
  if (!d.deterministic_replay_observed) found.push("the loader was not seen to give the same batches again");
  return found;
}
