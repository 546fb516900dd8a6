/**
 * What passes between the processes of grouped stages, as files. A stage leaves activations in its contribution's folder and
 * finds gradients in `artifacts/resolved/` of its run root; the next one reads beside the envelope that its manifest names
 * and brings gradients to that run root where it is on this machine. Elsewhere whoever moves the files brings them.
 */
import { existsSync, mkdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import { float32Text, orderedJson } from "../core/json.ts";
import { writeWhole } from "../train/durable.ts";
import type { StageLinks } from "../train/pipeline.ts";
import { Refusal, refuse } from "./contract.ts";
import { sealed, verified } from "./documents.ts";
import { contributionFolder, resolvedFolder } from "./layout.ts";
import type { InvocationManifest, StageAssignment } from "./manifest.ts";
import type { RunRoot } from "./run_root.ts";
import { stageTransport } from "./stage_documents.ts";
import {
  givenPayloadKind,
  givenTensorKind,
  outputTransportName,
  stepNames,
  type TensorKind,
} from "./stage_files.ts";
import { packTensor, type StageTensor, stageTensor, tensorFile, unpackTensor } from "./stage_tensor.ts";
import { checkAgainst, type Opened, openEnvelope, typed } from "./stage_transport.ts";
import { contributionId, type WorkIdentity } from "./window.ts";

/** One stage's work on a window. */
export type StageWork = {
  readonly root: RunRoot;
  readonly manifest: InvocationManifest;
  readonly stage: StageAssignment;
  readonly work: WorkIdentity;
  readonly profileDigest: string;
  /** How long a neighbour may take for a step, milliseconds. */
  readonly patienceMs: number;
};

export const stageFolder = ({ work }: StageWork): string =>
  contributionFolder(work.windowId, contributionId(work));

/** Where copies of what the stage was given lie. */
export const givenPath = (work: StageWork, artifactKind: string, ending: "json" | "f32.zst"): string =>
  `${stageFolder(work)}/artifacts/${artifactKind}.${ending}`;

/** The links of a stage process; `shape`: rows and width of what passes. */
export function stageLinks(work: StageWork, shape: readonly [number, number]): StageLinks {
  let sent = "";
  return {
    input: (step) => receive(work, "activation", step, shape).values,
    exchange(step, activation) {
      sent = send(work, "activation", step, shape, activation);
      const { doc, values } = receive(work, "gradient", step, shape, sent);
      return { gradient: values, loss: Math.fround(Number(doc.loss)) };
    },
    giveBack(step, { gradient, loss }) {
      send(work, "gradient", step, shape, gradient, { loss, answers: answered(work, step) });
    },
  };
}

/** The content digest of the activation that was taken in for a step. */
function answered(work: StageWork, step: number): string {
  const path = givenPath(work, givenPayloadKind("activation", step), "json");
  const doc = work.root.read(stageTensor, path);
  if (!doc) throw unexpected("internal", path, "the activation that was taken in", "nothing");
  return doc.content_sha256;
}

type Answer = { readonly loss: number; readonly answers: string };

/** Writes tensor, document and envelope, in this order, and brings gradients to the upstream; the content's digest. */
function send(
  work: StageWork,
  kind: TensorKind,
  step: number,
  shape: readonly [number, number],
  values: Float32Array,
  answer?: Answer,
): string {
  const { root, stage, manifest } = work;
  const names = stepNames(kind, step);
  const identity = identityOf(work);
  const { doc, file } = packTensor(
    {
      ...identity,
      ...{ stage_id: stage.stage_id, node_pubkey: work.work.node, step, kind },
      tensor_path: names.tensor,
      answers: answer?.answers ?? null,
      loss: answer ? float32Text(answer.loss) : null,
      lane_profile_digest: work.profileDigest,
      detail: `${kind} of step ${step}.`,
    },
    ...([shape, values] as const),
  );
  const payload = encoded(doc);
  const to = kind === "activation" ? stage.downstream_stage_id : stage.upstream_stage_id;
  const envelope = sealed(stageTransport, {
    ...{ lane_id: identity.lane_id, network_id: manifest.coordination.network_id, run_id: identity.run_id },
    ...{ window_id: identity.window_id, assignment_id: identity.assignment_id },
    ...{ replica_id: identity.replica_id, from_stage_id: stage.stage_id, to_stage_id: to ?? "" },
    ...{ handoff_kind: kind === "activation" ? "activation" : "tensor_collective" },
    ...{ transport: "wider_network_stream", payload_path: names.payload },
    ...{ payload_sha256: sha256(payload), payload_bytes: payload.length },
    source_stage_assignment_digest: stage.assignment_digest,
    detail: `${kind} of step ${step}.`,
  });
  const files = [
    [names.tensor, file],
    [names.payload, payload],
    [names.transport, encoded(envelope)],
  ] as const;
  const folder = stageFolder(work);
  for (const [name, bytes] of files) root.writeBytes(`${folder}/${name}`, bytes);
  if (kind === "gradient") deliver(work, files);
  return doc.content_sha256;
}

const encoded = (value: object): Uint8Array => new TextEncoder().encode(orderedJson(value, 2));

function identityOf({ manifest, stage, work }: StageWork) {
  return {
    ...{ lane_id: manifest.lane_id, run_id: work.runId, window_id: work.windowId },
    ...{ assignment_id: work.assignmentId, replica_id: stage.replica_id },
  };
}

/** Into the run root that the manifest's envelope lies in, where it lies in one on this machine. */
function deliver(work: StageWork, files: readonly (readonly [string, Uint8Array])[]): void {
  const upstream = upstreamRoot(work);
  if (upstream === undefined) return;
  const folder = join(upstream, resolvedFolder);
  try {
    mkdirSync(folder, { recursive: true });
    for (const [name, bytes] of files) writeWhole(join(folder, name), [bytes]);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    refuse("artifact_incomplete", `gradients cannot be brought to ${folder}: ${why}`, cause);
  }
}

const inputFolder = ({ manifest }: StageWork): string =>
  dirname(manifest.grouped_stage_input_transport?.materialized_path ?? "");

/** `<root>/windows/<window>/contributions/<id>/grouped_stage_output_transport.json`; undefined where it lies elsewhere. */
function upstreamRoot(work: StageWork): string | undefined {
  const path = work.manifest.grouped_stage_input_transport?.materialized_path ?? "";
  const folder = dirname(path);
  const [contributions, window, windows] = [
    dirname(folder),
    dirname(dirname(folder)),
    dirname(dirname(dirname(folder))),
  ];
  const fits =
    basename(path) === outputTransportName &&
    /^[0-9a-f]{64}$/.test(basename(folder)) &&
    basename(contributions) === "contributions" &&
    basename(window) === work.work.windowId &&
    basename(windows) === "windows";
  const root = dirname(windows);
  return fits && statSync(root, { throwIfNoEntry: false })?.isDirectory() ? root : undefined;
}

/** How long files may be at odds with each other while a neighbour writes them again. */
const settlingMs = 300;

export type Received = { readonly doc: StageTensor; readonly values: Float32Array };

/** Waits for a neighbour's tensor of a step, checks it and keeps a copy; `answers`: the activation that a gradient is for. */
function receive(
  work: StageWork,
  kind: TensorKind,
  step: number,
  shape: readonly [number, number],
  answers?: string,
): Received {
  const { root } = work;
  const folder = kind === "activation" ? inputFolder(work) : root.path(resolvedFolder);
  const path = join(folder, stepNames(kind, step).transport);
  const ends = performance.now() + work.patienceMs;
  let seen = "nothing came";
  let brokenAt: number | undefined;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 1.5, 25)) {
    try {
      const found = existsSync(path) ? opened(work, kind, step, path) : seen;
      const stale = typeof found === "string" ? found : staleness(found.doc, answers);
      if (typeof found !== "string" && stale === undefined) return kept(work, kind, found, shape);
      seen = stale ?? seen;
      brokenAt = undefined;
    } catch (cause) {
      // files of another window may be about to be replaced one by one
      brokenAt ??= performance.now();
      if (!(cause instanceof Refusal) || performance.now() - brokenAt >= settlingMs) throw cause;
    }
    if (performance.now() >= ends) break;
    Bun.sleepSync(pauseMs);
  }
  const from = kind === "activation" ? work.stage.upstream_stage_id : work.stage.downstream_stage_id;
  return refuse(
    "artifact_incomplete",
    `${kind} of step ${step} from ${JSON.stringify(from)} was waited for ${work.patienceMs} ms at ${path}: ${seen}`,
  );
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
