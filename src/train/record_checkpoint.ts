/** A kept checkpoint accepted, run on held-out text and judged, with the receipts of that. */
import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { openDevice } from "../backends/index.ts";
import { sha256 } from "../core/digest.ts";
import { PsionicError, unexpected } from "../core/error.ts";
import { loadCheckpoint, type SavedCheckpoint, stepFolder, verifyCheckpoint } from "./checkpoint.ts";
import { writeCloseout } from "./closeout.ts";
import { writeCurves } from "./curves.ts";
import { refreshDashboard } from "./dashboard.ts";
import { type Judged, judge, meanLoss, measureHeldOut } from "./evaluation.ts";
import { documentIf, referenceTo } from "./evidence.ts";
import type { RunParts } from "./lanes/lane.ts";
import { checkMemory, planMemory, type TrainingBackend } from "./plan.ts";
import {
  acceptCheckpoint,
  datasetIdentityOf,
  labelOf,
  lockRun,
  log,
  ownPaths,
  type Phase,
  type Run,
  refOf,
  retainedPaths,
  schemaId,
  surfaceId,
  withDigest,
  write,
  writeStatus,
} from "./run_root.ts";
import { runIdentity } from "./settings.ts";
import { Trainer } from "./trainer.ts";

/** What was asked for; what is left out is that of the run's accepted checkpoint, digest and size those of its files. */
export type Asked = {
  readonly step?: number | undefined;
  readonly label?: string | undefined;
  readonly ref?: string | undefined;
  readonly digest?: string | undefined;
  readonly bytes?: number | undefined;
  readonly threads: number;
  /** Absent: that of the run. */
  readonly backend?: TrainingBackend;
  /** Records what is left where nothing can evaluate, to try out what follows from it. */
  readonly injectUnavailable: boolean;
};

export type Recorded = {
  readonly phase: Phase;
  readonly label: string;
  readonly step: number;
  readonly ref: string;
  readonly digest: string;
  readonly bytes: number;
  /** Undefined where nothing could evaluate. */
  readonly judged: Judged | undefined;
};

type Named = SavedCheckpoint & { readonly label: string; readonly ref: string };

export function recordCheckpoint(run: Run, asked: Asked): Recorded {
  using _lock = lockRun(run.root);
  const found = keptCheckpoint(run, asked);
  acceptCheckpoint(run, found, found.label, found.ref);
  writeHandoff(run, found);
  const parts = run.lane.parts(run.settings);
  const judged = asked.injectUnavailable ? "The failure was asked for." : evaluated(run, parts, found, asked);
  const failed = typeof judged === "string";
  if (failed) writeFailure(run, found, judged);
  else writeDecision(run, parts, found, judged);
  const phase: Phase = failed ? "checkpoint_eval_retry_required" : "checkpoint_evaluated";
  const detail = failed ? judged : judged.reason;
  writeStatus(run, phase, { label: found.label, step: found.step }, detail);
  refreshDashboard(run, phase);
  writeCurves(run);
  writeCloseout(run, phase);
  log(run, phase, surfaceId(run.lane, "record_checkpoint"), {
    checkpoint_label: found.label,
    checkpoint_step: found.step,
    checkpoint_eval_state: failed ? "retry_required" : judged.state,
  });
  const { label, step, ref, digest, bytes } = found;
  return { phase, label, step, ref, digest, bytes, judged: failed ? undefined : judged };
}

/** The checkpoint that was asked for, whole and as it was described; throws where it is not. */
function keptCheckpoint(run: Run, asked: Asked): Named {
  const pointer = documentIf(run.root, retainedPaths.latest_checkpoint_pointer_path);
  const pointed = pointer?.pointer_state === "accepted" ? Number(pointer.optimizer_step) : undefined;
  const step = asked.step ?? pointed;
  const folders = join(run.root, "checkpoints");
  const kept = readdirSync(folders).flatMap((name) => /^step-(\d+)$/.exec(name)?.[1] ?? []);
  if (step === undefined || !kept.includes(String(step))) {
    const there = kept.length > 0 ? `those of steps ${kept.join(", ")}` : "none";
    throw unexpected(
      "invalid_request",
      "train record-checkpoint",
      `a kept checkpoint of step ${step}`,
      there,
    );
  }
  const folder = join(folders, stepFolder(step));
  const manifest = documentIf(run.root, `checkpoints/${stepFolder(step)}/checkpoint_manifest.json`);
  // a checkpoint whose manifest a kill has kept from being written is known by its own state alone
  const digest = String(
    manifest?.checkpoint_object_digest ?? sha256(readFileSync(join(folder, "trainer_state.json"))),
  );
  const { completed_steps, files } = verifyCheckpoint(folder, digest);
  const state = statSync(join(folder, "trainer_state.json")).size;
  const bytes = files.reduce((sum, f) => sum + f.bytes, state);
  const facts = [
    ["step", step, completed_steps],
    ["--checkpoint-object-digest", asked.digest ?? digest, digest],
    ["--checkpoint-total-bytes", asked.bytes ?? bytes, bytes],
  ] as const;
  for (const [what, given, real] of facts) {
    if (given !== real)
      throw unexpected("digest_mismatch", "train record-checkpoint", `${what} ${given}`, real);
  }
  const before = pointed === step ? pointer : undefined;
  return {
    ...{ step, digest, bytes, folder },
    label: asked.label ?? String(before?.checkpoint_label ?? labelOf(run, step)),
    ref: asked.ref ?? String(before?.checkpoint_ref ?? refOf(run, step)),
  };
}

/** The figures of the checkpoint and what follows, or why this machine could not run it. */
function evaluated(run: Run, parts: RunParts, found: Named, asked: Asked): Judged | string {
  const { backend = run.backend ?? "cpu", threads } = asked;
  const device = backend === "cpu" ? openDevice("cpu", { threads }) : openDevice(backend);
  try {
    try {
      checkMemory(planMemory(parts, backend), device.backend.memory?.().free);
    } catch (error) {
      if (error instanceof PsionicError && error.code === "admission_refused") return error.message;
      throw error;
    }
    using trainer = new Trainer(device, parts.model, parts.train, parts.config, "none");
    loadCheckpoint(trainer, found.folder, runIdentity(run.lane, run.settings, parts), found.digest);
    const measured = measureHeldOut(trainer, parts);
    const path = join(run.root, ownPaths.heldOut);
    mkdirSync(dirname(path), { recursive: true });
    appendFileSync(path, `${JSON.stringify({ step: found.step, loss: meanLoss(measured) })}\n`);
    return judge(measured, parts.model.vocabularySize, run.lane.limits);
  } finally {
    device.close();
  }
}

function head(run: Run, schema: string, found: Named) {
  return {
    schema_version: schemaId(schema),
    lane_id: run.lane.id,
    run_id: run.runId,
    trigger_surface_id: surfaceId(run.lane, "record_checkpoint"),
    ...run.git,
    checkpoint_label: found.label,
    optimizer_step: found.step,
    checkpoint_ref: found.ref,
    checkpoint_manifest: referenceTo(
      run.root,
      `checkpoints/${stepFolder(found.step)}/checkpoint_manifest.json`,
    ),
  };
}

function writeDecision(run: Run, parts: RunParts, found: Named, judged: Judged): void {
  const record = withDigest("checkpoint_eval_decision", "decision_digest", {
    ...head(run, "checkpoint_eval_decision", found),
    benchmark_package_fixture: null,
    benchmark_package_storage_key: `benchmark://psion/${run.lane.name}/held_out_text@${parts.datasetDigest}`,
    evaluation_mode: "held_out_text",
    metric_gates: judged.gates.map((g) => ({
      gate_id: `held_out_${g.id}`,
      package_family: "held_out_text",
      acceptance_family: "held_out_text",
      benchmark_case_id: `${datasetIdentityOf(run)}#${g.id}`,
      receipt_id: `${run.runId}-checkpoint-eval-step-${found.step}-${g.id}`,
      metric_kind: "share_of_uniform_nats_saved_bps",
      threshold_bps: g.thresholdBps,
      observed_bps: g.observedBps,
      status: g.passed ? "passed" : "failed",
      observed_loss_milli: Number.isFinite(g.loss) ? Math.round(1000 * g.loss) : null,
      observed_token_count: g.tokens,
      detail: "Mean loss over the source's held-out text, against a uniform guess over the vocabulary.",
    })),
    aggregate_pass_rate_bps: judged.passRateBps,
    aggregate_score_bps: judged.scoreBps,
    decision_state: judged.state,
    decision_reason: judged.reason,
    claim_boundary: run.lane.claimBoundary,
    detail: "The checkpoint's own files were loaded and run.",
    decision_digest: "",
  });
  write(run, `evals/checkpoint_eval_step-${found.step}.json`, record);
  write(run, retainedPaths.latest_checkpoint_eval_decision_path, record);
  rmSync(join(run.root, retainedPaths.latest_checkpoint_eval_failure_path), { force: true });
}

function writeFailure(run: Run, found: Named, reason: string): void {
  const record = withDigest("checkpoint_eval_failure", "failure_digest", {
    ...head(run, "checkpoint_eval_failure", found),
    failure_kind: "eval_worker_unavailable",
    resolution_state: "retry_required",
    retry_after_seconds: 300,
    alert_relative_path: retainedPaths.latest_redacted_alert_path,
    claim_boundary: run.lane.claimBoundary,
    detail: reason,
    failure_digest: "",
  });
  write(run, `evals/checkpoint_eval_failure_step-${found.step}.json`, record);
  write(run, retainedPaths.latest_checkpoint_eval_failure_path, record);
  const alert = withDigest("redacted_alert", "alert_digest", {
    schema_version: schemaId("redacted_alert"),
    lane_id: run.lane.id,
    run_id: run.runId,
    alert_id: `psion_actual_pretraining_dashboard::checkpoint_eval_retry_required::${found.step}`,
    alert_kind: "checkpoint_eval_retry_required",
    severity: "warning",
    emitted_from_surface_id: surfaceId(run.lane, "record_checkpoint"),
    source_receipt_relative_path: retainedPaths.latest_checkpoint_eval_failure_path,
    retained_redaction: "declared_source_names_only",
    summary: "The accepted checkpoint was not evaluated.",
    detail: reason,
    alert_digest: "",
  });
  write(run, retainedPaths.latest_redacted_alert_path, alert);
}

function writeHandoff(run: Run, found: Named): void {
  write(run, retainedPaths.continuation_handoff_path, {
    schema_version: schemaId("continuation_handoff"),
    lane_id: run.lane.id,
    continuation_target_id: null,
    run_id: run.runId,
    stage_path: ["pretrain"],
    accepted_checkpoint: {
      checkpoint_pointer_path: retainedPaths.latest_checkpoint_pointer_path,
      checkpoint_label: found.label,
      optimizer_step: found.step,
      checkpoint_ref: found.ref,
      checkpoint_manifest_relative_path: `checkpoints/${stepFolder(found.step)}/checkpoint_manifest.json`,
      detail: `Object digest ${found.digest}, ${found.bytes} bytes.`,
    },
    ...{ reasoning_sft_run_bundle: null, plugin_conditioned_stage_manifest: null },
    ...{ plugin_conditioned_run_bundle: null, continuation_eval_pack: null },
    benchmark_bindings: [],
    eval_hooks: [],
    claim_boundary: run.lane.claimBoundary,
    detail: "No later stage is bound to this lane.",
  });
}
