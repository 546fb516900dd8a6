/** Observations of an operator: read by their schema, judged, kept in the run root. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { GitState } from "./git_state.ts";
import { referencePilot } from "./lanes/reference_pilot.ts";
import { readObservations } from "./observations.ts";
import { type RunOptions, startRun } from "./run.ts";
import { type Run, retainedPaths, schemaId, withDigest } from "./run_root.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "psionic-observed-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const git: GitState = {
  ...{ selected_git_ref: "refs/heads/main", git_commit_sha: "0".repeat(40) },
  ...{ dirty_tree_admission: "refuse_by_default", workspace_status_sha256: null },
};
const dry: RunOptions = { threads: 1, dryRun: true, watcher: {}, stopping: () => false };
const head = {
  ...{ observation_id: "seen", lane_id: referencePilot.id, observation_kind: "operator_supplied" },
  observed_at_utc: "2026-04-02T15:00:00Z",
};
const worker = {
  ...{ worker_label: "one", backend: "cpu", device_name: "a processor" },
  ...{ total_memory_bytes: 2 ** 36, free_memory_bytes: 2 ** 35, temperature_celsius: 41 },
  ...{ ecc_uncorrected_error_count: 0, throttling_observed: false, resident_compute_process_count: 0 },
  ...{ mig_partitioned: false, detail: "" },
};
const hardware = (changed: object = {}) => ({
  schema_version: schemaId("hardware_observation"),
  ...head,
  backend: "cpu",
  workers: [{ ...worker, ...changed }],
  credential_sources: [],
  ...{ checkpoint_restore_ready: true, summary: "", observation_digest: "0" },
});
const runShape = (changed: object = {}) =>
  withDigest("run_shape_observation", "observation_digest", {
    schema_version: schemaId("run_shape_observation"),
    ...head,
    observed_run_root: "elsewhere",
    throughput_probe: {
      ...{ source_receipt_id: "a", source_receipt_digest: "b", observed_tokens_per_second: 900 },
      ...{
        observed_step_latency_ms: 12,
        observed_checkpoint_write_throughput_bytes_per_second: 5,
        detail: "",
      },
      ...changed,
    },
    storage_probe: { storage_path: ".", available_bytes: 2 ** 40, writable: true, detail: "" },
    dataloader_probe: {
      ...{
        dataset_identity: referencePilot.datasetIdentity,
        max_sequence_tokens: 32,
        observed_stall_count: 0,
      },
      ...{ observed_horizon_steps: 1, deterministic_replay_observed: true, detail: "" },
    },
    ...{ summary: "", observation_digest: "" },
  });

let made = 0;
const file = (value: unknown): string => {
  const path = join(folder, `observation${made++}.json`);
  writeFileSync(path, JSON.stringify(value));
  return path;
};

async function planned(h: unknown, r: unknown) {
  const observations = readObservations(referencePilot.id, file(h), file(r));
  const settings = { ...referencePilot.defaults, model: "tiny", sequences: 2 };
  const root = join(folder, `run${made++}`);
  const run: Run = { root, runId: "seen", lane: referencePilot, git, settings, observations };
  await startRun(run, dry);
  const json = (path: string) => JSON.parse(readFileSync(join(root, path), "utf8"));
  return [
    json(retainedPaths.hardware_qualification_path),
    json(retainedPaths.run_shape_qualification_path),
    root,
  ];
}

test("what was supplied stands in the receipts, and its bytes in the run root", async () => {
  const [seen, shape, root] = await planned(hardware(), runShape());
  expect(seen).toMatchObject({
    ...{ observation_kind: "operator_supplied", admission_state: "admitted", observed_workers: [worker] },
    observation_artifact: { path: "preflight/hardware_observation.json" },
  });
  expect(shape).toMatchObject({
    ...{ admission_state: "admitted", observed_run_root: "elsewhere", refusal_reasons: [] },
    throughput_probe: { observed_tokens_per_second: 900 },
  });
  expect(JSON.parse(readFileSync(join(root, shape.observation_artifact.path), "utf8"))).toEqual(runShape());
}, 20_000);

test("what was observed or left out refuses the machine, by name", async () => {
  const ill = { temperature_celsius: null, ecc_uncorrected_error_count: 2, free_memory_bytes: 1 };
  const [seen, shape] = await planned(hardware(ill), runShape({ observed_tokens_per_second: 0 }));
  expect(seen.admission_state).toBe("refused");
  expect(seen.refusal_reasons).toEqual([
    expect.stringMatching(/^worker one has 1 bytes of memory free, \d+ wanted$/),
    "worker one was not asked for its temperature",
    "worker one has uncorrected errors of memory, or did not count them",
  ]);
  expect(shape.refusal_reasons).toEqual(["no throughput was observed"]);
}, 20_000);

test("files that are none, of another lane, or changed", () => {
  const { id } = referencePilot;
  const wrong = (h: unknown, r: unknown) => () =>
    readObservations(id, h === undefined ? undefined : file(h), r === undefined ? undefined : file(r));
  expect(wrong({}, undefined)).toThrow(/expected a psion.actual_pretraining_hardware_observation.v1/);
  expect(wrong({ ...hardware(), workers: [] }, undefined)).toThrow(/workers/);
  expect(wrong(runShape(), undefined)).toThrow("hardware_observation");
  expect(wrong({ ...hardware(), lane_id: "another" }, undefined)).toThrow(
    /expected an observation of .* got another/,
  );
  expect(wrong(undefined, { ...runShape(), summary: "changed" })).toThrow("digest of its fields");
  expect(() => readObservations(id, join(folder, "none"), undefined)).toThrow(/none/);
});
