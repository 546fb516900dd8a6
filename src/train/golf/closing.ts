/** The end of a run: last score, quantised artifact, its score after a round trip, accounting, report, submission. */
import { join } from "node:path";
import { writeJson, writeWhole } from "../durable.ts";
import { parameterCount } from "../model.ts";
import type { Trainer } from "../trainer.ts";
import {
  type Artifact,
  artifactName,
  artifactOf,
  containerOf,
  decompressed,
  exportedTensors,
  loadExported,
  tensorsOfContainer,
} from "./artifact.ts";
import type { Course } from "./course.ts";
import type { GolfData } from "./data.ts";
import {
  type GolfReport,
  type MachineObservation,
  medianStepMs,
  type RoundTrip,
  reportHead,
  sealedReport,
} from "./report.ts";
import { type GolfRun, type GolfWatcher, golfPaths } from "./run_root.ts";
import { type Score, score } from "./score.ts";
import { compressions } from "./settings.ts";

/** Writes what a run leaves behind; the trainer then holds what the artifact gave back. */
export function finish(
  run: GolfRun,
  data: GolfData,
  trainer: Trainer,
  machine: MachineObservation,
  course: Course,
  watcher: GolfWatcher,
): GolfReport {
  const { settings } = run;
  const live = ["live_only", "both"].includes(settings.final_validation) ? course.validate("final") : null;
  const roundTrip = exported(run, data, trainer, course, watcher);
  course.drawCurves();
  const seconds = course.trainingMs / 1000;
  const tokens = course.metrics.length * trainer.tokensPerStep;
  const report = sealedReport({
    ...reportHead(run, data, parameterCount(trainer.model), machine),
    ...{ disposition: "training_executed", refusal_reason: null },
    stop_reason: trainer.timeIsUp ? "wallclock_cap_reached" : "step_budget_reached",
    executed_steps: trainer.completedSteps,
    observed_training_time_ms: course.trainingMs,
    median_step_ms: medianStepMs(course.metrics),
    tokens_per_second: seconds > 0 ? tokens / seconds : null,
    model_flops_utilization: course.utilization,
    step_metrics: course.metrics,
    validation_checkpoints: course.validations,
    final_validation: live,
    roundtrip_receipt: roundTrip,
    report_digest: "",
  });
  writeJson(join(run.root, golfPaths.report), report);
  return report;
}

/** The artifact by both compressions on disk, read back from there and scored, unless only the live score is wanted. */
function exported(
  run: GolfRun,
  data: GolfData,
  trainer: Trainer,
  course: Course,
  watcher: GolfWatcher,
): RoundTrip | null {
  const { quantization, compression, final_validation } = run.settings;
  if (final_validation === "live_only") return null;
  const container = containerOf(exportedTensors(trainer.parameters), quantization);
  const sizes: Record<string, number> = {};
  let chosen: Artifact | undefined;
  for (const way of compressions) {
    const made = artifactOf(container, quantization, way);
    writeWhole(join(run.root, golfPaths.artifact, artifactName(made)), [made.bytes]);
    sizes[way] = made.bytes.length;
    if (way === compression) chosen = made;
  }
  const { bytes, sha256 } = chosen!;
  const path = `${golfPaths.artifact}/${artifactName({ compression })}`;
  watcher.note?.(`artifact ${path}: ${bytes.length} bytes`);
  course.log.line(`Serialized model int8+${compression}: ${bytes.length} bytes`);
  const scored =
    final_validation === "artifact_only" ? null : roundTripScore(run, data, trainer, bytes, path);
  if (scored) {
    course.log.roundTrip(compression, scored.validation, scored.ms);
    watcher.scored?.("roundtrip", scored.validation, scored.ms);
  }
  return {
    final_model_surface: "raw",
    artifact_config: { quantization, compression },
    metric_source: scored ? "roundtrip_int8" : "not_scored",
    validation: scored?.validation ?? null,
    observed_eval_ms: scored?.ms ?? null,
    container_bytes: container.length,
    compressed_model_bytes: bytes.length,
    compressed_model_artifact_ref: path,
    compressed_model_artifact_digest: sha256,
    compressed_bytes_by_compression: sizes,
  };
}

function roundTripScore(
  { settings }: GolfRun,
  data: GolfData,
  trainer: Trainer,
  artifact: Uint8Array,
  path: string,
): { readonly validation: Score; readonly ms: number } {
  const begun = performance.now();
  loadExported(trainer.parameters, tensorsOfContainer(decompressed(artifact, path), path), path);
  const validation = score((batch) => trainer.lossOf(batch), data.validation, data.bytes, settings);
  return { validation, ms: performance.now() - begun };
}
