/** Trained adapters in the form in which they are exchanged: a safetensors file of A and B matrices, and their settings. */

import { sha256 } from "../../core/digest.ts";
import { orderedJson } from "../../core/json.ts";
import { part } from "../../train/parameters.ts";
import { storedTensors, writeTensors } from "../../train/tensor_file.ts";
import type { Trainer } from "../../train/trainer.ts";
import { refuse } from "../contract.ts";
import { type LaneProfile, retainedKind } from "../evidence.ts";
import { adapterFolder } from "../layout.ts";
import type { Found } from "../replay_inputs.ts";
import type { RunRoot } from "../run_root.ts";
import type { Difference, ReplayTarget } from "../window_replayer.ts";
import type { AdapterModel } from "./adapter_model.ts";
import type { WindowPlan } from "./window_plan.ts";

export const adapterWeightsPath = `${adapterFolder}/adapter_model.safetensors`;
export const adapterConfigPath = `${adapterFolder}/adapter_config.json`;

/** Writes both files where the plan trains adapters; removes older ones where it does not. */
export function exportAdapter(
  root: RunRoot,
  { parameters, device }: Trainer,
  { adapter, profile }: WindowPlan,
): void {
  if (!adapter) {
    root.remove(adapterFolder);
    return;
  }
  const tensors = parameters.places.map((place) => ({
    name: exportedName(place.spec.name),
    tensor: part(parameters.values, place, place.spec.shape),
  }));
  tensors.sort((a, b) => (a.name < b.name ? -1 : 1));
  writeTensors(device, root.place(adapterWeightsPath), adapterWeightsPath, tensors);
  root.write(adapterConfigPath, adapterConfig(adapter, profile));
}

/** Name of a trained matrix where adapters are exchanged. */
const exportedName = (name: string): string => `base_model.model.${name}`;

const adapterConfig = (adapter: AdapterModel, profile: LaneProfile) => ({
  ...{ peft_type: "LORA", task_type: "CAUSAL_LM", base_model_name_or_path: profile.model.name },
  ...{ r: adapter.rank, lora_alpha: adapter.alpha, lora_dropout: 0, bias: "none", fan_in_fan_out: false },
  target_modules: [...adapter.adapted],
  base_seed: profile.base_digest === null ? profile.seed : null,
  base_digest: profile.base_digest,
});

/** Whether the adapters that a contribution hands out are those in the state that its window ended in. */
export function adapterDifferences(
  { evidence, file }: ReplayTarget,
  { adapter, profile }: WindowPlan,
): Difference[] {
  if (!adapter) return [];
  const of = (kind: string): Found =>
    file(kind) ??
    refuse("artifact_incomplete", `the contribution has no ${kind}, which adapters are handed out as`);
  const [weights, config, state] = [
    of("adapter_weights"),
    of("adapter_config"),
    of(retainedKind(evidence.retained_states.at(-1)?.step ?? 0)),
  ];
  const differ = (what: string, expected: string, observed: string): Difference[] =>
    expected === observed ? [] : [{ what, expected, observed }];
  const trained = tensorDigests(state, (name) =>
    /^model\./.test(name) ? exportedName(name.slice(6)) : undefined,
  );
  const handed = tensorDigests(weights, (name) => name);
  const names = [...new Set([...trained.keys(), ...handed.keys()])];
  const told = orderedJson(adapterConfig(adapter, profile), 2);
  return [
    ...names.flatMap((name) =>
      differ(`adapter_weights.${name}`, trained.get(name) ?? "nothing", handed.get(name) ?? "nothing"),
    ),
    ...differ("adapter_config", sha256(told), config.sha256),
  ];
}

/** Type, shape and digest of tensors by the names that `named` gives them; `artifact_digest_mismatch` for a file that is none. */
function tensorDigests(
  { path, sha256: expected }: Found,
  named: (name: string) => string | undefined,
): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  try {
    for (const { name, record, data } of storedTensors(path, expected)) {
      const as = named(name);
      if (as !== undefined) found.set(as, `${record.dtype} [${record.shape}] ${sha256(data)}`);
    }
  } catch (cause) {
    refuse("artifact_digest_mismatch", cause instanceof Error ? cause.message : String(cause), cause);
  }
  return found;
}
