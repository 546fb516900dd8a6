import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { orderedJson } from "../../core/json.ts";
import { appleLane } from "../contract.ts";
import type { Example } from "../examples.ts";
import { contributionFolder } from "../layout.ts";
import { type StageAssignment, stageDigest } from "../manifest.ts";
import type { StatusPacket } from "../packets.ts";
import { outputTransportName } from "../stage_files.ts";
import { contributionId, type WorkIdentity } from "../window.ts";
import { bound, Scene } from "./scene.ts";

const main = join(import.meta.dir, "..", "..", "main.ts");

export type StageEnd = { readonly code: number; readonly packet: StatusPacket };
export type StageProcess = {
  readonly child: ReturnType<typeof Bun.spawn>;
  readonly ended: Promise<StageEnd>;
};

/** The stages of one replica, each with a run root of its own, as processes of this machine. */
export class StagedScene extends Scene {
  readonly count: number;
  readonly run_id = "run-staged";

  constructor(count: number) {
    super();
    this.count = count;
  }

  rootOf(index: number): string {
    return join(this.folder, `stage-${index + 1}`);
  }

  assignment(index: number): StageAssignment {
    const name = (i: number): string => `stage-0${i + 1}`;
    const last = this.count - 1;
    const stage: StageAssignment = {
      ...{ replica_id: "replica-01", stage_id: name(index), stage_index: index, stage_count: this.count },
      stage_role: index === 0 ? "ingress" : index === last ? "egress" : "intermediate",
      upstream_stage_id: index === 0 ? null : name(index - 1),
      downstream_stage_id: index === last ? null : name(index + 1),
      assignment_digest: "",
    };
    return { ...stage, assignment_digest: stageDigest(stage) };
  }

  work(index: number, windowId: string = bound.window_id): WorkIdentity {
    return {
      ...{ laneId: appleLane.id, runId: this.run_id, windowId },
      ...{ assignmentId: bound.assignment_id, node: `npub1-node-${index + 1}`, networkId: bound.network_id },
      stage: this.assignment(index),
    };
  }

  /** The contribution's folder of a stage, absolute. */
  contribution(index: number, window?: string): string {
    const work = this.work(index, window);
    return join(this.rootOf(index), contributionFolder(work.windowId, contributionId(work)));
  }

  envelope(index: number, window?: string): string {
    return join(this.contribution(index, window), outputTransportName);
  }

  /** The manifest of a stage's operation; `changes` last. */
  stageManifest(index: number, operation: string, changes: Example = {}): Example {
    const launch = operation === "start";
    const worker = launch || operation === "record_checkpoint";
    const input = worker &&
      index > 0 && {
        grouped_stage_input_transport: {
          artifact_ref: { artifact_id: "psionic.train.artifact.grouped_stage_input_transport.example" },
          materialized_path: this.envelope(index - 1),
        },
      };
    return this.manifest("grouped_start", {
      ...{ operation, role: worker ? "worker" : "recovery_source", run_id: this.run_id },
      output_root: launch ? this.rootOf(index) : null,
      run_root: launch ? null : this.rootOf(index),
      coordination: { ...bound, node_pubkey: `npub1-node-${index + 1}` },
      grouped_stage_assignment: this.assignment(index),
      grouped_stage_input_transport: null,
      ...input,
      ...changes,
    });
  }

  override environment(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
    return super.environment({
      ...{ PSIONIC_APPLE_LANE_BACKEND: "cpu", PSIONIC_STAGE_WAIT_SECONDS: "120" },
      ...extra,
    });
  }

  spawn(
    index: number,
    operation = "start",
    changes: Example = {},
    env: NodeJS.ProcessEnv = {},
  ): StageProcess {
    const path = join(this.folder, `manifest-${index}.json`);
    writeFileSync(path, orderedJson(this.stageManifest(index, operation, changes), 2));
    const child = Bun.spawn([process.execPath, main, "train", "manifest", "--manifest", path], {
      env: { ...process.env, ...this.environment(env) },
      ...({ stdout: "pipe", stderr: "pipe" } as const),
    });
    const ended = (async (): Promise<StageEnd> => {
      const [out, err] = await Promise.all([
        new Response(child.stdout).text(),
        new Response(child.stderr).text(),
      ]);
      const code = await child.exited;
      const text = out === "" ? err : out;
      return { code, packet: (text === "" ? {} : JSON.parse(text)) as StatusPacket };
    })();
    return { child, ended };
  }

  /** Once the envelope of a stage is there, its downstream may be started. */
  async offered(index: number): Promise<void> {
    const ends = performance.now() + 90_000;
    while (!existsSync(this.envelope(index))) {
      if (performance.now() > ends) throw new Error(`no envelope of stage ${index + 1}`);
      await Bun.sleep(5);
    }
  }

  /** All stages through their window. */
  async runAll(changes: Example = {}): Promise<readonly StageEnd[]> {
    const processes: StageProcess[] = [];
    for (let index = 0; index < this.count; index++) {
      if (index > 0) await this.offered(index - 1);
      processes.push(this.spawn(index, "start", changes));
    }
    return Promise.all(processes.map(({ ended }) => ended));
  }

  /** Parsed JSON of a stage's file. */
  readStage(index: number, relative: string): Record<string, unknown> {
    return JSON.parse(readFileSync(join(this.rootOf(index), relative), "utf8"));
  }
}
