/** Scenarios as a supervisor lives them: processes one after the other, and what they print and leave, as golden text. */
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { orderedJson } from "../../core/json.ts";
import { laneContract } from "../contract.ts";
import { parsed } from "../documents.ts";
import type { Example } from "../examples.ts";
import { buildDigest } from "../identity.ts";
import { invocationManifest, manifestDigest } from "../manifest.ts";
import { Scene, source } from "./scene.ts";

const main = join(import.meta.dir, "..", "..", "main.ts");
/** The executable that `PSIONIC_BINARY` names, else this source. */
const program = process.env.PSIONIC_BINARY ? [process.env.PSIONIC_BINARY] : [process.execPath, main];

export type Ended = { readonly exitCode: number | null; readonly packet: Record<string, unknown> };

/** One folder in which processes work with relative paths, so that what they say of paths is the same everywhere. */
export class Scenario extends Scene {
  readonly #told: string[] = [];
  readonly #stable = new Set<string>();
  readonly lane: string;
  readonly backend: Readonly<Record<string, string>>;

  constructor(lane: string) {
    super();
    this.lane = lane;
    this.backend = {
      PSIONIC_ACTUAL_LANE_BACKEND: "cpu",
      PSIONIC_APPLE_LANE_BACKEND: "cpu",
      PSIONIC_ADAPTER_LANE_BACKEND: "cpu",
    };
  }

  /**
   * Runs one operation as a process in the scenario's folder; `root`: its run root there. Killed after `killAfterMs`, where
   * that comes before its end: then the exit code is null.
   */
  async process(
    operation: string,
    changes: Example = {},
    root = "run",
    killAfterMs?: number,
  ): Promise<Ended> {
    const contract = laneContract(this.lane)!;
    const launch = operation === "start" || operation === "rehearse_base_lane";
    const place = launch ? { output_root: root, run_id: "run" } : { run_root: root };
    const { id: lane_id, releaseId: release_id, environmentRef: environment_ref } = contract;
    const build_digest = buildDigest(contract, source);
    const value = this.manifest(operation, {
      ...{ lane_id, admission_identity: { release_id, build_digest, environment_ref } },
      ...place,
      ...{ hardware_observation_path: null, run_shape_observation_path: null },
      ...(operation === "resume" && { peer_checkpoint_handoff_receipt: null }),
      manifest_digest: null,
      ...changes,
    });
    const digest = value.manifest_digest ?? manifestDigest(parsed(invocationManifest, value, "scenario"));
    writeFileSync(this.manifestPath, orderedJson({ ...value, manifest_digest: digest }, 2));
    // what a validator is given depends on when the work was done
    if (operation !== "validate_contribution") this.#stable.add(String(digest));
    this.#stable.add(build_digest);
    const child = Bun.spawn([...program, "train", "manifest", "--manifest", "manifest.json"], {
      cwd: this.folder,
      env: { ...process.env, ...this.environment(this.backend) },
      stdout: "pipe",
      stderr: "pipe",
    });
    const timer =
      killAfterMs === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), killAfterMs);
    const [out, err] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    const exitCode = await child.exited;
    clearTimeout(timer);
    if (child.signalCode === "SIGKILL") return { exitCode: null, packet: {} };
    this.#told.push(`$ ${operation} -> ${exitCode}\n--- stdout\n${out}--- stderr\n${err}`);
    return { exitCode, packet: JSON.parse(out === "" ? err : out) };
  }

  json(path: string): Record<string, unknown> {
    return JSON.parse(readFileSync(join(this.folder, path), "utf8"));
  }

  /** Adds files, by their paths in the folder, to what is compared. */
  tell(...paths: readonly string[]): void {
    for (const path of paths)
      this.#told.push(`--- ${path}\n${readFileSync(join(this.folder, path), "utf8")}\n`);
  }

  /** The bindings of the first contribution of a window, for a validator. */
  target(window = "window-0001", root = "run"): Example {
    const { contributions } = this.json(`${root}/windows/${window}/sealed_window_bundle.json`) as {
      contributions: { contribution_id: string }[];
    };
    const folder = `${root}/windows/${window}/contributions/${contributions[0]!.contribution_id}`;
    const bound = (role: string, name: string) => {
      const bytes = readFileSync(join(this.folder, folder, name));
      const artifact_digest = sha256(bytes);
      const artifact_id = `psionic.train.artifact.${role}.${artifact_digest}`;
      const artifact_ref = { artifact_id, artifact_digest, artifact_bytes: bytes.length };
      return { artifact_ref, materialized_path: join(this.folder, folder, name) };
    };
    return {
      validator_target_contribution_receipt: bound("contribution_receipt", "contribution_receipt.json"),
      validator_target_contribution_artifact_manifest: bound(
        ...(["contribution_artifact_manifest", "artifact_manifest.json"] as const),
      ),
    };
  }

  /** Everything told, and the names of all files; what must vary from run to run has a name instead. */
  text(): string {
    const files = filesBelow(this.folder).map((path) => relative(this.folder, path));
    return normalised(
      [...this.#told, "--- files", ...files.sort(), ""].join("\n"),
      this.folder,
      this.#stable,
    );
  }
}

/**
 * Times, losses and norms become marks. Digests that do not follow from ids alone, nor are told to be stable, are numbered by
 * first appearance, so that which of them are equal is still compared.
 */
export function normalised(text: string, folder: string, known: Iterable<string> = []): string {
  const fixed =
    /"(?:contribution_id|window_execution_id|assignment_materialization_digest|lane_profile_digest)": "([0-9a-f]{64})"/g;
  const stable = new Set([...known, ...[...text.matchAll(fixed)].map((m) => m[1]!)]);
  const numbers = new Map<string, string>();
  const numbered = (digest: string): string => {
    if (stable.has(digest)) return digest;
    if (!numbers.has(digest)) numbers.set(digest, `<digest ${numbers.size + 1}>`);
    return numbers.get(digest)!;
  };
  return text
    .replaceAll(folder, "<folder>")
    .replace(/("\w+_ms": )\d+/g, "$1<ms>")
    .replace(/("(?:loss|gradient_norm|first_loss|last_loss|cost_ppm)": )"?[^",\n]+"?/g, "$1<number>")
    .replace(/loss \S+ at first, \S+ at last/g, "loss <number> at first, <number> at last")
    .replace(/; loss of the first window \S+, of the last after its step \d+\.\d+/g, "; loss <number>")
    .replace(/step-\d{6}-[0-9a-f]{12}\.json/g, (name) => `${name.slice(0, 12)}<digest>.json`)
    .replace(/\b[0-9a-f]{64}\b/g, numbered);
}

function filesBelow(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? filesBelow(path) : [path];
  });
}

/** Objects and lists that stood before, line by line the same, are told by a word: packets repeat much of each other. */
function folded(text: string): string {
  const lines = text.split("\n");
  const seen = new Set<string>();
  const told: string[] = [];
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]!;
    const [, margin = "", key = "", bracket] = /^(\s+)("[^"]+": )?([[{])$/.exec(line) ?? [];
    const close = `${margin}${bracket === "[" ? "]" : "}"}`;
    const end =
      bracket === undefined ? -1 : lines.findIndex((l, j) => j > i && [close, `${close},`].includes(l));
    const block = lines.slice(i, end).join("\n");
    if (end - i >= 3 && seen.has(block)) {
      told.push(`${margin}${key}<as before>${lines[end]!.endsWith(",") ? "," : ""}`);
      i = end;
      continue;
    }
    if (end - i >= 3) seen.add(block);
    told.push(line);
  }
  return told.join("\n");
}

const golden = join(import.meta.dir, "..", "..", "..", "fixtures", "golden", "machine");

/** What a scenario came to, and what it is to come to; `PSIONIC_UPDATE_GOLDEN=1` writes the latter anew. */
export function compared(name: string, told: string): { readonly found: string; readonly expected: string } {
  const text = folded(told);
  const path = join(golden, `${name}.txt`);
  if (process.env.PSIONIC_UPDATE_GOLDEN === "1") {
    mkdirSync(golden, { recursive: true });
    writeFileSync(path, text);
  }
  return { found: text, expected: readFileSync(path, "utf8") };
}
