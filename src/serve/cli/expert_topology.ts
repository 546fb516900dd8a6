import type { ModelFiles } from "../../models/files/source.ts";

/** Where the experts of a mixture model lie, from names and shapes alone: also for families that are not executed. */
export type ExpertTopology = {
  readonly experts: number;
  /** Experts of one token; undefined when the file does not state it. */
  readonly used: number | undefined;
  readonly shared: boolean;
  readonly layers: readonly number[];
  /** Of one layer. */
  readonly bytesPerExpert: number;
  readonly expertBytes: number;
};

const stacked = /(?:^|\.)(?:blk|layers)\.(\d+)\..*(?:_exps\b|\.experts\.(?!\d))/;
const single = /(?:^|\.)layers\.(\d+)\..*\.experts\.(\d+)\./;
const sharedExpert = /_shexp\b|shared_expert/;

/** Undefined for a model without experts. */
export function expertTopology(files: ModelFiles): ExpertTopology | undefined {
  const layers = new Set<number>();
  let experts = 0;
  let expertBytes = 0;
  let shared = false;
  for (const { name, shape, bytes } of files.tensors.values()) {
    if (sharedExpert.test(name)) {
      shared = true;
      continue;
    }
    const one = single.exec(name);
    const all = one ? undefined : stacked.exec(name);
    if (!one && !all) continue;
    layers.add(Number((one ?? all)![1]));
    experts = Math.max(experts, one ? Number(one[2]) + 1 : (shape[0] ?? 0));
    expertBytes += bytes;
  }
  if (layers.size === 0) return undefined;
  return {
    ...{ experts, shared, expertBytes },
    used: statedNumber(
      files,
      ["expert_used_count"],
      ["num_experts_per_tok", "experts_per_token", "top_k_experts"],
    ),
    layers: [...layers].sort((a, b) => a - b),
    bytesPerExpert: expertBytes / layers.size / Math.max(experts, 1),
  };
}

function statedNumber(
  files: ModelFiles,
  gguf: readonly string[],
  config: readonly string[],
): number | undefined {
  const keys = files.kind === "gguf" ? gguf.map((key) => `${files.architecture}.${key}`) : config;
  return keys.map((key) => files.setting(key)).find((value): value is number => typeof value === "number");
}
