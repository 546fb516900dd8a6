import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { orderedJson } from "../../core/json.ts";
import { actualLane, adapterLane, appleLane, type LaneContract } from "../contract.ts";
import { sealed } from "../documents.ts";
import { type ExecutionEvidence, type LaneProfile, laneProfile } from "../evidence.ts";
import type { Example } from "../examples.ts";
import { buildDigest } from "../identity.ts";
import { invoke } from "../invoke.ts";
import { backendVariable } from "../lanes/lane_backend.ts";
import { builtInProfile } from "../lanes/profile.ts";
import { laneProfilePath } from "../layout.ts";
import type { StatusPacket } from "../packets.ts";
import { bound, Scene, source } from "./scene.ts";

const work: Readonly<Record<string, string>> = {
  [actualLane.id]: "full_island_local_update_training",
  [appleLane.id]: "small_model_local_training",
  [adapterLane.id]: "adapter_training",
};

/** A scene of one lane; invocations run on `backend`. */
export class LaneScene extends Scene {
  readonly lane: LaneContract;
  backend = "cpu";

  constructor(lane: LaneContract) {
    super();
    this.lane = lane;
  }

  do(operation: string, changes: Example = {}): StatusPacket {
    const { id: lane_id, releaseId: release_id, environmentRef: environment_ref } = this.lane;
    const admission_identity = { release_id, build_digest: buildDigest(this.lane, source), environment_ref };
    const launch = operation === "start" || operation === "rehearse_base_lane";
    const place = launch ? { run_id: "run", output_root: this.root } : { run_root: this.root };
    const words = this.write(
      this.manifest(operation, {
        ...{ lane_id, admission_identity, ...place, work_class: work[lane_id] },
        ...{ hardware_observation_path: null, run_shape_observation_path: null },
        ...(operation === "resume" && { peer_checkpoint_handoff_receipt: null }),
        ...(operation === "record_checkpoint" && { optimizer_step: 8 }),
        coordination: bound,
        ...changes,
      }),
    );
    const environment = this.environment({ [backendVariable[lane_id] ?? ""]: this.backend });
    return invoke(words, { environment, clock: () => this.now });
  }

  evidence(): ExecutionEvidence {
    return this.read("evidence/execution_evidence.json") as ExecutionEvidence;
  }

  profile(changes: Partial<LaneProfile> & { optimizer_settings?: Record<string, string> }): LaneProfile {
    const { optimizer_settings, ...rest } = changes;
    const own = builtInProfile(this.lane)!;
    const settings = own.optimizer.settings.map((s) => ({
      ...{ name: s.name, value: optimizer_settings?.[s.name] ?? s.value },
    }));
    const profile = sealed(laneProfile, { ...own, optimizer: { ...own.optimizer, settings }, ...rest });
    mkdirSync(join(this.root, "manifests"), { recursive: true });
    writeFileSync(join(this.root, laneProfilePath), orderedJson(profile, 2));
    return profile;
  }

  /** Validates the contribution to a window, in a run root of the validator's own, which goes by the same profile. */
  validate({ window_id: window, assignment_id } = bound): StatusPacket {
    const bundle = this.read(`windows/${window}/sealed_window_bundle.json`) as {
      contributions: { contribution_id: string }[];
    };
    const folder = join(
      this.root,
      "windows",
      window,
      "contributions",
      bundle.contributions[0]!.contribution_id,
    );
    const bind = (role: string, name: string) => {
      const bytes = readFileSync(join(folder, name));
      const artifact_id = `psionic.train.artifact.${role}.${sha256(bytes)}`;
      return {
        artifact_ref: { artifact_id, artifact_digest: sha256(bytes) },
        materialized_path: join(folder, name),
      };
    };
    const validator = join(this.folder, "validator");
    mkdirSync(join(validator, "manifests"), { recursive: true });
    writeFileSync(
      join(validator, laneProfilePath),
      readFileSync(join(this.root, "evidence/lane_profile.json")),
    );
    return this.do("validate_contribution", {
      ...{ run_root: validator, run_id: "validator", work_class: "validation_replay" },
      coordination: { ...bound, window_id: window, assignment_id, challenge_id: "challenge-0001" },
      validator_target_work_class: work[this.lane.id],
      validator_target_contribution_receipt: bind("contribution_receipt", "contribution_receipt.json"),
      validator_target_contribution_artifact_manifest: bind(
        ...(["contribution_artifact_manifest", "artifact_manifest.json"] as const),
      ),
    });
  }
}
