/** The demo lane's profile, and the evidence of its run. */
import { sha256 } from "../../core/digest.ts";
import { float32Text } from "../../core/json.ts";
import { checkpointManifest } from "../checkpoint.ts";
import { demoLane, refuse } from "../contract.ts";
import { sealed, verified } from "../documents.ts";
import { type ExecutionEvidence, executionEvidence, type LaneProfile, laneProfile } from "../evidence.ts";
import { evidencePath, laneProfilePath } from "../layout.ts";
import { replayed } from "../replay_inputs.ts";
import type { Invocation } from "../surfaces.ts";
import type { WindowReplayer } from "../window_replayer.ts";
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
  trainDemo,
} from "./demo_model.ts";
import { demoObject } from "./demo_object.ts";
import { leaves } from "./leaves.ts";

const identity = "psion_cs336_a1_demo_corpus@v1";
const seed = "psion.cs336_a1.reference_parameter";
const settings = (values: Readonly<Record<string, string>>) =>
  Object.entries(values).map(([name, value]) => ({ name, value }));

/** The lane trains this and nothing else. */
export function demoProfile(): LaneProfile {
  const bytes = new TextEncoder().encode(demoCorpus);
  return sealed(laneProfile, {
    lane_id: demoLane.id,
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
export function checkDemoProfile({ root }: Invocation): void {
  const own = demoProfile();
  if (!root.has(laneProfilePath)) return;
  let asked: LaneProfile;
  try {
    asked = verified(laneProfile, root.json(laneProfilePath), root.path(laneProfilePath));
  } catch (cause) {
    refuse("bad_config", cause instanceof Error ? cause.message : String(cause), cause);
  }
  if (asked.profile_digest === own.profile_digest) return;
  refuse("bad_config", `the demo lane trains its built-in profile ${own.profile_digest} alone`);
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

type Work = Pick<ExecutionEvidence, "work_class" | "run_id" | "window_id" | "assignment_id" | "backend">;

function evidenceOf(
  work: Work,
  state: DemoState,
  steps: readonly DemoStep[],
  objectDigest: string,
  duration_ms: number | null,
): ExecutionEvidence {
  const plan = { tensors: demoTensors, rates: steps.map((_, i) => float32Text(demoRate(i))) };
  return sealed(executionEvidence, {
    lane_id: demoLane.id,
    ...work,
    lane_profile_digest: demoProfile().profile_digest,
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
    retained_states: [],
    end_state_digest: stateDigest(state.weights),
    optimizer_state_digest: stateDigest(state.first, state.second),
    checkpoint_object_digest: objectDigest,
    kernel_library_digest: null,
    plan_digest: sha256(JSON.stringify(plan)),
    duration_ms,
  });
}

export function writeDemoEvidence(
  { manifest, root, capability }: Invocation,
  state: DemoState,
  steps: readonly DemoStep[],
  objectDigest: string,
  durationMs: number,
): void {
  const { window_id, assignment_id } = manifest.coordination;
  const work = { work_class: manifest.work_class, run_id: manifest.run_id ?? "", window_id, assignment_id };
  const evidence = evidenceOf(
    ...([{ ...work, backend: capability.backend_family }, state, steps, objectDigest] as const),
    Math.round(durationMs),
  );
  root.write(evidencePath, evidence);
}

/** All steps again from the initial weights: every value of the evidence must come out, bit for bit. */
export const demoReplayer: WindowReplayer = {
  segments: () => [{ first: 1, last: demoSteps }],
  replay({ evidence: claimed, file }) {
    const begun = performance.now();
    const { state, steps } = trainDemo();
    const { run_id, work_class, window_id, assignment_id, duration_ms } = claimed;
    const work = { work_class, run_id, window_id, assignment_id, backend: demoLane.backend };
    const object = demoObject(run_id, state, steps);
    const observed = evidenceOf(work, state, steps, sha256(object), duration_ms);
    const [expected, found] = [leaves(claimed), leaves(observed)];
    const names = [...new Set([...expected.keys(), ...found.keys()])].filter(
      // traces are compared step by step
      (name) =>
        name !== "evidence_digest" && !/^steps\.[0-3]\.(loss|gradient_norm|learning_rate)$/.test(name),
    );
    const differences = names
      .filter((name) => expected.get(name) !== found.get(name))
      .map((what) => ({
        what,
        expected: expected.get(what) ?? "nothing",
        observed: found.get(what) ?? "nothing",
      }));
    const named = file("checkpoint_manifest");
    const size = named && Number(replayed(checkpointManifest, named).checkpoint_total_bytes);
    if (size !== undefined && size !== object.length)
      differences.push({
        what: "checkpoint_manifest.checkpoint_total_bytes",
        ...{ expected: String(object.length), observed: String(size) },
      });
    return {
      ...{ backend: demoLane.backend, kernelLibraryDigest: null, sameKernels: true, differences },
      steps: observed.steps.map((trace, i) => ({
        step: trace.step,
        claimed: claimed.steps[i] ?? { loss: "nothing", gradient_norm: "nothing", learning_rate: "nothing" },
        observed: trace,
      })),
      states: [],
      durationMs: performance.now() - begun,
    };
  },
};
