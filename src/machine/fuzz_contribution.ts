/** Damaged contributions: each must end in a packet with a class of the contract, and write nothing outside the validator's run root. */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { orderedJson } from "../core/json.ts";
import { validationPacket } from "./cli/validate.ts";
import { type RefusalClass, refusals } from "./contract.ts";
import { type AnyDocument, digestOf, parsed } from "./documents.ts";
import { exampleManifests } from "./examples.ts";
import { below, pick, type Random, randomFrom } from "./fuzz.ts";
import type { SourceState } from "./identity.ts";
import { invoke } from "./invoke.ts";
import { invocationManifest, manifestDigest } from "./manifest.ts";
import type { StatusPacket } from "./packets.ts";
import { artifactManifest, contributionReceipt } from "./window.ts";

export type ContributionFuzz = {
  readonly cases: number;
  /** Packets by class; `succeeded` has a verdict. */
  readonly classes: Readonly<Record<string, number>>;
};

/** Syncing costs nothing here, and it is most of what an invocation waits for. */
const memory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
const commit = "1111222233334444555566667777888899990000";
const source: SourceState = { commit, admission: "packaged_clean_release", status: null };

type Class = RefusalClass | "succeeded";
type Json = Record<string, unknown>;

type FuzzBench = {
  readonly sandbox: string;
  /** Whole contributions: one of work that was done, one of work that was refused. */
  readonly whole: readonly string[];
  readonly environment: NodeJS.ProcessEnv;
};

/** Case i has the seed `seed + i`, so that one alone repeats a failure. Throws at the first breach. */
export function fuzzContributions(
  seed: number,
  limit: { readonly count?: number; readonly durationMs?: number },
): ContributionFuzz {
  const end = performance.now() + (limit.durationMs ?? Number.POSITIVE_INFINITY);
  const most = limit.count ?? Number.POSITIVE_INFINITY;
  const sandbox = mkdtempSync(join(memory, "psionic-contributions-"));
  const classes: Record<string, number> = {};
  let cases = 0;
  try {
    const bench = prepared(sandbox);
    for (; cases < most && (cases % 16 !== 0 || performance.now() < end); cases++) {
      try {
        const found = runCase(bench, randomFrom(seed + cases));
        classes[found] = (classes[found] ?? 0) + 1;
      } catch (cause) {
        throw new Error(`fuzzContributions: seed ${seed + cases} (count 1) broke: ${cause}`, { cause });
      }
    }
  } finally {
    rmSync(sandbox, { recursive: true, force: true });
  }
  return { cases, classes };
}

const bound = { network_id: "n", window_id: "w", assignment_id: "a", node_pubkey: "node" };

function prepared(sandbox: string): FuzzBench {
  const packaged = join(sandbox, "packaged");
  mkdirSync(packaged);
  writeFileSync(join(packaged, ".openagents-psionic-revision"), `${commit}\n`);
  const environment = { OPENAGENTS_PSIONIC_REPO: packaged };
  const whole = ["done", "refused"].map((name) => {
    const root = join(sandbox, name);
    const { start } = exampleManifests({ source, ref: "packaged-runtime", root: () => root });
    const identity = start?.admission_identity as Json;
    const value = {
      ...start,
      coordination: bound,
      admission_identity: name === "done" ? identity : { ...identity, release_id: "another" },
    };
    const manifest = parsed(invocationManifest, value, "fuzz");
    const path = join(sandbox, `${name}.json`);
    writeFileSync(path, orderedJson({ ...value, manifest_digest: manifestDigest(manifest) }));
    invoke(["--manifest", path], { environment, clock: () => 1000 });
    const folder = join(root, "windows", "w", "contributions");
    return join(folder, readdirSync(folder)[0] ?? "");
  });
  return { sandbox, whole, environment };
}

function runCase(bench: FuzzBench, random: Random): Class {
  const { sandbox } = bench;
  const [cases, validator] = [join(sandbox, "case"), join(sandbox, "validator")];
  rmSync(cases, { recursive: true, force: true });
  rmSync(validator, { recursive: true, force: true });
  const folder = join(cases, "windows", "w", "contributions", "c");
  // work that was refused is not done again, so most cases take it
  cpSync(bench.whole[random() < 0.1 ? 0 : 1]!, folder, { recursive: true });
  // artifacts are bound below the run root by the contribution's own name
  const name = readName(folder);
  const placed = join(cases, "windows", "w", "contributions", name);
  cpSync(folder, placed, { recursive: true });
  rmSync(folder, { recursive: true });
  const before = listing(sandbox);
  const [damage, classes] = pick(random, damages);
  damage(placed, random);
  const packet = validationPacket(
    ["--run-root", validator, "--contribution", placed, "--challenge-id", "c"],
    { environment: bench.environment, clock: () => 2000 },
  );
  const wrong = breach(packet, classes) ?? strangers(before, listing(sandbox));
  if (wrong !== undefined)
    throw new Error(`${damage.name}: ${wrong}: ${packet.refusal_class} ${packet.detail}`);
  return packet.refusal_class ?? "succeeded";
}

function readName(folder: string): string {
  return String(
    (JSON.parse(readFileSync(join(folder, "contribution_receipt.json"), "utf8")) as Json).contribution_id,
  );
}

/** What hostile values may end in; `bad_config` is for a window that names no folder. */
const allowed: readonly Class[] = [
  ...(["succeeded", "bad_config", "stale_assignment", "unsupported_topology", "checkpoint_missing"] as const),
  ...(["artifact_incomplete", "artifact_digest_mismatch"] as const),
];

function breach(packet: StatusPacket, classes: readonly Class[]): string | undefined {
  const found: Class = packet.refusal_class ?? "succeeded";
  if (!classes.includes(found)) return `expected ${classes.join(" or ")}, got ${found}`;
  const exit = found === "succeeded" ? 0 : refusals[found].exitCode;
  if (packet.exit_code !== exit) return `expected exit code ${exit}, got ${packet.exit_code}`;
  if (/\n\s+at |node:|bun:/.test(packet.detail)) return "a stack trace in the detail";
  return undefined;
}

/** Everything in the sandbox but the case's own folders, by name. */
function listing(sandbox: string): readonly string[] {
  return readdirSync(sandbox);
}

function strangers(before: readonly string[], after: readonly string[]): string | undefined {
  const found = after.filter((name) => name !== "validator" && !before.includes(name));
  return found.length === 0 ? undefined : `files outside the run root: ${found.join(", ")}`;
}

type Damage = (folder: string, random: Random) => void;

const mismatch = ["artifact_digest_mismatch"] as const;
const gone = ["artifact_incomplete", "checkpoint_missing"] as const;

const damages: readonly (readonly [Damage, readonly Class[]])[] = [
  [truncated, mismatch],
  // digests leave paths out, so a changed path is a file that is not there
  [flippedBytes, [...mismatch, ...gone, "succeeded"]],
  [missing, gone],
  [notAFile, gone],
  [linkedElsewhere, gone],
  [nested, mismatch],
  [keysBesides, [...mismatch, "succeeded"]],
  [hostileReceipt, allowed],
  [hostileList, allowed],
  [hostileArtifact, allowed],
  [hostilePath, allowed],
];

const files = (folder: string): string[] => [
  ...["contribution_receipt.json", "artifact_manifest.json"],
  ...readdirSync(join(folder, "artifacts")).map((name) => join("artifacts", name)),
];
/** The two documents come up as often as all artifacts together. */
const anyFile = (folder: string, random: Random): string =>
  join(folder, pick(random, random() < 0.5 ? files(folder).slice(0, 2) : files(folder)));

function truncated(folder: string, random: Random): void {
  const path = anyFile(folder, random);
  truncateSync(path, below(random, statSync(path).size));
}

function flippedBytes(folder: string, random: Random): void {
  const path = anyFile(folder, random);
  const bytes = readFileSync(path);
  for (let i = below(random, 4); i >= 0; i--) bytes[below(random, bytes.length)] = below(random, 256);
  writeFileSync(path, bytes);
}

function missing(folder: string, random: Random): void {
  rmSync(anyFile(folder, random));
}

function notAFile(folder: string, random: Random): void {
  const path = anyFile(folder, random);
  rmSync(path);
  mkdirSync(path);
}

function linkedElsewhere(folder: string, random: Random): void {
  const path = anyFile(folder, random);
  rmSync(path);
  symlinkSync(pick(random, [path, "/dev/zero", "/nowhere", "/proc/self/mem", folder]), path);
}

const values: readonly unknown[] = [
  ...[
    "",
    " ",
    "..",
    "../../../x",
    "/etc/passwd",
    "a\u0000b",
    "x".repeat(5000),
    "\ud83d\ude00",
    "0".repeat(64),
  ],
  ...[null, true, 0, -1, 1.5, 2 ** 53, 18446744073709551615n, 18446744073709551616n, [], {}, [[]], ["x"]],
];

/** Puts a hostile value somewhere into a document and seals it again where it still parses. */
function hostile(folder: string, name: string, random: Random, at?: (value: Json) => Json): void {
  const path = join(folder, name);
  const value = JSON.parse(readFileSync(path, "utf8")) as Json;
  const inner = at?.(value) ?? value;
  inner[pick(random, Object.keys(inner))] = pick(random, values);
  writeFileSync(path, sealedAgain(value));
}

function sealedAgain(value: Json): string {
  const known: readonly AnyDocument[] = [artifactManifest, contributionReceipt];
  const doc = known.find(({ id }) => id === value.schema_version);
  try {
    const content = doc && (parsed(doc, value, "fuzz") as Json);
    if (doc?.digest && content)
      return orderedJson({ ...content, [doc.digest.field]: digestOf(doc.digest, content) }, 2);
  } catch {
    // no longer a document of its kind: as it is
  }
  return orderedJson(value, 2);
}

function hostileReceipt(folder: string, random: Random): void {
  const into = random() < 0.3 ? (value: Json) => value.artifact_manifest as Json : undefined;
  hostile(folder, "contribution_receipt.json", random, into);
}

function hostileList(folder: string, random: Random): void {
  const into =
    random() < 0.6
      ? (value: Json) => {
          const entry = pick(random, value.artifacts as Json[]);
          const binding = entry.binding as Json;
          return pick(random, [entry, binding, binding.artifact_ref as Json]);
        }
      : undefined;
  hostile(folder, "artifact_manifest.json", random, into);
  boundAgain(folder);
}

/** The receipt's own reference to the list made to fit it again. */
function boundAgain(folder: string): void {
  const list = readFileSync(join(folder, "artifact_manifest.json"));
  const path = join(folder, "contribution_receipt.json");
  const receipt = JSON.parse(readFileSync(path, "utf8")) as Json;
  const digest = sha256(list);
  const { materialized_path } = receipt.artifact_manifest as Json;
  receipt.artifact_manifest = {
    artifact_ref: {
      artifact_id: `psionic.train.artifact.contribution_artifact_manifest.${digest}`,
      ...{ artifact_digest: digest, artifact_bytes: list.length },
    },
    materialized_path,
  };
  const { artifact_manifest_digest, artifact_count } = JSON.parse(list.toString()) as Json;
  writeFileSync(path, sealedAgain({ ...receipt, artifact_manifest_digest, artifact_count }));
}

/** Another content for an artifact, bound as what it is. */
function rebound(folder: string, name: string, bytes: Uint8Array): void {
  writeFileSync(join(folder, "artifacts", name), bytes);
  const path = join(folder, "artifact_manifest.json");
  const list = JSON.parse(readFileSync(path, "utf8")) as Json;
  for (const entry of list.artifacts as Json[]) {
    const binding = entry.binding as { artifact_ref: Json; materialized_path: string };
    if (!binding.materialized_path.endsWith(`/artifacts/${name}`)) continue;
    binding.artifact_ref = {
      ...binding.artifact_ref,
      ...{ artifact_digest: sha256(bytes), artifact_bytes: bytes.length },
    };
  }
  writeFileSync(path, sealedAgain(list));
  boundAgain(folder);
}

function hostileArtifact(folder: string, random: Random): void {
  const name = pick(random, readdirSync(join(folder, "artifacts")));
  const text = readFileSync(join(folder, "artifacts", name), "utf8");
  rebound(folder, name, new TextEncoder().encode(spoilt(text, name.endsWith(".json"), random)));
}

function spoilt(text: string, json: boolean, random: Random): string {
  if (!json || random() < 0.4) return text.slice(0, below(random, text.length + 1));
  const value = JSON.parse(text) as Json;
  value[pick(random, Object.keys(value))] = pick(random, values);
  return orderedJson(value, 2);
}

function hostilePath(folder: string, random: Random): void {
  const path = join(folder, "artifact_manifest.json");
  const list = JSON.parse(readFileSync(path, "utf8")) as Json;
  const entry = pick(random, list.artifacts as Json[]);
  const places = [
    "../../../../escaped",
    "/dev/zero",
    "/etc/passwd",
    "",
    "a//b",
    "\u0000",
    "x".repeat(9000),
    ".",
  ];
  (entry.binding as Json).materialized_path = pick(random, places);
  if (random() < 0.3) entry.artifact_kind = pick(random, ["checkpoint_surface", "", "__proto__", "../x"]);
  writeFileSync(path, sealedAgain(list));
  boundAgain(folder);
}

function nested(folder: string, random: Random): void {
  const path = anyFile(folder, random);
  const depth = 30 + below(random, 100000);
  writeFileSync(path, `{"deep":${"[".repeat(depth)}${"]".repeat(depth)}}`);
}

/** Keys that nobody asked for, and the same key twice. */
function keysBesides(folder: string, random: Random): void {
  const path = join(folder, pick(random, files(folder).slice(0, 2)));
  const key = pick(random, ["extra", "schema_version", "contribution_id"]);
  writeFileSync(path, readFileSync(path, "utf8").replace("{", `{${JSON.stringify(key)}:1,`));
}
