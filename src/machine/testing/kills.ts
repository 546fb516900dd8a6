/** Workers and validators killed at random points of real work, and what must hold then. */
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { verified } from "../documents.ts";
import type { Example } from "../examples.ts";
import { fileRecord, jsonOf } from "../run_root.ts";
import { documents } from "../schemas.ts";
import { Scenario } from "./scenario.ts";
import { bound } from "./scene.ts";

const second = { ...bound, window_id: "window-0002", assignment_id: "assignment-0002" };

type Act = { readonly operation: string; readonly changes: () => Example; readonly root: string };

/** Two windows of a run and the verdict on the first, in order. */
function acts(scenario: Scenario): readonly Act[] {
  const work = { work_class: "full_island_local_update_training" };
  const record = (step: number, coordination: Example) => () => ({
    ...{ ...work, coordination, optimizer_step: step, checkpoint_label: `step-${step}` },
    checkpoint_ref: `checkpoint://kills/step-${step}`,
  });
  const act = (operation: string, changes: () => Example, root = "run"): Act => ({
    operation,
    changes,
    root,
  });
  return [
    act("start", () => ({ ...work, coordination: bound })),
    act("record_checkpoint", record(8, bound)),
    act("resume", () => ({ ...work, coordination: second })),
    act("record_checkpoint", record(16, second)),
    act(
      "validate_contribution",
      () => ({ ...scenario.target(), validator_target_work_class: work.work_class, run_id: "validator" }),
      "validator",
    ),
  ];
}

/** An undisturbed run: how its folder was before each act, and how long each took. */
class Course implements Disposable {
  readonly scenario: Scenario;
  readonly durations: number[] = [];

  constructor(lane: string) {
    this.scenario = new Scenario(lane);
  }

  get acts(): readonly Act[] {
    return acts(this.scenario);
  }

  before(index: number): string {
    return join(this.scenario.folder, "..", `${this.scenario.folder.split("/").at(-1)}-before-${index}`);
  }

  async run(): Promise<void> {
    for (const [i, { operation, changes, root }] of this.acts.entries()) {
      cpSync(this.scenario.folder, this.before(i), { recursive: true });
      const begun = performance.now();
      const { exitCode, packet } = await this.scenario.process(operation, changes(), root);
      this.durations.push(performance.now() - begun);
      if (exitCode !== 0)
        throw new Error(`undisturbed ${operation} ended with ${exitCode}: ${packet.detail}`);
    }
    cpSync(this.scenario.folder, this.before(this.acts.length), { recursive: true });
  }

  /** Puts the folder back as it was before an act. */
  rewind(index: number): void {
    for (const name of ["run", "validator"]) {
      const [from, to] = [join(this.before(index), name), join(this.scenario.folder, name)];
      rmSync(to, { recursive: true, force: true });
      if (existsSync(from)) cpSync(from, to, { recursive: true });
    }
  }

  [Symbol.dispose](): void {
    for (let i = 0; i <= this.acts.length; i++) rmSync(this.before(i), { recursive: true, force: true });
    this.scenario[Symbol.dispose]();
  }
}

export type Kills = { readonly trials: number; readonly killed: number };

/** Throws at the first trial after which something is not whole, accepted work is lost, or the work comes out otherwise. */
export async function machineKills(
  lanes: readonly string[],
  trials: number,
  seed: number,
  done?: (trial: number) => void,
): Promise<Kills> {
  let state = seed >>> 0;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  let killed = 0;
  let trial = 0;
  for (const [i, lane] of lanes.entries()) {
    using course = new Course(lane);
    await course.run();
    const last = Math.floor((trials * (i + 1)) / lanes.length);
    for (; trial < last; trial++) {
      const index = Math.floor(random() * course.acts.length);
      // where the machine was busier when the act was timed, a kill comes too late: sooner, then
      let after = (0.2 + 0.9 * random()) * course.durations[index]!;
      while (!(await disturbed(course, index, after, `${lane}, trial ${trial}`)) && after > 1) after /= 2;
      if (after > 1) killed++;
      done?.(trial + 1);
    }
  }
  return { trials, killed };
}

/** Kills one act, looks at what is left, does it again to its end; whether the kill came in time. */
async function disturbed(course: Course, index: number, afterMs: number, name: string): Promise<boolean> {
  const { scenario } = course;
  const { operation, changes, root } = course.acts[index]!;
  course.rewind(index);
  const ended = await scenario.process(operation, changes(), root, afterMs);
  const where = `${name}: ${operation} killed after ${Math.round(afterMs)} ms`;
  checkWhole(scenario.folder, where);
  checkAccepted(join(scenario.folder, "run"), where);
  if (ended.exitCode !== null) return false;
  const again = await scenario.process(operation, changes(), root);
  if (again.exitCode !== 0) throw new Error(`${where}, then ${again.exitCode}: ${again.packet.detail}`);
  for (const path of ["run/evidence/execution_evidence.json", "run/status/checkpoint_surface.json"]) {
    const [found, wanted] = [scenario.folder, course.before(index + 1)].map((folder) =>
      outcomeOf(join(folder, path)),
    );
    if (found !== wanted) throw new Error(`${where}: ${path}: expected ${wanted}, got ${found}`);
  }
  if (operation === "validate_contribution" && !String(again.packet.detail).includes("accepted with 10000"))
    throw new Error(`${where}: ${again.packet.detail}`);
  return true;
}

/** What must be the same whether somebody was killed on the way or not. */
function outcomeOf(path: string): string {
  if (!existsSync(path)) return "no file";
  const { end_state_digest, checkpoint_object_digest, optimizer_step, pointer_state } = JSON.parse(
    readFileSync(path, "utf8"),
  ) as Record<string, unknown>;
  return JSON.stringify({ end_state_digest, checkpoint_object_digest, optimizer_step, pointer_state });
}

/** Every document below a folder parses and has its own digest. */
function checkWhole(folder: string, where: string): void {
  for (const path of jsonFiles(folder)) {
    const value = jsonOf(readFileSync(path), path) as { schema_version?: string };
    const doc = documents.get(value.schema_version ?? "");
    if (!doc) continue;
    try {
      verified(doc, value, path);
    } catch (cause) {
      throw new Error(`${where}: ${cause}`, { cause });
    }
  }
}

/** What a pointer says is accepted lies there, byte for byte. */
function checkAccepted(root: string, where: string): void {
  const pointerPath = join(root, "checkpoints/latest_accepted_checkpoint_pointer.json");
  if (!existsSync(pointerPath)) return;
  const pointer = JSON.parse(readFileSync(pointerPath, "utf8")) as Record<string, string>;
  if (!pointer.pointer_state?.startsWith("accepted")) return;
  const manifest = JSON.parse(
    readFileSync(join(root, pointer.checkpoint_manifest_relative_path!), "utf8"),
  ) as Record<string, unknown>;
  const found = fileRecord(join(root, `checkpoints/step-${pointer.optimizer_step}/state.safetensors`));
  if (found.sha256 !== manifest.checkpoint_object_digest)
    throw new Error(`${where}: the accepted checkpoint of step ${pointer.optimizer_step} is another one`);
}

function jsonFiles(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) return jsonFiles(path);
    return name.endsWith(".json") ? [path] : [];
  });
}
