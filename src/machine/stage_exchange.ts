/**
 * What passes between the processes of grouped stages, as files. A stage leaves activations in its contribution's folder and
 * finds gradients in `artifacts/resolved/` of its run root; the next one reads beside the envelope that its manifest names
 * and brings gradients to that run root where it is on this machine. Elsewhere whoever moves the files brings them.
 */
import { dirname, join } from "node:path";
import { unexpected } from "../core/error.ts";
import { float32Text } from "../core/json.ts";
import type { Returned, StageLinks } from "../train/pipeline.ts";
import { Refusal, refuse } from "./contract.ts";
import { verified } from "./documents.ts";
import { givenPayloadKind, givenTensorKind, stepNames, type TensorKind } from "./stage_files.ts";
import { agreed } from "./stage_norm.ts";
import { awaited, givenPath, identityOf, post, type StageWork } from "./stage_post.ts";
import { packTensor, type StageTensor, stageTensor, tensorFile, unpackTensor } from "./stage_tensor.ts";
import { checkAgainst, type Opened, openEnvelope, typed } from "./stage_transport.ts";

/** The links of a stage process; `shape`: rows and width of what passes. */
export function stageLinks(work: StageWork, shape: readonly [number, number]): StageLinks {
  return {
    input: (step) => receive(work, "activation", step, shape).values,
    exchange(step, activation) {
      const sent = send(work, "activation", step, shape, activation);
      return returned(receive(work, "gradient", step, shape, sent));
    },
    giveBack(step, { gradient, loss, squares }) {
      const answers = answered(work, step);
      send(work, "gradient", step, shape, gradient, { answers, loss, ...(squares && { squares }) });
    },
    agree: (step, known) => agreed(work, step, known),
  };
}

/** What a gradient's document and its numbers bring back. */
export function returned({ doc, values }: Received): Returned {
  const squares = doc.square_sums?.map(Number);
  return { gradient: values, loss: Math.fround(Number(doc.loss)), ...(squares && { squares }) };
}

/** The content digest of the activation that was taken in for a step. */
function answered(work: StageWork, step: number): string {
  const path = givenPath(work, givenPayloadKind("activation", step), "json");
  const doc = work.root.read(stageTensor, path);
  if (!doc) throw unexpected("internal", path, "the activation that was taken in", "nothing");
  return doc.content_sha256;
}

type Answer = { readonly loss: number; readonly answers: string; readonly squares?: readonly number[] };

/** Hands on a tensor; the content's digest. */
function send(
  work: StageWork,
  kind: TensorKind,
  step: number,
  shape: readonly [number, number],
  values: Float32Array,
  answer?: Answer,
): string {
  const names = stepNames(kind, step);
  const { doc, file } = packTensor(
    {
      ...identityOf(work),
      ...{ stage_id: work.stage.stage_id, node_pubkey: work.work.node, step, kind },
      tensor_path: names.tensor,
      answers: answer?.answers ?? null,
      loss: answer ? float32Text(answer.loss) : null,
      square_sums: answer?.squares?.map(String),
      lane_profile_digest: work.profileDigest,
      detail: `${kind} of step ${step}.`,
    },
    ...([shape, values] as const),
  );
  post(work, kind, step, doc, [[names.tensor, file]]);
  return doc.content_sha256;
}

export type Received = { readonly doc: StageTensor; readonly values: Float32Array };

/** Waits for a neighbour's tensor of a step, checks it and keeps a copy; `answers`: the activation that a gradient is for. */
function receive(
  work: StageWork,
  kind: TensorKind,
  step: number,
  shape: readonly [number, number],
  answers?: string,
): Received {
  return awaited(work, kind, step, (path) => {
    const found = opened(work, kind, step, path);
    if (typeof found === "string") return found;
    return staleness(found.doc, answers) ?? kept(work, kind, found, shape);
  });
}

const staleness = (doc: StageTensor, answers: string | undefined): string | undefined =>
  answers === undefined || doc.answers === answers
    ? undefined
    : "what lies there belongs to another activation";

type OpenedTensor = { readonly opened: Opened; readonly doc: StageTensor; readonly path: string };

/** Text instead where it is left from other work: gradients of every window lie in one folder. */
function opened(work: StageWork, kind: TensorKind, step: number, path: string): OpenedTensor | string {
  const found = openEnvelope(path);
  try {
    checkAgainst(work.manifest, found.envelope, kind === "gradient");
  } catch (cause) {
    const leftOver = kind === "gradient" && cause instanceof Refusal;
    if (leftOver && cause.refusalClass === "stale_assignment") return cause.message;
    throw cause;
  }
  const doc = typed(() => verified(stageTensor, found.payload, found.payloadPath));
  checkDocument(work, kind, step, doc, found);
  return { opened: found, doc, path };
}

function checkDocument(
  work: StageWork,
  kind: TensorKind,
  step: number,
  doc: StageTensor,
  { envelope }: Opened,
): void {
  const drift = (what: string): never =>
    refuse("artifact_digest_mismatch", `${kind} of step ${step}: ${what}`);
  for (const field of ["lane_id", "run_id", "window_id", "assignment_id", "replica_id"] as const) {
    if (doc[field] !== envelope[field]) drift(`${field} is not the envelope's`);
  }
  if (doc.stage_id !== envelope.from_stage_id) drift("another stage made it");
  if (doc.kind !== kind || doc.step !== step) drift(`it is the ${doc.kind} of step ${doc.step}`);
  if (kind === "gradient" && !Number.isFinite(Number(doc.loss ?? "none"))) drift("its loss is no number");
  if (doc.lane_profile_digest !== work.profileDigest)
    refuse("stale_assignment", `${kind} of step ${step} is of another lane profile`);
}

/** Copies of what was taken in stay with the contribution, so that the step can be done again. */
function kept(
  work: StageWork,
  kind: TensorKind,
  { opened: found, doc, path }: OpenedTensor,
  [rows, width]: readonly [number, number],
): Received {
  if (BigInt(doc.rows) !== BigInt(rows) || BigInt(doc.width) !== BigInt(width))
    refuse(
      "artifact_digest_mismatch",
      `${kind} of step ${doc.step} is ${doc.rows} by ${doc.width}, not ${rows} by ${width}`,
    );
  if (doc.tensor_path !== stepNames(kind, doc.step).tensor)
    refuse("artifact_digest_mismatch", `${kind} of step ${doc.step} names a file of another step`);
  const file = tensorFile(join(dirname(path), doc.tensor_path));
  const values = unpackTensor(doc, file);
  const { root } = work;
  root.writeBytes(givenPath(work, givenTensorKind(kind, doc.step), "f32.zst"), file);
  root.writeBytes(givenPath(work, givenPayloadKind(kind, doc.step), "json"), found.bytes.payload);
  return { doc, values };
}
