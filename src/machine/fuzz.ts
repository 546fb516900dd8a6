/** Damaged manifests: each must end in a packet with the class that its damage calls for, and write nothing outside its run root. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { orderedJson } from "../core/json.ts";
import { type RefusalClass, refusals } from "./contract.ts";
import { parsed } from "./documents.ts";
import { type Example, exampleManifests } from "./examples.ts";
import type { SourceState } from "./identity.ts";
import { invoke } from "./invoke.ts";
import { invocationManifest, manifestDigest } from "./manifest.ts";
import type { StatusPacket } from "./packets.ts";

export type ManifestFuzz = {
  readonly cases: number;
  /** Packets by class; `succeeded` for damage that changed nothing. */
  readonly classes: Readonly<Record<string, number>>;
};

/** Syncing costs nothing here, and it is most of what an invocation waits for. */
const memory = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

export type Random = () => number;
type Class = RefusalClass | "succeeded";
/** Text of a manifest and the classes that may come of it. */
type Case = { readonly text: Uint8Array | string; readonly allowed: readonly Class[] };

const commit = "1111222233334444555566667777888899990000";
const source: SourceState = { commit, admission: "packaged_clean_release", status: null };

/** Mulberry32: numbers in [0, 1), the same for the same seed. */
export function randomFrom(seed: number): Random {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
export const below = (random: Random, n: number): number => Math.floor(random() * n);
export const pick = <T>(random: Random, values: readonly T[]): T => values[below(random, values.length)] as T;

/** Case i has the seed `seed + i`, so that one alone repeats a failure. Throws at the first breach. */
export function fuzzManifests(
  seed: number,
  limit: { readonly count?: number; readonly durationMs?: number },
): ManifestFuzz {
  const end = performance.now() + (limit.durationMs ?? Number.POSITIVE_INFINITY);
  const most = limit.count ?? Number.POSITIVE_INFINITY;
  const sandbox = mkdtempSync(join(memory, "psionic-manifests-"));
  const classes: Record<string, number> = {};
  let cases = 0;
  try {
    const bench = prepared(sandbox);
    for (; cases < most && (cases % 64 !== 0 || performance.now() < end); cases++) {
      try {
        const found = runCase(bench, randomFrom(seed + cases));
        classes[found] = (classes[found] ?? 0) + 1;
      } catch (cause) {
        throw new Error(`fuzzManifests: seed ${seed + cases} (count 1) broke: ${cause}`, { cause });
      }
    }
  } finally {
    rmSync(sandbox, { recursive: true, force: true });
  }
  return { cases, classes };
}

type Bench = {
  readonly sandbox: string;
  readonly manifest: string;
  readonly environment: NodeJS.ProcessEnv;
  readonly examples: readonly Example[];
};

const runsFolder = "runs";

function prepared(sandbox: string): Bench {
  const packaged = join(sandbox, "packaged");
  mkdirSync(packaged);
  writeFileSync(join(packaged, ".openagents-psionic-revision"), `${commit}\n`);
  mkdirSync(join(sandbox, runsFolder));
  const root = (run: string): string => join(sandbox, runsFolder, run);
  // nothing is trained here: what is under test ends before work, or plans it
  const examples = Object.values(exampleManifests({ source, ref: "packaged-runtime", root })).map((m) => ({
    ...m,
    dry_run: true,
  }));
  const environment = { OPENAGENTS_PSIONIC_REPO: packaged };
  return { sandbox, manifest: join(sandbox, "manifest.json"), environment, examples };
}

function runCase(bench: Bench, random: Random): Class {
  const { text, allowed } = pick(random, damages)(pick(random, bench.examples), random);
  writeFileSync(bench.manifest, text);
  const packet = invoke(["--manifest", bench.manifest], {
    environment: bench.environment,
    clock: () => 1000,
  });
  const found: Class = packet.refusal_class ?? "succeeded";
  const shown = typeof text === "string" ? text : Buffer.from(text).toString("latin1");
  const wrong = breach(packet, found, allowed) ?? strangers(bench);
  if (wrong !== undefined) throw new Error(`${wrong}: ${packet.detail}\nmanifest: ${shown.slice(0, 3000)}`);
  return found;
}

function breach(packet: StatusPacket, found: Class, allowed: readonly Class[]): string | undefined {
  if (!allowed.includes(found)) return `expected ${allowed.join(" or ")}, got ${found}`;
  const exit = found === "succeeded" ? 0 : refusals[found].exitCode;
  if (packet.exit_code !== exit) return `expected exit code ${exit}, got ${packet.exit_code}`;
  if (/\n\s+at |node:|bun:/.test(packet.detail)) return "a stack trace in the detail";
  return undefined;
}

/** Whatever lies beside the run roots was put there by us. */
function strangers({ sandbox }: Bench): string | undefined {
  const known = new Set(["packaged", "manifest.json", runsFolder]);
  const runs = /^(validator-)?run-\d{4}$/;
  const found = [
    ...readdirSync(sandbox).filter((name) => !known.has(name)),
    ...readdirSync(join(sandbox, runsFolder)).filter((name) => !runs.test(name)),
  ];
  return found.length === 0 ? undefined : `files outside the run root: ${found.join(", ")}`;
}

/** With its digest filled in, where it parses. */
function resealed(value: Example): string {
  const { manifest_digest: _, ...rest } = value;
  const manifest = parsed(invocationManifest, rest, "fuzz");
  return orderedJson({ ...rest, manifest_digest: manifestDigest(manifest) });
}

/** What an example by itself comes to: no lane but the demo's does anything here. */
const unharmed: readonly Class[] = [
  ...(["succeeded", "unsupported_topology", "checkpoint_missing", "artifact_incomplete"] as const),
];
const anyValidation: readonly Class[] = [
  ...(["bad_config", "unsupported_topology", "artifact_digest_mismatch"] as const),
  "grouped_stage_assignment_invalid",
];

const hostileText = [
  "",
  "  ",
  "..",
  "../../etc",
  "/etc/passwd",
  "a/b",
  "a\\b",
  "\u0000",
  "\u001b[2J",
  "x".repeat(5000),
  "é",
  "\ud83d\ude00",
];
const hostile: readonly unknown[] = [
  ...hostileText,
  ...[null, true, false, 0, 1, -1, 1.5, 2 ** 53, 18446744073709551615n, 18446744073709551616n, 1e300],
  ...[[], {}, [[]], { a: 1 }, ["x"]],
];

type Damage = (example: Example, random: Random) => Case;

const damages: readonly Damage[] = [
  flippedBytes,
  cutText,
  doubledKey,
  missingKey,
  wrongType,
  unknownEnum,
  unknownLane,
  editedAfterSealing,
  otherIdentity,
  hostileName,
  hostileField,
  brokenStage,
  nested,
];

/** The run root's own path stays whole, since another one is another run root. */
function flippedBytes(example: Example, random: Random): Case {
  const text = Buffer.from(resealed(example));
  const root = Buffer.from(String(example.run_root ?? example.output_root));
  const from = text.indexOf(root);
  for (let i = below(random, 4); i >= 0; i--) {
    const at = below(random, text.length);
    if (at < from || at >= from + root.length) text[at] = below(random, 256);
  }
  return { text, allowed: [...anyValidation, ...unharmed, "build_revoked", "environment_mismatch"] };
}

function cutText(example: Example, random: Random): Case {
  const text = Buffer.from(resealed(example));
  return { text: text.subarray(0, below(random, text.length)), allowed: ["bad_config"] };
}

function doubledKey(example: Example, random: Random): Case {
  const text = resealed(example);
  const key = pick(random, Object.keys(example));
  return { text: text.replace("{", `{${JSON.stringify(key)}:null,`), allowed: ["bad_config"] };
}

const requiredKeys = [
  ...["schema_version", "runtime_surface_id", "lane_id", "role", "operation", "work_class"],
  ...["admission_identity", "allow_dirty_tree", "dry_run", "inject_failed_upload"],
  "inject_eval_worker_unavailable",
];

function missingKey(example: Example, random: Random): Case {
  const rest: Example = { ...example };
  delete rest[pick(random, requiredKeys)];
  return { text: orderedJson(rest), allowed: ["bad_config"] };
}

function wrongType(example: Example, random: Random): Case {
  const value = pick(random, [1, -1, 1.5, [], [1], ["x"]]);
  return { text: orderedJson({ ...example, [pick(random, requiredKeys)]: value }), allowed: ["bad_config"] };
}

function unknownEnum(example: Example, random: Random): Case {
  const field = pick(random, ["role", "operation", "work_class", "validator_target_work_class"]);
  return {
    text: orderedJson({ ...example, [field]: pick(random, ["", "Start", "workers", "null"]) }),
    allowed: ["bad_config"],
  };
}

function unknownLane(example: Example, random: Random): Case {
  const lane = pick(random, [
    "psion_actual_pretraining_v2",
    "a1_minimal_distributed_lm_001",
    "../x",
    "x".repeat(9000),
  ]);
  return { text: orderedJson({ ...example, lane_id: lane }), allowed: ["unsupported_topology"] };
}

function editedAfterSealing(example: Example, random: Random): Case {
  const sealedText = JSON.parse(resealed(example)) as Example;
  const edits: Example[] = [
    ...[{ run_id: "other" }, { checkpoint_label: "other" }, { optimizer_step: 7 }, { dry_run: false }],
    { coordination: { node_pubkey: "npub1-other" } },
    { manifest_digest: "0".repeat(64) },
  ];
  return {
    text: orderedJson({ ...sealedText, ...pick(random, edits) }),
    allowed: ["artifact_digest_mismatch"],
  };
}

function otherIdentity(example: Example, random: Random): Case {
  const [field, refusalClass] = pick(random, [
    ...([
      ["release_id", "build_revoked"],
      ["build_digest", "build_revoked"],
    ] as const),
    ["environment_ref", "environment_mismatch"] as const,
  ]);
  const identity = { ...(example.admission_identity as Example), [field]: "another" };
  // one in twenty goes as far as the run root
  if (random() < 0.95)
    return {
      text: orderedJson({ ...example, admission_identity: { ...identity, [field]: " " } }),
      allowed: ["bad_config"],
    };
  return { text: resealed({ ...example, admission_identity: identity }), allowed: [refusalClass] };
}

/** Ids that would lead out of a folder, or could not name one. */
function hostileName(example: Example, random: Random): Case {
  const name = pick(random, [
    "..",
    ".",
    "../x",
    "a/b",
    "a\\b",
    "/abs",
    "a\u0000b",
    "",
    " ",
    "x".repeat(300),
    "c:x",
  ]);
  const coordination = { ...(example.coordination as Example), window_id: name };
  return { text: resealed({ ...example, coordination }), allowed: ["bad_config"] };
}

const freeFields = [
  ...["coordination", "run_id", "peer_node_pubkey", "peer_checkpoint_handoff_receipt", "selected_git_ref"],
  ...[
    "hardware_observation_path",
    "checkpoint_label",
    "optimizer_step",
    "checkpoint_ref",
    "allow_dirty_tree",
  ],
  ...["checkpoint_object_digest", "checkpoint_total_bytes", "grouped_stage_assignment", "manifest_digest"],
  ...[
    "validator_target_contribution_receipt",
    "grouped_stage_input_transport",
    "validator_target_work_class",
  ],
];

function hostileField(example: Example, random: Random): Case {
  const damaged: Example = { ...example, [pick(random, freeFields)]: pick(random, hostile) };
  return { text: orderedJson(damaged), allowed: [...anyValidation, ...unharmed] };
}

function brokenStage(example: Example, random: Random): Case {
  const stage = {
    ...{ replica_id: "r", stage_id: "s", stage_index: 0, stage_count: 2, stage_role: "ingress" },
    ...{ upstream_stage_id: null, downstream_stage_id: "t", assignment_digest: "0".repeat(64) },
  };
  const [field, value] = pick(random, [
    ...([
      ["stage_count", 1],
      ["stage_index", 2],
      ["stage_role", "egress"],
      ["upstream_stage_id", "u"],
    ] as const),
    ...([
      ["downstream_stage_id", null],
      ["downstream_stage_id", "s"],
      ["replica_id", " "],
      ["stage_id", "s"],
    ] as const),
  ]);
  const text = orderedJson({ ...example, grouped_stage_assignment: { ...stage, [field]: value } });
  return { text, allowed: ["grouped_stage_assignment_invalid"] };
}

function nested(example: Example, random: Random): Case {
  const depth = 60 + below(random, random() < 0.05 ? 20000 : 10);
  const value = `${"[".repeat(depth)}${"]".repeat(depth)}`;
  return {
    text: orderedJson(example).replace("{", `{"deep":${value},`),
    allowed: depth < 64 ? [...anyValidation, ...unharmed] : ["bad_config"],
  };
}
