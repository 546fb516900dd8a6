/** What this process is: the source it was built from, and the digest that a supervisor admits it by. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type * as v from "valibot";
import { sha256 } from "../core/digest.ts";
import { bakedSource } from "./baked.ts";
import {
  dirtyTreeAdmissions,
  type LaneContract,
  type Role,
  refuse,
  roles,
  runtimeSurfaceId,
} from "./contract.ts";
import { document } from "./documents.ts";
import { isBlank, oneOf, orNull, record, str } from "./fields.ts";
import type { InvocationManifest } from "./manifest.ts";

/** In packets: what the process found, not what the caller claimed. */
export const attestationDocument = document("psionic.train.runtime_attestation.v1", {
  release_id: str,
  build_digest: str,
  git_commit_sha: str,
  dirty_tree_admission: oneOf(dirtyTreeAdmissions),
  workspace_status_sha256: orNull(str),
  environment_ref: str,
});
export const attestation = attestationDocument.schema;
export type Attestation = v.InferOutput<typeof attestation>;

export const capability = record({
  lane_id: str,
  role: oneOf(roles),
  backend_family: str,
  topology_class: str,
  environment_ref: str,
});
export type Capability = v.InferOutput<typeof capability>;

/** A declared state of the source. */
export type SourceState = {
  readonly commit: string;
  readonly admission: (typeof dirtyTreeAdmissions)[number];
  readonly status: string | null;
};

/** SHA-256 over the declared source state and the lane's constants; it does not name the executable's bytes. */
export function buildDigest(lane: LaneContract, source: SourceState): string {
  const parts = {
    release_id: lane.releaseId,
    runtime_surface_id: runtimeSurfaceId,
    lane_id: lane.id,
    git_commit_sha: source.commit,
    dirty_tree_admission: source.admission,
    workspace_status_sha256: source.status ?? "",
    environment_ref: lane.environmentRef,
  };
  const text = Object.entries(parts).map(([key, value]) => `${key}|${value}`);
  return sha256(["psionic-train-runtime-build", ...text].join("|"));
}

export function attest(lane: LaneContract, source: SourceState): Attestation {
  return {
    schema_version: attestationDocument.id,
    release_id: lane.releaseId,
    build_digest: buildDigest(lane, source),
    git_commit_sha: source.commit,
    dirty_tree_admission: source.admission,
    workspace_status_sha256: source.status,
    environment_ref: lane.environmentRef,
  };
}

/** What the lane's work runs on: from its table, or the backend that stands in for it. */
export function capabilityOf(lane: LaneContract, role: Role, backend = lane.backend): Capability {
  return {
    ...{ lane_id: lane.id, role, backend_family: backend },
    ...{ topology_class: lane.topology, environment_ref: lane.environmentRef },
  };
}

const revisionFile = ".openagents-psionic-revision";
const packagedRef = "packaged-runtime";

type Found =
  | { readonly kind: "packaged"; readonly commit: string; readonly dirtyStatus: string | null }
  | { readonly kind: "checkout"; readonly root: string };

/**
 * The source this process runs, by the manifest's `selected_git_ref`. Packaged is what a revision file or the executable
 * itself says; a checkout is asked only by a process that runs from its source.
 */
export function sourceState(
  manifest: InvocationManifest,
  environment: NodeJS.ProcessEnv = process.env,
): SourceState {
  const found = runtimeRoot(environment);
  const ref = manifest.selected_git_ref ?? "";
  return found.kind === "packaged"
    ? packagedState(found.commit, found.dirtyStatus, ref, manifest.allow_dirty_tree)
    : checkoutState(found.root, ref, manifest.allow_dirty_tree);
}

/** What a manifest has to ask for so that this process, as it is, will do what it says. */
export function ownSource(environment: NodeJS.ProcessEnv): {
  readonly selected_git_ref: string;
  readonly allow_dirty_tree: boolean;
} {
  const found = runtimeRoot(environment);
  if (found.kind === "packaged")
    return { selected_git_ref: packagedRef, allow_dirty_tree: found.dirtyStatus !== null };
  return {
    selected_git_ref: "HEAD",
    allow_dirty_tree: (git(found.root, "status", "--porcelain") ?? "") !== "",
  };
}

function runtimeRoot(environment: NodeJS.ProcessEnv): Found {
  const named = environment.OPENAGENTS_PSIONIC_REPO ?? "";
  if (!isBlank(named)) {
    const commit = revisionIn(named);
    if (commit !== undefined) return { kind: "packaged", commit, dirtyStatus: null };
    if (isCheckout(named)) return { kind: "checkout", root: named };
  }
  for (let at = dirname(process.execPath); ; at = dirname(at)) {
    const commit = revisionIn(at);
    if (commit !== undefined) return { kind: "packaged", commit, dirtyStatus: null };
    if (dirname(at) === at) break;
  }
  if (bakedSource !== undefined) {
    const { commit, dirtyStatus } = bakedSource as NonNullable<typeof bakedSource>;
    return { kind: "packaged", commit, dirtyStatus };
  }
  const source = join(import.meta.dir, "..", "..");
  if (isCheckout(source)) return { kind: "checkout", root: source };
  return refuse(
    "internal_error",
    "no runtime root: neither a revision file nor a checkout of the source was found",
  );
}

function revisionIn(folder: string): string | undefined {
  try {
    const text = readFileSync(join(folder, revisionFile), "utf8").trim();
    return text === "" ? undefined : text;
  } catch {
    return undefined; // not a packaged runtime
  }
}

function isCheckout(folder: string): boolean {
  return existsSync(join(folder, ".git")) && existsSync(join(folder, "src", "machine", "identity.ts"));
}

/** An executable that was built from changed source says so, and runs only where that is allowed. */
function packagedState(
  commit: string,
  dirtyStatus: string | null,
  ref: string,
  allowDirty: boolean,
): SourceState {
  if (ref !== packagedRef)
    refuse(
      "bad_config",
      `selected_git_ref of a packaged runtime is ${packagedRef}, got ${JSON.stringify(ref.slice(0, 80))}`,
    );
  if (dirtyStatus === null) {
    if (allowDirty) refuse("bad_config", "allow_dirty_tree is false for a packaged runtime");
    return { commit, admission: "packaged_clean_release", status: null };
  }
  if (!allowDirty)
    refuse(
      "bad_config",
      "this executable was built from a tree with uncommitted changes; allow_dirty_tree is false",
    );
  return { commit, admission: "allowed_by_operator_override", status: dirtyStatus };
}

function git(folder: string, ...words: string[]): string | undefined {
  try {
    const { exitCode, stdout } = Bun.spawnSync(["git", "-C", folder, ...words], { stderr: "ignore" });
    return exitCode === 0 ? stdout.toString() : undefined;
  } catch {
    return undefined; // no git on this machine
  }
}

function checkoutState(root: string, ref: string, allowDirty: boolean): SourceState {
  const commit = git(root, "rev-parse", "--verify", "--end-of-options", ref)?.trim();
  if (!commit)
    refuse("bad_config", `selected_git_ref ${JSON.stringify(ref.slice(0, 80))} is no ref of the checkout`);
  const clean = (git(root, "status", "--porcelain") ?? "") === "";
  if (clean) return { commit, admission: "refuse_by_default", status: null };
  if (!allowDirty) refuse("bad_config", "the checkout has uncommitted changes and allow_dirty_tree is false");
  const status = sha256((git(root, "status", "--short", "--branch") ?? "").trim());
  return { commit, admission: "allowed_by_operator_override", status };
}

/** Refuses to run as anything but what the caller admitted; the order of comparison is the contract's. */
export function checkAdmission(manifest: InvocationManifest, found: Attestation): void {
  const admitted = manifest.admission_identity;
  const compare = [
    ["release_id", "build_revoked"],
    ["environment_ref", "environment_mismatch"],
    ["build_digest", "build_revoked"],
  ] as const;
  for (const [field, refusalClass] of compare) {
    if (admitted[field] === found[field]) continue;
    const got = JSON.stringify(admitted[field].slice(0, 120));
    refuse(refusalClass, `admission_identity.${field} is ${got}, this runtime is ${found[field]}`);
  }
}
