import { existsSync } from "node:fs";
import { randomBits } from "../../data/random.ts";
import { evidencePath } from "../layout.ts";
import { snapshotOf } from "../watch/snapshot.ts";
import { StagedScene } from "./stages.ts";

/**
 * Two stages, one of which is killed at a random moment and started again, so many times over. Throws where a file cannot
 * be read afterwards, a stage cannot go on, or the losses are not those of stages that nobody disturbed.
 */
export async function stageKills(trials: number, seed: number): Promise<{ readonly killed: number }> {
  const bits = randomBits(`stage kills ${seed}`);
  using calm = new StagedScene(2);
  const first = calm.spawn(0);
  await calm.offered(0);
  const begun = performance.now();
  const ends = await Promise.all([first.ended, calm.spawn(1).ended]);
  if (ends.some(({ code }) => code !== 0)) throw new Error(`undisturbed: ${ends[0]?.packet.detail}`);
  const [whole, expected] = [performance.now() - begun, lossesOf(calm)];
  let killed = 0;
  for (let trial = 0; trial < trials; trial++) {
    using scene = new StagedScene(2);
    const processes = [scene.spawn(0)];
    await scene.offered(0);
    processes.push(scene.spawn(1));
    const victim = bits() % 2;
    // a busy machine has moments of its own: an undisturbed run may have taken longer than this one will
    await Bun.sleep((0.7 * whole * bits()) / 2 ** 32);
    processes[victim]!.child.kill("SIGKILL");
    await processes[victim]!.ended;
    if (processes[victim]!.child.signalCode === "SIGKILL") killed += 1;
    if (existsSync(scene.rootOf(victim))) {
      const { unreadable } = snapshotOf(scene.rootOf(victim));
      if (unreadable.length > 0) throw new Error(`trial ${trial}: ${unreadable.join(", ")}`);
    }
    const again = await scene.spawn(victim).ended;
    const other = await processes[1 - victim]!.ended;
    for (const { code, packet } of [again, other])
      if (code !== 0) throw new Error(`trial ${trial}: ${packet.detail}`);
    if (lossesOf(scene) !== expected) throw new Error(`trial ${trial}: other losses`);
  }
  return { killed };
}

const lossesOf = (scene: StagedScene): string =>
  [0, 1].map((index) => JSON.stringify(scene.readStage(index, evidencePath).steps)).join("\n");
