/** What the files of a run root say about its accepted checkpoint, and how receipts refer to files. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { isObject, type Json } from "../models/files/strict_json.ts";
import { ownPaths, type Run, readDocument, retainedPaths } from "./run_root.ts";
import type { TracedStep } from "./trainer.ts";

export type Document = { readonly [key: string]: Json };
export type ArtifactRef = { readonly path: string; readonly sha256: string };

/** A file below the run root by path and digest of its bytes; null where it is not there. */
export function referenceTo(root: string, path: string): ArtifactRef | null {
  const full = join(root, path);
  return existsSync(full) ? { path, sha256: sha256(readFileSync(full)) } : null;
}

/** The JSON object at `path` of the run root, where there is one. */
export function documentIf(root: string, path: string): Document | undefined {
  return existsSync(join(root, path)) ? readDocument(root, path) : undefined;
}

/** A member of a document that is an object itself; an empty one where it is not. */
export function memberOf(document: Document | undefined, name: string): Document {
  const found = document?.[name] ?? null;
  return isObject(found) ? found : {};
}

/** Lines of JSON; a last line that a process which died has left unfinished is passed over. */
export function linesOf<T>(root: string, path: string): T[] {
  const full = join(root, path);
  const lines: T[] = [];
  for (const text of existsSync(full) ? readFileSync(full, "utf8").split("\n") : []) {
    try {
      lines.push(JSON.parse(text) as T);
    } catch {
      // not a whole line
    }
  }
  return lines;
}

/** A checkpoint as it was written. */
export type WrittenCheckpoint = {
  readonly step: number;
  readonly bytes: number;
  readonly durationMs: number;
};

/** A loss on held-out text, in nats per token. */
export type HeldOutLoss = { readonly step: number; readonly loss: number };

/** What was measured while the run trained, of steps 1 to `last`; of a step that was run twice, the second time. */
export function measuredIn(root: string, last = Number.POSITIVE_INFINITY) {
  const lastOfEach = <T extends { readonly step: number }>(path: string): T[] => {
    const bySteps = new Map(linesOf<T>(root, path).map((line) => [line.step, line]));
    return [...bySteps.values()].filter(({ step }) => step <= last).sort((a, b) => a.step - b.step);
  };
  return {
    steps: lastOfEach<TracedStep>(ownPaths.steps),
    checkpoints: lastOfEach<WrittenCheckpoint>(ownPaths.checkpoints),
    heldOut: lastOfEach<HeldOutLoss>(ownPaths.heldOut),
  };
}

/** The receipts that are of the checkpoint of `step`; a newer failure makes an eval's decision void. */
export function receiptsOf(run: Run, step: number) {
  const of = (path: string): Document | undefined => {
    const found = documentIf(run.root, path);
    return found?.optimizer_step === step && found.run_id === run.runId ? found : undefined;
  };
  const failure = of(retainedPaths.latest_checkpoint_eval_failure_path);
  return {
    backup: of(retainedPaths.latest_checkpoint_backup_receipt_path),
    evalFailure: failure,
    evalDecision: failure ? undefined : of(retainedPaths.latest_checkpoint_eval_decision_path),
    decision: of(retainedPaths.latest_continue_restart_decision_path),
  };
}

/** The middle one of the sorted values, or the mean of the two; undefined for none. */
export function median(values: readonly number[]): number | undefined {
  if (values.length === 0) return undefined;
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1]! + sorted[half]!) / 2;
}
