/** The demo lane's profile, and the evidence of its run. */
import { sha256 } from "../../core/digest.ts";
import { float32Text } from "../../core/json.ts";
import { refuse } from "../contract.ts";
import { sealed, verified } from "../documents.ts";
import { executionEvidence, type LaneProfile, laneProfile } from "../evidence.ts";
import { evidencePath, laneProfilePath } from "../layout.ts";
import type { Invocation } from "../surfaces.ts";
import {
  type DemoState,
  type DemoStep,
  demoCorpus,
  demoRate,
  demoSteps,
  demoTensors,
  demoWeightCount,
  demoWindow,
  initialDemoWeights,
} from "./demo_model.ts";

const identity = "psion_cs336_a1_demo_corpus@v1";
const seed = "psion.cs336_a1.reference_parameter";
const settings = (values: Readonly<Record<string, string>>) =>
  Object.entries(values).map(([name, value]) => ({ name, value }));

/** The lane trains this and nothing else. */
export function demoProfile(): LaneProfile {
  const bytes = new TextEncoder().encode(demoCorpus);
  return sealed(laneProfile, {
    lane_id: "psion_cs336_a1_demo_v1",
    model: {
      name: "cs336_a1_reference",
      settings: settings({
        weights: String(demoWeightCount),
        context: "2",
        width: "2",
        layers: "1",
        feed_forward: "4",
      }),
    },
    base_digest: null,
    data: [{ identity, digest: sha256(bytes) }],
    ...{ token_start: 0, token_end: bytes.length, steps: demoSteps, seed },
    optimizer: {
      name: "adam_w",
      settings: settings({
        ...{ beta1: "0.9", beta2: "0.95", epsilon: "1e-8", weight_decay: "0", clip: "1" },
        ...{ gradient: "forward_difference", difference: "0.005", rate_max: "0.15", rate_min: "0.02" },
      }),
    },
  });
}

/** Refuses a run root whose profile asks for something else. */
export function checkDemoProfile({ root }: Invocation): LaneProfile {
  const own = demoProfile();
  if (!root.has(laneProfilePath)) return own;
  let asked: LaneProfile;
  try {
    asked = verified(laneProfile, root.json(laneProfilePath), root.path(laneProfilePath));
  } catch (cause) {
    return refuse("bad_config", cause instanceof Error ? cause.message : String(cause), cause);
  }
  if (asked.profile_digest === own.profile_digest) return own;
  return refuse("bad_config", `the demo lane trains its built-in profile ${own.profile_digest} alone`);
}

/** Of the numbers' bytes, little-endian. */
function stateDigest(...parts: readonly Float32Array[]): string {
  const bytes = parts.map((part) => {
    const view = new DataView(new ArrayBuffer(part.length * 4));
    for (const [i, value] of part.entries()) view.setFloat32(i * 4, value, true);
    return new Uint8Array(view.buffer);
  });
  return sha256(Buffer.concat(bytes));
}

export function writeDemoEvidence(
  invocation: Invocation,
  profile: LaneProfile,
  state: DemoState,
  steps: readonly DemoStep[],
  objectDigest: string,
): void {
  const { manifest, lane, root, capability } = invocation;
  const { window_id, assignment_id } = manifest.coordination;
  const plan = { tensors: demoTensors, rates: steps.map((_, i) => float32Text(demoRate(i))) };
  const evidence = sealed(executionEvidence, {
    ...{
      lane_id: lane.id,
      work_class: manifest.work_class,
      run_id: manifest.run_id ?? "",
      window_id,
      assignment_id,
    },
    lane_profile_digest: profile.profile_digest,
    start_state_digest: stateDigest(initialDemoWeights()),
    data: {
      ...{ identity, digest: sha256(demoCorpus) },
      token_ranges: steps.map(({ step }) => ({
        step,
        start: step - 1,
        end: step - 1 + demoWindow(step - 1).length,
      })),
    },
    seed,
    steps: steps.map((s) => ({
      step: s.step,
      loss: float32Text(s.lossBefore),
      gradient_norm: float32Text(s.gradientNorm),
      learning_rate: float32Text(s.learningRate),
    })),
    end_state_digest: stateDigest(state.weights),
    optimizer_state_digest: stateDigest(state.first, state.second),
    checkpoint_object_digest: objectDigest,
    backend: capability.backend_family,
    kernel_library_digest: null,
    plan_digest: sha256(JSON.stringify(plan)),
  });
  root.write(evidencePath, evidence);
}
