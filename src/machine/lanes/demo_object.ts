/** The demo lane's checkpoint: one JSON file of weights and moments, the same bytes for the same run. */
import { float32, orderedJson } from "../../core/json.ts";
import { demoLane } from "../contract.ts";
import { demoCheckpoint } from "./demo_documents.ts";
import { type DemoState, type DemoStep, demoParts, demoTensors } from "./demo_model.ts";

export function demoObject(runId: string, state: DemoState, steps: readonly DemoStep[]): Uint8Array {
  const numbers = (flat: Float32Array) =>
    Object.fromEntries([...demoParts(flat)].map(([name, part]) => [name, [...part].map(float32)]));
  const object = orderedJson({
    schema_version: demoCheckpoint.id,
    ...{ lane_id: demoLane.id, run_id: runId, optimizer_step: steps.length },
    shapes: Object.fromEntries(demoTensors),
    weights: numbers(state.weights),
    first_moments: numbers(state.first),
    second_moments: numbers(state.second),
  });
  return new TextEncoder().encode(object);
}
