/** The files that evidence stands on, as artifacts of a contribution: retained states, profile, data, base and adapters. */
import { extname } from "node:path";
import { type ExecutionEvidence, laneProfile, retainedKind } from "./evidence.ts";
import { adapterFolder, retainedPathOf, trainedProfilePath } from "./layout.ts";
import type { RunRoot } from "./run_root.ts";

/** What stands before the path of a token file in the identity of a profile's data. */
export const tokenPrefix = "tokens:";

/** Where a profile's base weights lie below the run root, when they are not made from the seed. */
export const baseWeightsPath = "manifests/base.safetensors";

/** Artifact kind of a file that a profile names: its data by their place among the token files, or its base. */
export function profileFileKind(paths: readonly string[], path: string): string | undefined {
  if (path === baseWeightsPath) return "base_weights";
  const index = paths.indexOf(path);
  return index < 0 ? undefined : `training_tokens_${index}`;
}

/** Paths below the run root of the token files that a profile names, in order. */
export const tokenPaths = (profile: {
  readonly data: readonly { readonly identity: string }[];
}): readonly string[] =>
  profile.data.flatMap(({ identity }) =>
    identity.startsWith(tokenPrefix) ? [identity.slice(tokenPrefix.length)] : [],
  );

/** Artifact kinds and paths below the run root; empty for a lane that keeps no states. */
export function evidenceFiles(root: RunRoot, evidence: ExecutionEvidence): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  if (evidence.retained_states.length === 0) return files;
  const start = (evidence.steps[0]?.step ?? 1) - 1;
  for (const step of [start, ...evidence.retained_states.map((state) => state.step)])
    files.set(retainedKind(step), retainedPathOf(step));
  files.set("lane_profile", trainedProfilePath);
  files.set("adapter_weights", `${adapterFolder}/adapter_model.safetensors`);
  files.set("adapter_config", `${adapterFolder}/adapter_config.json`);
  const profile = root.read(laneProfile, trainedProfilePath);
  const paths = profile ? tokenPaths(profile) : [];
  for (const path of [...paths, baseWeightsPath]) files.set(profileFileKind(paths, path) ?? path, path);
  for (const [kind, path] of files) if (!root.has(path)) files.delete(kind);
  if (profile?.base_digest === null) files.delete("base_weights");
  return files;
}

/** Name of such an artifact's copy. */
export const copyName = (kind: string, path: string): string => `${kind}${extname(path)}`;
