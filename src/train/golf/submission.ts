/**
 * The folder of a submission: README.md, submission.json, train.log, train_gpt.py and the compressed model. Of psionic itself
 * nothing is in it: the model was trained here, and train_gpt.py, plain PyTorch, loads and scores it, or trains one like it.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { isObject, type Json, parseJson } from "../../models/files/strict_json.ts";
import { writeWhole } from "../durable.ts";
import type { GolfReport } from "./report.ts";
import { golfPaths } from "./run_root.ts";
import trainScript from "./train_gpt.py" with { type: "text" };
import { trainLogName } from "./train_log.ts";

/** Bytes that code and model may have together. */
export const mostBytes = 16_000_000;
/** What the challenge is scored on: FineWeb's first 50,000 documents. */
const challenge = { dataset: "fineweb10B_sp1024", targets: 62_021_632 } as const;
const trackId = "non-record-unlimited-compute-16mb";

export type ClaimLabel = "research" | "non_record_submission" | "record_candidate_blocked_on_accounting";

export type Submitter = {
  readonly author: string;
  readonly github_id: string;
  readonly name?: string;
  readonly blurb?: string;
};

export type Accounting = {
  readonly entrypoint_code_bytes: number;
  readonly compressed_model_bytes: number;
  readonly shipped_runtime_code_bytes: number;
  readonly shipped_wrapper_code_bytes: number;
  readonly required_build_dependency_bytes: number;
};

export type Submission = {
  readonly author: string;
  readonly github_id: string;
  readonly name: string;
  readonly blurb: string;
  readonly date: string;
  readonly val_loss: number;
  readonly val_bpb: number;
  readonly bytes_total: number;
  readonly bytes_code: number;
  readonly track: typeof trackId;
  readonly claim_label: ClaimLabel;
  readonly claim_boundary: string;
  readonly within_limit: boolean;
  readonly counted_components: Accounting;
  readonly artifact_digest: string;
  readonly report_digest: string;
};

/** What may be said of a score, and why no more. */
export function claimOf(
  datasetIdentity: string,
  targets: number,
  bytes: number,
): { readonly label: ClaimLabel; readonly boundary: string } {
  if (!datasetIdentity.startsWith(`${challenge.dataset}@`) || targets !== challenge.targets)
    return {
      label: "research",
      boundary: `Scored on ${datasetIdentity}, ${targets} tokens, and not on the challenge's validation set: no figure of its leaderboard compares with this one.`,
    };
  if (bytes > mostBytes)
    return {
      label: "record_candidate_blocked_on_accounting",
      boundary: `${bytes} bytes are more than the ${mostBytes} that a submission may have.`,
    };
  return {
    label: "non_record_submission",
    boundary:
      "Trained on one device by another program than the script in this folder, which only scores the model: not a run of the 10-minute track.",
  };
}

/** Writes the folder from what a finished run left; what was measured there is what is claimed. */
export function packSubmission(root: string, submitter: Submitter): Submission {
  const report = finishedReport(root);
  const trip = report.roundtrip_receipt;
  const scored = trip?.validation;
  if (!trip || !scored)
    throw unexpected(
      "invalid_request",
      root,
      "a run whose artifact was scored after a round trip",
      "another",
      {
        fix: "psionic train golf resume --final-validation both scores it",
      },
    );
  const model = readFileSync(join(root, trip.compressed_model_artifact_ref));
  if (sha256(model) !== trip.compressed_model_artifact_digest)
    throw unexpected(
      "digest_mismatch",
      trip.compressed_model_artifact_ref,
      trip.compressed_model_artifact_digest,
      sha256(model),
    );
  const code = new TextEncoder().encode(trainScript);
  const parts: Accounting = {
    entrypoint_code_bytes: code.length,
    compressed_model_bytes: model.length,
    ...{ shipped_runtime_code_bytes: 0, shipped_wrapper_code_bytes: 0, required_build_dependency_bytes: 0 },
  };
  const total = Object.values(parts).reduce((sum, n) => sum + n, 0);
  const claim = claimOf(report.dataset.identity, scored.evaluated_token_count, total);
  const submission: Submission = {
    ...{ author: submitter.author, github_id: submitter.github_id, name: submitter.name ?? report.run_id },
    blurb: submitter.blurb ?? `The baseline, ${report.executed_steps} steps on ${report.machine.device}.`,
    date: new Date().toISOString().slice(0, 10),
    ...{ val_loss: scored.mean_loss, val_bpb: scored.bits_per_byte },
    ...{ bytes_total: total, bytes_code: code.length, track: trackId },
    ...{ claim_label: claim.label, claim_boundary: claim.boundary, within_limit: total <= mostBytes },
    counted_components: parts,
    ...{ artifact_digest: trip.compressed_model_artifact_digest, report_digest: report.report_digest },
  };
  const folder = join(root, golfPaths.submission);
  mkdirSync(folder, { recursive: true });
  const file = (name: string, bytes: Uint8Array): void => writeWhole(join(folder, name), [bytes]);
  const utf8 = (content: string): Uint8Array => new TextEncoder().encode(content);
  file("train_gpt.py", code);
  file(basename(trip.compressed_model_artifact_ref), model);
  file("train.log", readFileSync(join(root, trainLogName)));
  file("README.md", utf8(readme(report, submission, basename(trip.compressed_model_artifact_ref))));
  file("submission.json", utf8(`${JSON.stringify(submission, null, 2)}\n`));
  return submission;
}

function finishedReport(root: string): GolfReport {
  const path = join(root, golfPaths.report);
  if (!existsSync(path))
    throw unexpected("file_not_found", path, "the report of a finished run", "nothing", {
      fix: "psionic train golf resume finishes it",
    });
  const value: Json = parseJson(readFileSync(path, "utf8"), path);
  if (!isObject(value) || value.schema_version !== 2 || !isObject(value.dataset ?? null))
    throw unexpected("file_malformed", path, "a report of schema version 2", "another file");
  return value as unknown as GolfReport;
}

function readme(report: GolfReport, s: Submission, model: string): string {
  const { config: c, machine, roundtrip_receipt: trip } = report;
  const rows = Object.entries(s.counted_components).map(([name, bytes]) => `| ${name} | ${bytes} |`);
  return `# ${s.name}

${s.blurb}

Claim: \`${s.claim_label}\`. ${s.claim_boundary}

| | |
| --- | --- |
| val_bpb after quantisation | ${s.val_bpb.toFixed(8)} (${trip?.validation?.eval_mode}) |
| val_loss | ${s.val_loss.toFixed(8)} |
| steps | ${report.executed_steps} of ${c.tokens_per_step} tokens, ${Math.round(report.observed_training_time_ms)} ms |
| machine | ${machine.device} (${machine.backend}, ${c.precision}) |
| data | ${report.dataset.identity} |
| artifact | ${model}, ${trip?.artifact_config.quantization} + ${trip?.artifact_config.compression}, SHA-256 ${s.artifact_digest} |

Counted bytes, ${s.bytes_total} of ${mostBytes}:

| component | bytes |
| --- | --- |
${rows.join("\n")}

\`python train_gpt.py --score ${model} --data DATASET --tokenizer tokenizer.model\` scores the model; without \`--score\` the
script trains one of the same shape.
`;
}
