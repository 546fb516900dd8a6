/**
 * Kills training at random moments and resumes it until it ends; the result must be that of a run nobody disturbed.
 * Usage: bun scripts/kill-trials.ts [TRIALS] [SEED] [--backend NAME] [--dataset FOLDER]
 * With a data set of `psionic data pack` it is the actual pretraining lane that is killed, loader and all. Output: a line per 10 trials on stderr, a summary on
 * stdout; exits 1 at the first run whose digest differs or that cannot go on. Resumed runs are not told the backend.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const main = join(import.meta.dir, "..", "src", "main.ts");
const settings = [
  ...["--model", "tiny", "--max-steps", "24", "--steps-per-window", "2", "--sequences", "2"],
  ...["--threads", "1", "--run-id", "kill-trial", "--allow-dirty-tree", "--json"],
];
/** Kills of one trial; after them it is left alone. */
const killsPerTrial = 3;

export type Trials = { readonly kills: number; readonly digest: string };

type Ended = { readonly killed: boolean; readonly out: string };

async function train(words: readonly string[], killAfterMs?: number): Promise<Ended> {
  const child = Bun.spawn([process.execPath, main, "train", ...words], { stdout: "pipe", stderr: "pipe" });
  const timer = killAfterMs === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), killAfterMs);
  const [out, errors, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  clearTimeout(timer);
  const killed = child.signalCode === "SIGKILL";
  if (!killed && code !== 0) throw new Error(`train ${words.join(" ")} exited with ${code}: ${errors}`);
  return { killed, out };
}

const digestOf = ({ out }: Ended): string =>
  (JSON.parse(out) as { checkpointDigest: string }).checkpointDigest;

/** Throws at the first trial that ends otherwise than the undisturbed run. */
export async function killTrials(
  trials: number,
  seed: number,
  done?: (trial: number) => void,
  backend = "cpu",
  dataset?: string,
): Promise<Trials> {
  const folder = mkdtempSync(join(tmpdir(), "psionic-kill-"));
  let state = seed >>> 0;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  try {
    const begun = performance.now();
    const begin = (root: string) => [
      ...["start", "--output-root", root, "--backend", backend, ...settings],
      ...(dataset === undefined
        ? []
        : ["--lane", "actual_pretraining", "--dataset", dataset, "--length", "32"]),
    ];
    const wanted = digestOf(await train(begin(join(folder, "whole"))));
    const wholeMs = performance.now() - begun;
    let kills = 0;
    for (let trial = 0; trial < trials; trial++) {
      const root = join(folder, "trial");
      let ended: Ended | undefined;
      for (let i = 0; !ended || ended.killed; i++) {
        const settled = existsSync(join(root, "manifests", "run_settings.json"));
        const words = settled
          ? ["resume", "--run-root", root, "--threads", "1", "--allow-dirty-tree", "--json"]
          : begin(root);
        ended = await train(words, i < killsPerTrial ? (0.15 + 0.9 * random()) * wholeMs : undefined);
        if (ended.killed) kills++;
      }
      // a resume that found all steps done has written no checkpoint of its own
      const digest = digestOf(ended) ?? pointedDigest(root);
      if (digest !== wanted) throw new Error(`trial ${trial}: expected digest ${wanted}, got ${digest}`);
      rmSync(root, { recursive: true });
      done?.(trial + 1);
    }
    return { kills, digest: wanted };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function pointedDigest(root: string): string {
  const read = (path: string) => JSON.parse(readFileSync(join(root, path), "utf8")) as Record<string, string>;
  const pointer = read("checkpoints/latest_accepted_checkpoint_pointer.json");
  return read(pointer.checkpoint_manifest_relative_path!).checkpoint_object_digest!;
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { backend: { type: "string", default: "cpu" }, dataset: { type: "string" } },
  });
  const [trials = 200, seed = 1] = positionals.map(Number);
  const shown = (n: number): void => {
    if (n % 10 === 0) console.error(`${n} of ${trials} trials`);
  };
  const { kills, digest } = await killTrials(trials, seed, shown, values.backend, values.dataset);
  console.log(`training on ${values.backend}: ${trials} trials, ${kills} kills, all ended in ${digest}`);
}
