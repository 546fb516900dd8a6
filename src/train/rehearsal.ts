/**
 * A rehearsal of the lane's whole life: a run in a process of its own that is killed in the middle, resumed here, compared with
 * a run nobody disturbed, then evaluated, backed up, decided on and closed out.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { PsionicError, unexpected } from "../core/error.ts";
import { closeoutGates, writeCloseout } from "./closeout.ts";
import { writeCurves } from "./curves.ts";
import { refreshDashboard } from "./dashboard.ts";
import { type Decided, decideContinueRestart } from "./decision.ts";
import { documentIf, measuredIn } from "./evidence.ts";
import { type Recorded, recordCheckpoint } from "./record_checkpoint.ts";
import { backUpRun, type RunOptions, type RunOutcome, resumeRun, startRun } from "./run.ts";
import {
  log,
  ownPaths,
  pendingLabel,
  type Run,
  retainedPaths,
  schemaId,
  surfaceId,
  withDigest,
  write,
  writeStatus,
} from "./run_root.ts";

/** The undisturbed run, below the run root until it has been compared. */
const undisturbed = "rehearsal/uninterrupted";
const where = "train rehearse-base-lane";

export type Rehearsal = RunOptions & {
  /** The step after which the run's process is killed. */
  readonly interruptionStep: number;
  /** Starts the run in a process that kills itself with SIGKILL after that step; the signal that ended it, if one did. */
  startAndKill(): Promise<NodeJS.Signals | null>;
  /** Told before each part begins. */
  part(name: string): void;
};

export type Rehearsed = {
  readonly interruptedAt: number;
  readonly resumedFrom: number;
  readonly digest: string;
  readonly recorded: Recorded;
  readonly decided: Decided;
  readonly outcome: RunOutcome;
};

/** In the middle of the second window where there is one, so that steps after a checkpoint are lost and run again. */
export function interruptionStepOf({ max_steps, steps_per_window }: Run["settings"]): number {
  if (max_steps < 2) {
    throw unexpected("invalid_request", where, "at least 2 steps, so that a run has a middle", max_steps);
  }
  const middle = steps_per_window + Math.ceil(steps_per_window / 2);
  return middle < max_steps ? middle : Math.floor(max_steps / 2);
}

export async function rehearseBaseLane(run: Run, rehearsal: Rehearsal): Promise<Rehearsed> {
  const { interruptionStep: step } = rehearsal;
  const total = run.settings.max_steps;
  if (!(Number.isInteger(step) && step > 0 && step < total)) {
    throw unexpected("invalid_request", where, `a planned interruption between 0 and ${total}`, step);
  }
  if (run.settings.time_budget_seconds > 0) {
    throw unexpected(
      "invalid_request",
      where,
      "a run whose rates do not depend on time",
      "--time-budget-seconds",
    );
  }
  rehearsal.part(`a run of ${total} steps, killed after step ${step}`);
  const signal = await rehearsal.startAndKill();
  if (signal !== "SIGKILL") {
    if (rehearsal.stopping()) throw new PsionicError("cancelled", `[${where}] ended by a signal`);
    throw unexpected(
      "invalid_request",
      where,
      "a run that is killed by SIGKILL",
      signal ?? "one that ended",
      {
        fix: "What its process said stands above",
      },
    );
  }
  const interrupted = measuredIn(run.root).steps.at(-1)?.step ?? 0;
  const pointer = documentIf(run.root, retainedPaths.latest_checkpoint_pointer_path);
  const from = {
    step: Number(pointer?.optimizer_step ?? 0),
    label: String(pointer?.checkpoint_label ?? pendingLabel),
  };
  rehearsal.part(`resumed from step ${from.step}`);
  const outcome = ended(await resumeRun(run, rehearsal));
  rehearsal.part("the same run, undisturbed");
  const twin: Run = { ...run, root: join(run.root, undisturbed) };
  try {
    const whole = ended(await startRun(twin, rehearsal));
    compare(run, twin, { interrupted, planned: step, from, outcome, whole });
  } finally {
    rmSync(join(run.root, "rehearsal"), { recursive: true, force: true });
  }
  if (rehearsal.stopping()) throw new PsionicError("cancelled", `[${where}] ended by a signal`);
  rehearsal.part("evaluation, backups, decision");
  const recorded = recordCheckpoint(run, {
    threads: rehearsal.threads,
    injectUnavailable: false,
  });
  await backUpRun(run, undefined, true);
  await backUpRun(run, undefined);
  const decided = decideContinueRestart(run);
  // the accepted checkpoint is read and admitted once more, as a run that goes on would
  await resumeRun(run, { ...rehearsal, dryRun: true });
  close(run, decided);
  return {
    ...{ interruptedAt: interrupted, resumedFrom: from.step, digest: recorded.digest },
    ...{ recorded, decided, outcome },
  };
}

function ended(outcome: RunOutcome): RunOutcome {
  if (outcome.phase === "training_complete") return outcome;
  throw new PsionicError("cancelled", `[${where}] ended by a signal after step ${outcome.completedSteps}`);
}

/** Writes the recovery drill; throws where the two runs differ in a bit of their state or in a loss. */
function compare(
  run: Run,
  twin: Run,
  seen: {
    readonly interrupted: number;
    readonly planned: number;
    readonly from: { readonly step: number; readonly label: string };
    readonly outcome: RunOutcome;
    readonly whole: RunOutcome;
  },
): void {
  const { outcome, whole, from } = seen;
  const trace = (root: string): string =>
    JSON.stringify(measuredIn(root).steps.map((s) => [s.step, s.loss, s.gradientNorm, s.learningRate]));
  const sameTrace = trace(run.root) === trace(twin.root);
  const sameDigest = outcome.checkpointDigest !== null && outcome.checkpointDigest === whole.checkpointDigest;
  const refusal = sameTrace && sameDigest ? null : "The resumed run is not the undisturbed one.";
  const drill = withDigest("bringup_recovery_drill", "receipt_digest", {
    schema_version: schemaId("bringup_recovery_drill"),
    lane_id: run.lane.id,
    run_id: run.runId,
    ...run.git,
    recovery_state: refusal === null ? "recovered" : "refused",
    interruption_kind: "process_killed",
    planned_interruption_step: seen.planned,
    interruption_step: seen.interrupted,
    total_target_optimizer_steps: run.settings.max_steps,
    interrupted_checkpoint_label: from.label,
    interrupted_optimizer_step: from.step,
    recovered_checkpoint_label: outcome.checkpointLabel,
    recovered_optimizer_step: outcome.completedSteps,
    recovered_checkpoint_object_digest: outcome.checkpointDigest,
    uninterrupted_checkpoint_object_digest: whole.checkpointDigest,
    step_traces_equal: sameTrace,
    lineage_preserved: refusal === null,
    refusal_reason: refusal,
    claim_boundary: run.lane.claimBoundary,
    detail: "Killed with SIGKILL, resumed, and run once more from the first step; digests are of all state.",
    receipt_digest: "",
  });
  write(run, ownPaths.recovery, drill);
  if (refusal !== null) {
    const expected = `the bits of the undisturbed run, ${whole.checkpointDigest}`;
    throw unexpected("digest_mismatch", where, expected, outcome.checkpointDigest ?? "none", {
      fix: `See ${ownPaths.recovery}`,
    });
  }
}

/** Closes the run out; throws naming the gates that it does not satisfy. */
function close(run: Run, decided: Decided): void {
  const unmet = closeoutGates(run).filter((gate) => !gate.satisfied);
  if (unmet.length > 0) {
    const rows = decided.blocking.length > 0 ? ` (red rows: ${decided.blocking.join(", ")})` : "";
    const names = unmet.map((gate) => gate.gate_id).join(", ");
    writeCloseout(run, decided.phase);
    throw unexpected(
      "admission_refused",
      where,
      "every gate of the closeout satisfied",
      `${names}${rows} not`,
      {
        fix: `${run.root} keeps the receipts`,
      },
    );
  }
  const phase = "base_lane_rehearsal_complete";
  const { label, step } = decided;
  writeStatus(
    run,
    phase,
    { label, step },
    "Killed, resumed bit for bit, evaluated, backed up and decided on.",
  );
  refreshDashboard(run, phase);
  writeCurves(run);
  writeCloseout(run, phase);
  log(run, phase, surfaceId(run.lane, "rehearse_base_lane"), {
    checkpoint_label: label,
    checkpoint_step: step,
  });
}
