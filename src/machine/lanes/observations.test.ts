import { expect, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { orderedJson } from "../../core/json.ts";
import { actualLane, appleLane } from "../contract.ts";
import { sealed } from "../documents.ts";
import { LaneScene } from "../testing/lane_scene.ts";
import { hardwareObservation, runShapeObservation } from "./observations.ts";

const head = {
  ...{ observation_id: "seen-1", lane_id: actualLane.id, observation_kind: "operator_supplied" },
  observed_at_utc: "2026-04-02T15:00:00Z",
};
const hardware = sealed(hardwareObservation, {
  ...head,
  backend: "cuda",
  workers: [
    {
      ...{ worker_label: "worker-1", backend: "cuda", device_name: "NVIDIA H100" },
      ...{ total_memory_bytes: 85_899_345_920, free_memory_bytes: 63_350_767_616, temperature_celsius: 41 },
      ...{ ecc_uncorrected_error_count: 0, throttling_observed: false, resident_compute_process_count: 0 },
      // words that no rule may go by
      ...{ mig_partitioned: false, detail: '"state": "refused"' },
    },
  ],
  credential_sources: [],
  ...{ checkpoint_restore_ready: true, summary: "One worker.", observation_digest: "0".repeat(64) },
});
const runShape = sealed(runShapeObservation, {
  ...head,
  observed_run_root: "run",
  throughput_probe: {
    ...{ source_receipt_id: "probe", source_receipt_digest: "0", observed_tokens_per_second: 0 },
    observed_step_latency_ms: 2n ** 64n - 1n,
    ...{ observed_checkpoint_write_throughput_bytes_per_second: 1, detail: "" },
  },
  storage_probe: {
    ...{ storage_path: ".", available_bytes: 1, observed_read_bytes_per_second: 1 },
    ...{ observed_write_bytes_per_second: 1, writable: true, detail: "" },
  },
  dataloader_probe: {
    ...{ dataset_identity: "psion_corpus_tokenized@v1", max_sequence_tokens: 8192 },
    ...{ planned_optimizer_steps: 1, planned_tokens_per_step: 1, observed_horizon_steps: 1 },
    ...{ observed_horizon_tokens: 1, observed_batches_per_second: 1, observed_stall_count: 0 },
    ...{ deterministic_replay_observed: true, detail: "" },
  },
  summary: "A probe.",
});

test("observations are read by their schema; a launch keeps their digests", () => {
  using scene = new LaneScene(actualLane);
  const write = (name: string, text: string): string => {
    writeFileSync(join(scene.folder, name), text);
    return join(scene.folder, name);
  };
  const good = [hardware, runShape].map((value) => orderedJson(value, 2)) as [string, string];
  const start = ([a, b]: readonly [string, string]) =>
    scene.do("start", {
      hardware_observation_path: write("hardware.json", a),
      run_shape_observation_path: write("run_shape.json", b),
      dry_run: true,
    });
  expect(start(good).detail).toContain("Planned");
  expect(scene.read("manifests/launch_manifest.json")).toMatchObject({
    hardware_observation_sha256: sha256(good[0]),
    run_shape_observation_sha256: sha256(good[1]),
  });
  const other = orderedJson({ ...hardware, lane_id: appleLane.id }, 2);
  const wrong: readonly (readonly [string, string, string])[] = [
    ["not JSON", good[1], "hardware_observation_path"],
    ["{}", good[1], "schema_version"],
    [good[1], good[1], "schema_version"],
    [good[0].replace('"mig_partitioned": false,', ""), good[1], "mig_partitioned"],
    [other, good[1], `of lane ${appleLane.id}`],
    [good[0], good[1].replace('"A probe."', '"Another."'), "observation_digest"],
  ];
  for (const [a, b, said] of wrong) {
    const packet = start([a, b]);
    expect([packet.refusal_class, packet.detail]).toEqual(["bad_config", expect.stringContaining(said)]);
  }
  // paths that the system does not take
  for (const path of [
    "\0",
    `${scene.folder}/${"a".repeat(5000)}`,
    join(scene.folder, "hardware.json", "below"),
  ]) {
    const { refusal_class, detail } = scene.do("start", { hardware_observation_path: path, dry_run: true });
    expect([refusal_class, detail]).toEqual([
      "bad_config",
      expect.stringContaining("hardware_observation_path"),
    ]);
  }
});
