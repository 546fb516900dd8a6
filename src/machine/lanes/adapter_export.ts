/** Trained adapters in the form in which they are exchanged: a safetensors file of A and B matrices, and their settings. */

import { part } from "../../train/parameters.ts";
import { writeTensors } from "../../train/tensor_file.ts";
import type { Trainer } from "../../train/trainer.ts";
import { adapterFolder } from "../layout.ts";
import type { RunRoot } from "../run_root.ts";
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
    name: `base_model.model.${place.spec.name}`,
    tensor: part(parameters.values, place, place.spec.shape),
  }));
  tensors.sort((a, b) => (a.name < b.name ? -1 : 1));
  writeTensors(device, root.place(adapterWeightsPath), adapterWeightsPath, tensors);
  root.write(adapterConfigPath, {
    ...{ peft_type: "LORA", task_type: "CAUSAL_LM", base_model_name_or_path: profile.model.name },
    ...{ r: adapter.rank, lora_alpha: adapter.alpha, lora_dropout: 0, bias: "none", fan_in_fan_out: false },
    target_modules: [...adapter.adapted],
    base_seed: profile.base_digest === null ? profile.seed : null,
    base_digest: profile.base_digest,
  });
}
