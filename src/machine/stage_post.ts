/** How documents get from one stage's folder to another's: envelopes, delivery to an upstream's run root, and waiting. */
import { existsSync, mkdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { orderedJson } from "../core/json.ts";
import { writeWhole } from "../train/durable.ts";
import { Refusal, refuse } from "./contract.ts";
import { sealed } from "./documents.ts";
import { contributionFolder, resolvedFolder } from "./layout.ts";
import type { InvocationManifest, StageAssignment } from "./manifest.ts";
import type { RunRoot } from "./run_root.ts";
import { stageTransport } from "./stage_documents.ts";
import { type Crossing, outputTransportName, stepNames } from "./stage_files.ts";
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

/** Whose work a document is of. */
export function identityOf({ manifest, stage, work }: StageWork) {
  return {
    ...{ lane_id: manifest.lane_id, run_id: work.runId, window_id: work.windowId },
    ...{ assignment_id: work.assignmentId, replica_id: stage.replica_id },
  };
}

export type NamedFile = readonly [name: string, bytes: Uint8Array];

/** Writes files, the document that an envelope names and the envelope, in this order; what goes upstream is brought there. */
export function post(
  work: StageWork,
  kind: Crossing,
  step: number,
  document: object,
  before: readonly NamedFile[],
): void {
  const { root, stage, manifest } = work;
  const names = stepNames(kind, step);
  const payload = encoded(document);
  const to = kind === "gradient" ? stage.upstream_stage_id : stage.downstream_stage_id;
  const envelope = sealed(stageTransport, {
    ...identityOf(work),
    network_id: manifest.coordination.network_id,
    ...{ from_stage_id: stage.stage_id, to_stage_id: to ?? "" },
    ...{ handoff_kind: kind === "activation" ? "activation" : "tensor_collective" },
    ...{ transport: "wider_network_stream", payload_path: names.payload },
    ...{ payload_sha256: sha256(payload), payload_bytes: payload.length },
    source_stage_assignment_digest: stage.assignment_digest,
    detail: `${kind} of step ${step}.`,
  });
  const files = [...before, [names.payload, payload], [names.transport, encoded(envelope)]] as const;
  const folder = stageFolder(work);
  for (const [name, bytes] of files) root.writeBytes(`${folder}/${name}`, bytes);
  if (kind === "gradient") deliver(work, files);
}

const encoded = (value: object): Uint8Array => new TextEncoder().encode(orderedJson(value, 2));

/** Into the run root that the manifest's envelope lies in, where it lies in one on this machine. */
function deliver(work: StageWork, files: readonly NamedFile[]): void {
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

/** Where what an upstream hands on lies. */
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

/**
 * Waits for what a neighbour passes in a step. `look` is given the path of its envelope, once there is one, and gives what it
 * found, or says why that is not what is waited for.
 */
export function awaited<T extends object>(
  work: StageWork,
  kind: Crossing,
  step: number,
  look: (path: string) => T | string,
): T {
  const folder = kind === "gradient" ? work.root.path(resolvedFolder) : inputFolder(work);
  const path = join(folder, stepNames(kind, step).transport);
  const ends = performance.now() + work.patienceMs;
  let seen = "nothing came";
  let brokenAt: number | undefined;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 1.5, 25)) {
    try {
      const found = existsSync(path) ? look(path) : seen;
      if (typeof found !== "string") return found;
      seen = found;
      brokenAt = undefined;
    } catch (cause) {
      // files of another window may be about to be replaced one by one
      brokenAt ??= performance.now();
      if (!(cause instanceof Refusal) || performance.now() - brokenAt >= settlingMs) throw cause;
    }
    if (performance.now() >= ends) break;
    Bun.sleepSync(pauseMs);
  }
  const from = kind === "gradient" ? work.stage.downstream_stage_id : work.stage.upstream_stage_id;
  return refuse(
    "artifact_incomplete",
    `${kind} of step ${step} from ${JSON.stringify(from)} was waited for ${work.patienceMs} ms at ${path}: ${seen}`,
  );
}
