/** One invocation in manifest mode: what is checked in which order, what is done, and the packet that says how it ended. */
import { orderedJson } from "../core/json.ts";
import { visible } from "../terminal/visible.ts";
import { isLaunch, laneContract, type Operation, Refusal, type RefusalClass, refuse } from "./contract.ts";
import { parsed, sealed } from "./documents.ts";
import {
  type Attestation,
  attest,
  type Capability,
  capabilityOf,
  checkAdmission,
  sourceState,
} from "./identity.ts";
import { perform } from "./lanes/index.ts";
import { laneBackend } from "./lanes/lane_backend.ts";
import { launcherLogPath, pointerPath, retainedSummaryPath, statusPath } from "./layout.ts";
import { type InvocationManifest, invocationManifest } from "./manifest.ts";
import { checkManifest } from "./manifest_rules.ts";
import { askedOf, type Outcome, refusedAs, type StatusPacket, statusPacket, succeeded } from "./packets.ts";
import { fileBytes, jsonOf, RunRoot } from "./run_root.ts";
import { checkInputTransport } from "./stage_transport.ts";
import { type Invocation, resolvedRunId, type WrittenSurfaces, writeSurfaces } from "./surfaces.ts";
import { failedWrite } from "./unwritable.ts";

/** What is known so far; packets tell as much. */
type Known = {
  path?: string;
  bytes?: Uint8Array;
  manifest?: InvocationManifest;
  attestation?: Attestation;
  capability?: Capability;
};

export type InvokeOptions = {
  readonly environment?: NodeJS.ProcessEnv;
  /** Milliseconds since 1970. */
  readonly clock?: () => number;
  /** The one operation that is let pass; any other is `bad_config`. */
  readonly only?: Operation;
  /** How many steps a validator does again at least. */
  readonly replaySteps?: number | "all";
};

/** A manifest that was made here, and where in its run root it is kept. */
export type Composed = {
  readonly manifest: InvocationManifest;
  readonly keptAt: string;
  readonly replaySteps?: number | "all";
};

/** Runs what the words `--manifest PATH` name; never throws. The packet's exit code is the process's. */
export function invoke(words: readonly string[], options: InvokeOptions = {}): StatusPacket {
  return ended((known) => run(readManifest(words, known), known, options));
}

/** Runs a manifest that `compose` makes; never throws. It is written into its run root first, for packets to name. */
export function invokeComposed(compose: () => Composed, options: InvokeOptions = {}): StatusPacket {
  return ended((known) => {
    const { manifest, keptAt, ...own } = compose();
    known.manifest = manifest;
    known.bytes = new TextEncoder().encode(orderedJson(manifest, 2));
    return run(manifest, known, { ...options, ...own }, keptAt);
  });
}

function ended(work: (known: Known) => StatusPacket): StatusPacket {
  const known: Known = {};
  try {
    return work(known);
  } catch (cause) {
    return refusedPacket(known, ...reasonOf(cause), undefined);
  }
}

/** Class and detail of whatever ended an invocation; without stack and without control characters. */
function reasonOf(cause: unknown): readonly [RefusalClass, string] {
  const detail = visible(cause instanceof Error ? cause.message : String(cause)).replaceAll("\n", " ");
  return [cause instanceof Refusal ? cause.refusalClass : "internal_error", detail.slice(0, 2000)];
}

function run(
  manifest: InvocationManifest,
  known: Known,
  options: InvokeOptions,
  keptAt?: string,
): StatusPacket {
  if (options.only !== undefined && manifest.operation !== options.only)
    refuse("bad_config", `expected operation ${options.only}, got ${manifest.operation}`);
  checkManifest(manifest);
  const lane =
    laneContract(manifest.lane_id) ?? refuse("unsupported_topology", `no lane ${manifest.lane_id}`);
  const environment = options.environment ?? process.env;
  const source = sourceState(manifest, environment);
  known.attestation = attest(lane, source);
  known.capability = capabilityOf(lane, manifest.role, laneBackend(lane, environment));
  const rootPath = (isLaunch(manifest.operation) ? manifest.output_root : manifest.run_root) ?? "";
  using root = RunRoot.open(rootPath);
  if (keptAt !== undefined) {
    root.writeBytes(keptAt, known.bytes ?? new Uint8Array());
    known.path = root.path(keptAt);
  }
  const invocation: Invocation = {
    ...{ manifest, lane, root, attestation: known.attestation, capability: known.capability },
    manifestPath: known.path ?? "",
    manifestBytes: known.bytes ?? new Uint8Array(),
    now: (options.clock ?? Date.now)(),
    ...(options.replaySteps !== undefined && { replaySteps: options.replaySteps }),
  };
  let detail: string;
  let checked = invocation;
  try {
    checkAdmission(manifest, known.attestation);
    if (manifest.grouped_stage_input_transport !== null) {
      checkInputTransport(manifest);
      checked = { ...invocation, inputTransportChecked: true };
    }
    detail = perform(checked, environment);
  } catch (cause) {
    const [told, why] = reasonOf(cause);
    // what an operation could not write may be written by a later try
    const refusalClass = cause instanceof Refusal ? told : (failedWrite(cause) ?? told);
    return refusedPacket(known, refusalClass, why, attempted(checked, refusedAs(refusalClass), why));
  }
  return succeededPacket(known, checked, writeSurfaces(checked, succeeded, detail), detail);
}

/** Steps 1 and 2: whatever is wrong with the words, the file or its JSON is `bad_config`. */
function readManifest(words: readonly string[], known: Known): InvocationManifest {
  const [option, path, ...rest] = words;
  if (option !== "--manifest" || path === undefined || path === "" || rest.length > 0)
    refuse("bad_config", "expected exactly --manifest PATH");
  known.path = path;
  try {
    known.bytes = fileBytes(path);
    known.manifest = parsed(invocationManifest, jsonOf(known.bytes, path), path);
    return known.manifest;
  } catch (cause) {
    return refuse("bad_config", cause instanceof Error ? cause.message : String(cause), cause);
  }
}

/** Surfaces of a refusal are best effort: where they cannot be written, the packet has no paths. */
function attempted(invocation: Invocation, outcome: Outcome, detail: string): WrittenSurfaces | undefined {
  try {
    return writeSurfaces(invocation, outcome, detail);
  } catch {
    return undefined;
  }
}

function rootOf(manifest: InvocationManifest | undefined): string | null {
  if (!manifest) return null;
  return isLaunch(manifest.operation) ? manifest.output_root : manifest.run_root;
}

const noPaths = {
  current_status_path: null,
  retained_summary_path: null,
  latest_checkpoint_pointer_path: null,
  launcher_log_path: null,
};

function refusedPacket(
  known: Known,
  refusalClass: RefusalClass,
  detail: string,
  surfaces: WrittenSurfaces | undefined,
): StatusPacket {
  const { manifest } = known;
  const runId = manifest?.role === "validator" ? undefined : surfaces?.runId;
  return packet(known, refusedAs(refusalClass), detail, {
    run_id: runId ?? manifest?.run_id ?? null,
    run_status_packet_path: surfaces?.runPacket ?? null,
    window_status_packet_path: surfaces?.windowPacket ?? null,
    ...noPaths,
  });
}

function succeededPacket(
  known: Known,
  invocation: Invocation,
  surfaces: WrittenSurfaces,
  detail: string,
): StatusPacket {
  const { root, manifest } = invocation;
  return packet(known, succeeded, detail, {
    run_id: manifest.role === "validator" ? manifest.run_id : resolvedRunId(invocation),
    run_status_packet_path: surfaces.runPacket,
    window_status_packet_path: surfaces.windowPacket,
    current_status_path: root.present(statusPath),
    retained_summary_path: root.present(retainedSummaryPath),
    latest_checkpoint_pointer_path: root.present(pointerPath),
    launcher_log_path: root.present(launcherLogPath),
  });
}

type Places = Pick<
  StatusPacket,
  "run_id" | "run_status_packet_path" | "window_status_packet_path" | keyof typeof noPaths
>;

function packet(known: Known, outcome: Outcome, detail: string, places: Places): StatusPacket {
  return sealed(statusPacket, {
    ...askedOf(known.manifest, outcome),
    manifest_path: known.path ?? null,
    runtime_attestation: known.attestation ?? null,
    capability_projection: known.capability ?? null,
    run_root: rootOf(known.manifest),
    ...places,
    detail,
  });
}
