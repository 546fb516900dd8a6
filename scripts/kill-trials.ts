/**
 * Kills training at random moments and resumes it until it ends; the result must be that of a run nobody disturbed.
 * Usage: bun scripts/kill-trials.ts [TRIALS] [SEED] [--backend NAME] [--dataset FOLDER | --golf]
 * With a data set of `psionic data pack` it is the actual pretraining lane that is killed, loader and all; with --golf it is `train
 * golf` on a small data set that is made for it. Output: a line per 10 trials on stderr, a summary on stdout; exits 1 at the first run whose digest differs or that cannot go on. Resumed runs are not told the backend.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { sha256 } from "../src/core/digest.ts";
import { writeGolfData } from "../src/train/golf/testing/data.ts";

const main = join(import.meta.dir, "..", "src", "main.ts");
const always = ["--threads", "1", "--allow-dirty-tree", "--json"];
const steps = "24";
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

/** What is killed: how a run begins and goes on, the file from which on it can, and the digest of what it ended with. */
type Killed = {
  begin(root: string): string[];
  resume(root: string): string[];
  readonly settings: string;
  digest(root: string, ended: Ended): string;
};

/** A lane of `train start`; with a data set the actual one. */
const lane = (backend: string, dataset: string | undefined): Killed => ({
  begin: (root) => [
    ...["start", "--output-root", root, "--backend", backend, "--run-id", "kill-trial", ...always],
    ...["--model", "tiny", "--max-steps", steps, "--steps-per-window", "2", "--sequences", "2"],
    ...(dataset === undefined
      ? []
      : ["--lane", "actual_pretraining", "--dataset", dataset, "--length", "32"]),
  ],
  resume: (root) => ["resume", "--run-root", root, ...always],
  settings: "manifests/run_settings.json",
  // a resume that found all steps done has written no checkpoint of its own
  digest: (root, { out }) =>
    (JSON.parse(out) as { checkpointDigest?: string }).checkpointDigest ?? pointedDigest(root),
});

/** The golf lane on a data set that is written to `folder`. */
function golfLane(backend: string, folder: string): Killed {
  writeGolfData(folder);
  const data = ["--dataset", join(folder, "dataset"), "--tokenizer", join(folder, "tokenizer")];
  return {
    begin: (root) => [
      ...[
        "golf",
        "start",
        "--run-root",
        root,
        "--backend",
        backend,
        "--run-id",
        "kill-trial",
        ...always,
        ...data,
      ],
      ...[
        "--model",
        "tiny",
        "--max-steps",
        steps,
        "--sequences",
        "2",
        "--accumulation",
        "2",
        "--length",
        "16",
      ],
      ...["--precision", "f32", "--warmup-steps", "0", "--validation-every", "0", "--checkpoint-every", "2"],
    ],
    resume: (root) => ["golf", "resume", "--run-root", root, ...always],
    settings: "golf_settings.json",
    digest: (root) =>
      ["model", "optimizer"]
        .map((file) =>
          sha256(readFileSync(join(root, "checkpoints", `step-${steps}`, `${file}.safetensors`))),
        )
        .join(" "),
  };
}

export type TrialOptions = { readonly backend?: string; readonly dataset?: string; readonly golf?: boolean };

/** Throws at the first trial that ends otherwise than the undisturbed run. */
export async function killTrials(
  trials: number,
  seed: number,
  { backend = "cpu", dataset, golf }: TrialOptions = {},
  done?: (trial: number) => void,
): Promise<Trials> {
  const folder = mkdtempSync(join(tmpdir(), "psionic-kill-"));
  let state = seed >>> 0;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  try {
    const killed = golf ? golfLane(backend, join(folder, "data")) : lane(backend, dataset);
    const begun = performance.now();
    const whole = join(folder, "whole");
    const wanted = killed.digest(whole, await train(killed.begin(whole)));
    const wholeMs = performance.now() - begun;
    let kills = 0;
    for (let trial = 0; trial < trials; trial++) {
      const root = join(folder, "trial");
      let ended: Ended | undefined;
      for (let i = 0; !ended || ended.killed; i++) {
        const words = existsSync(join(root, killed.settings)) ? killed.resume(root) : killed.begin(root);
        ended = await train(words, i < killsPerTrial ? (0.15 + 0.9 * random()) * wholeMs : undefined);
        if (ended.killed) kills++;
      }
      const digest = killed.digest(root, ended);
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
    options: {
      backend: { type: "string", default: "cpu" },
      dataset: { type: "string" },
      golf: { type: "boolean", default: false },
    },
  });
  if (values.golf && values.dataset !== undefined)
    throw new Error("[kill-trials] --golf makes its own data set");
  const [trials = 200, seed = 1] = positionals.map(Number);
  const shown = (n: number): void => {
    if (n % 10 === 0) console.error(`${n} of ${trials} trials`);
  };
  const { kills, digest } = await killTrials(trials, seed, values, shown);
  console.log(
    `${values.golf ? "golf" : "training"} on ${values.backend}: ${trials} trials, ${kills} kills, all ended in ${digest}`,
  );
}
