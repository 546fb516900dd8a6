/** A worker's run roots and a validator's beside each other, for tests that judge contributions. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { orderedJson } from "../../core/json.ts";
import { validationPacket } from "../cli/validate.ts";
import {
  actualLane,
  adapterLane,
  appleLane,
  demoLane,
  type LaneContract,
  type WorkClass,
} from "../contract.ts";
import { sealed } from "../documents.ts";
import { type LaneProfile, laneProfile } from "../evidence.ts";
import type { Example } from "../examples.ts";
import { buildDigest } from "../identity.ts";
import { invoke } from "../invoke.ts";
import { builtInProfile } from "../lanes/profile.ts";
import type { StatusPacket } from "../packets.ts";
import { bound, Scene, source } from "./scene.ts";

/** How a lane's work is asked for in tests: on this machine's processor. */
export const laneWork: Readonly<Record<string, { readonly lane: LaneContract; readonly work: WorkClass }>> = {
  demo: { lane: demoLane, work: "small_model_local_training" },
  actual: { lane: actualLane, work: "full_island_local_update_training" },
  apple: { lane: appleLane, work: "small_model_local_training" },
  adapter: { lane: adapterLane, work: "adapter_training" },
};

export type ContributeOptions = {
  readonly window?: string;
  readonly runId?: string;
  /** Changes the lane's own profile. */
  readonly profile?: (profile: LaneProfile) => LaneProfile;
  readonly environment?: NodeJS.ProcessEnv;
};

export class Bench extends Scene {
  /** The run root of the validator. */
  readonly validator = join(this.folder, "validator");
  #roots = 0;

  override environment(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
    const stands = {
      ...{ PSIONIC_ACTUAL_LANE_BACKEND: "cpu", PSIONIC_APPLE_LANE_BACKEND: "cpu" },
      PSIONIC_ADAPTER_LANE_BACKEND: "cpu",
    };
    return super.environment({ ...stands, ...extra });
  }

  /** Trains a window in a run root of its own and has its end accepted; the contribution's folder. */
  contribute(name: string, { window = "window-0001", ...options }: ContributeOptions = {}): string {
    const { lane, work } = laneWork[name]!;
    const root = join(this.folder, `worker-${++this.#roots}`);
    if (options.profile) this.profile(root, lane, options.profile);
    const asked = {
      ...{ lane_id: lane.id, work_class: work },
      admission_identity: {
        ...{ release_id: lane.releaseId, build_digest: buildDigest(lane, source) },
        environment_ref: lane.environmentRef,
      },
      coordination: { ...bound, window_id: window },
      run_id: options.runId ?? "run-0001",
    };
    const environment = this.environment(options.environment);
    this.#done("start", { ...asked, output_root: root }, environment);
    if (lane !== demoLane) {
      const step = this.#lastStep(root);
      const label = { checkpoint_label: "end", checkpoint_ref: "checkpoint://end", optimizer_step: step };
      this.#done("record_checkpoint", { ...asked, run_root: root, ...label }, environment);
    }
    const folder = join(root, "windows", window, "contributions");
    return join(folder, readdirSync(folder)[0] ?? "");
  }

  /** Trains the run's next window from its accepted checkpoint and has its end accepted; the contribution's folder. */
  proceed(name: string, folder: string, window: string): string {
    const { lane, work } = laneWork[name]!;
    const root = join(folder, "..", "..", "..", "..");
    const identity = { release_id: lane.releaseId, build_digest: buildDigest(lane, source) };
    const asked = {
      ...{ lane_id: lane.id, work_class: work, run_id: "run-0001", run_root: root },
      admission_identity: { ...identity, environment_ref: lane.environmentRef },
      coordination: { ...bound, window_id: window },
    };
    this.#done("resume", { ...asked, peer_checkpoint_handoff_receipt: null }, this.environment());
    const step = this.#lastStep(root);
    const label = { checkpoint_label: "end", checkpoint_ref: "checkpoint://end", optimizer_step: step };
    this.#done("record_checkpoint", { ...asked, ...label }, this.environment());
    const folders = join(root, "windows", window, "contributions");
    return join(folders, readdirSync(folders)[0] ?? "");
  }

  #done(name: string, changes: Example, environment: NodeJS.ProcessEnv): void {
    const words = this.write(this.manifest(name, changes));
    const packet = invoke(words, { environment, clock: () => this.now });
    if (packet.outcome !== "succeeded") throw new Error(`${name}: ${packet.detail}`);
  }

  #lastStep(root: string): number {
    const path = join(root, "evidence", "execution_evidence.json");
    const { steps } = JSON.parse(readFileSync(path, "utf8")) as { steps: { step: number }[] };
    return steps.at(-1)!.step;
  }

  /** Puts a changed profile of the lane into a run root. */
  profile(root: string, lane: LaneContract, change: (profile: LaneProfile) => LaneProfile): void {
    const own = builtInProfile(lane);
    if (!own) throw new Error(`lane ${lane.id} has no profile`);
    mkdirSync(join(root, "manifests"), { recursive: true });
    const changed = sealed(laneProfile, change(own));
    writeFileSync(join(root, "manifests", "lane_profile.json"), orderedJson(changed, 2));
  }

  /** Gives the validator the profile of a worker's run root, as a coordinator would. */
  trust(folder: string): void {
    const path = join(folder, "..", "..", "..", "..", "manifests", "lane_profile.json");
    if (!existsSync(path)) return;
    mkdirSync(join(this.validator, "manifests"), { recursive: true });
    cpSync(path, join(this.validator, "manifests", "lane_profile.json"));
  }

  /** A copy of the run root that a contribution lies in, so that it may be spoilt; the contribution's folder in it. */
  copied(folder: string, to = "forged"): string {
    const root = join(folder, "..", "..", "..", "..");
    const copy = join(this.folder, to);
    rmSync(copy, { recursive: true, force: true });
    cpSync(root, copy, { recursive: true });
    return join(copy, folder.slice(root.length));
  }

  validate(folder: string, challenge = "challenge-0001", ...more: string[]): StatusPacket {
    const words = [
      "--run-root",
      this.validator,
      "--contribution",
      folder,
      "--challenge-id",
      challenge,
      ...more,
    ];
    return validationPacket(words, { environment: this.environment(), clock: () => this.now });
  }

  /** A document beside the scores of the only challenge of a window. */
  grounds(window: string, name: string): Record<string, unknown> {
    const folder = join(this.validator, "windows", window, "validators");
    return JSON.parse(readFileSync(join(folder, readdirSync(folder)[0] ?? "", name), "utf8"));
  }

  /** Forgets all verdicts. */
  fresh(): void {
    rmSync(this.validator, { recursive: true, force: true });
  }
}
