/** What a window begins with, as far as this validator's own record goes. */
import { type HandoffReceipt, handoffReceipt } from "./checkpoint.ts";
import { refuse } from "./contract.ts";
import { reexecutionName } from "./layout.ts";
import { type Reexecution, reexecution } from "./reexecution.ts";
import type { Redoable } from "./replay_grounds.ts";
import { foundFile, replayed, verdictFiles } from "./replay_inputs.ts";
import type { Invocation } from "./surfaces.ts";
import type { Difference } from "./window_replayer.ts";

export type Start = {
  readonly state: Reexecution["start_state"];
  readonly differences: readonly Difference[];
};

/** The receipt of a checkpoint that was handed on, where the contribution lists one. */
export function takenOver(files: Redoable["files"]): HandoffReceipt | undefined {
  const file = files.get("checkpoint_handoff_receipt");
  return file && replayed(handoffReceipt, file);
}

/** Work that held here, and the window that it was judged as. */
export type Held = { readonly record: Reexecution; readonly window: string };

/** What this validator found out about earlier work of a lane's class whose steps held. */
export function heldBefore({ root }: Invocation, { receipt }: Pick<Redoable, "receipt">): Held[] {
  return verdictFiles(root, reexecutionName)
    .map((path) => ({
      record: replayed(reexecution, foundFile(root.path(path))),
      window: path.split("/")[1] ?? "",
    }))
    .filter(
      ({ record: r }) =>
        r.lane_id === receipt.lane_id && r.work_class === receipt.work_class && r.difference_count === 0,
    );
}

/** Whether a window's beginning is more than a worker's word: then so is its end. */
export const isVouched = ({ start_state }: Reexecution): boolean =>
  start_state !== "unverified" && start_state !== "repeated";

const sides = ({ stage }: Reexecution) => [stage?.upstream, stage?.downstream];

/** Steps that hold, from a state that nobody vouches for, or between stages that say otherwise, are kept apart. */
export const hangsInTheAir = (record: Reexecution): boolean =>
  !isVouched(record) || sides(record).includes("contradicts");

/**
 * The seed's state, the one that the validator's manifest names, or the end of a window whose work held here and which itself
 * began so and contradicts no neighbour, under the same profile and, for grouped work, the same stage. From the seed, work on
 * the same kernels can have come to one state alone, so that another is a difference. Steps that held here as another window of
 * the run are that window's work again.
 */
export function startOf(
  invocation: Invocation,
  target: Redoable,
  held: readonly Held[],
  profileDigest: string,
): Start {
  const { receipt, evidence, files } = target;
  const before = (evidence.steps[0]?.step ?? 1) - 1;
  const taken = takenOver(files);
  const observed = evidence.start_state_digest;
  const differences: Difference[] = [];
  const differ = (what: string, expected: string, found: string): void => {
    if (expected !== found) differences.push({ what, expected, observed: found });
  };
  // the receipt of a checkpoint that this node served is made out to another, and says nothing of this window
  const own = taken !== undefined && taken.serving_node_pubkey !== receipt.node_pubkey;
  if (own) differ("checkpoint_handoff_receipt.peer_node_pubkey", receipt.node_pubkey, taken.peer_node_pubkey);
  const given = givenStart(invocation);
  if (given !== undefined) differ("start_state_digest", given, observed);
  const begins =
    taken?.peer_node_pubkey === receipt.node_pubkey && BigInt(taken.optimizer_step) === BigInt(before);
  if (begins)
    differ("checkpoint_handoff_receipt.checkpoint_object_digest", observed, taken.checkpoint_object_digest);
  if (given !== undefined) return { state: "given", differences };
  const stage = receipt.grouped_stage_assignment?.assignment_digest;
  const known = held.filter(
    ({ record: r }) =>
      !hangsInTheAir(r) && r.lane_profile_digest === profileDigest && r.stage?.assignment_digest === stage,
  );
  const repeated = known.some(
    ({ record: r, window }) =>
      window !== receipt.window_id &&
      r.challenged_run_id === receipt.run_id &&
      r.first_step === before + 1 &&
      r.start_state_digest === observed,
  );
  if (repeated) return { state: "repeated", differences };
  if (before === 0) return { state: "seed", differences };
  // a state is known by its digest, whichever run came to it and whoever handed it on
  const records = known.map(({ record }) => record);
  const ended = records.filter((r) => r.last_step === before);
  if (ended.some((r) => r.end_state_digest === observed)) return { state: "accepted", differences };
  const runs = begins ? [receipt.run_id, taken.source_run_id] : [receipt.run_id];
  const contrary = ended.find(
    (r) =>
      runs.includes(r.challenged_run_id) &&
      r.worker_backend === evidence.backend &&
      r.worker_kernel_library_digest === evidence.kernel_library_digest &&
      followsFromSeed(r, records),
  );
  if (contrary) differ("start_state_digest", contrary.end_state_digest, observed);
  return { state: "unverified", differences };
}

/**
 * Whether there was nothing to choose on the way to a window's end: neither a state that a manifest named, of which there may be
 * several, nor what a stage says that it was given, where no neighbour agrees.
 */
function followsFromSeed(record: Reexecution, records: readonly Reexecution[]): boolean {
  if (sides(record).includes("unjudged")) return false;
  if (record.start_state !== "accepted") return record.start_state === "seed";
  return records.some(
    (r) =>
      r.last_step === record.first_step - 1 &&
      r.end_state_digest === record.start_state_digest &&
      followsFromSeed(r, records),
  );
}

/** The state that the window is to begin with, by the validator's own manifest; undefined where it names none. */
export function givenStart({ manifest }: Pick<Invocation, "manifest">): string | undefined {
  const named = manifest.checkpoint_object_digest;
  if (named === null) return undefined;
  const digest = named.toLowerCase().replace(/^sha256:/, "");
  if (/^[0-9a-f]{64}$/.test(digest)) return digest;
  return refuse(
    "bad_config",
    `checkpoint_object_digest of validate_contribution: expected the SHA-256 of a state, got ${JSON.stringify(named.slice(0, 80))}`,
  );
}
