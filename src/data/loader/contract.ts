/** What a loader does with a data set, and where it stands: batches are a function of these two and nothing else. */
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { canonicalJson } from "../../core/json.ts";
import { isObject } from "../../models/files/strict_json.ts";
import { type OpenDataset, splitNamed } from "../shards/dataset.ts";

export type LoaderContract = {
  readonly split_name: string;
  /** After the last shard: end, or the next epoch. */
  readonly mode: "single_pass" | "repeat";
  readonly shard_ordering: "manifest_order" | "deterministic_shuffle";
  /** Order of sequences inside a shard; only packed rows can be shuffled. */
  readonly sequence_ordering: "manifest_order" | "deterministic_shuffle";
  readonly shuffle_seed: number;
  /**
   * `stream`: all tokens one after another, cut into rows wherever they end; a batch takes rows * length + 1 tokens.
   * `packed`: whole sequences side by side in rows, none across two rows, each with positions from 0.
   */
  readonly layout: "stream" | "packed";
  /** Rows of a batch and tokens of a row. */
  readonly rows: number;
  readonly length: number;
  /** `packed`: what becomes of sequences longer than a row. */
  readonly overlong_sequence_posture: "refuse" | "drop";
  /** Of several readers that share the stream, which one this is: each takes its part of every batch. */
  readonly rank: number;
  readonly world: number;
};

export type LoaderCursor = {
  readonly epoch: number;
  /** Into the epoch's order of shards. */
  readonly next_shard_index: number;
  /** Sequence (`packed`) or token (`stream`) of that shard. */
  readonly next_sequence_index_in_shard: number;
  readonly emitted_sequences: number;
  readonly emitted_batches: number;
};

export const startCursor: LoaderCursor = {
  ...{ epoch: 0, next_shard_index: 0, next_sequence_index_in_shard: 0 },
  ...{ emitted_sequences: 0, emitted_batches: 0 },
};

export const usualContract: Omit<LoaderContract, "rows" | "length"> = {
  split_name: "train",
  mode: "repeat",
  shard_ordering: "deterministic_shuffle",
  sequence_ordering: "manifest_order",
  shuffle_seed: 1337,
  layout: "stream",
  overlong_sequence_posture: "refuse",
  ...{ rank: 0, world: 1 },
};

/** Throws `invalid_request` naming what makes no sense, before any worker is started. */
export function checkContract(dataset: OpenDataset, contract: LoaderContract): void {
  const refuse = (expected: string, got: unknown): never => {
    throw unexpected("invalid_request", "data loader", expected, got);
  };
  const split = splitNamed(dataset, contract.split_name);
  if (split.token_count === 0) refuse(`tokens in split ${contract.split_name}`, "none");
  const { rows, length, rank, world, layout, shuffle_seed } = contract;
  for (const [name, value] of [
    ["rows", rows],
    ["length", length],
    ["world", world],
  ] as const)
    if (!(Number.isSafeInteger(value) && value >= 1)) refuse(`${name} of at least 1`, value);
  if (rows * length > 2 ** 28) refuse(`at most ${2 ** 28} tokens in a batch`, rows * length);
  if (!(Number.isInteger(rank) && rank >= 0 && rank < world)) refuse(`a rank below ${world}`, rank);
  if (!(Number.isSafeInteger(shuffle_seed) && shuffle_seed >= 0)) refuse("a seed of 0 or more", shuffle_seed);
  if (layout === "stream" && contract.sequence_ordering !== "manifest_order")
    refuse("sequences in the manifest's order in a stream", contract.sequence_ordering);
  if (layout === "packed" && dataset.shard_format === "golf")
    refuse("shards with sequences for packed rows", "golf shards, which are one stream");
  const needed = (rows * length + 1) * world;
  if (layout === "stream" && contract.mode === "single_pass" && split.token_count < needed)
    refuse(`at least ${needed} tokens in split ${split.split_name}`, split.token_count);
}

/** Shards of an epoch: by SHA-256 of seed, epoch and key, or as the manifest has them. */
export function shardOrder(keys: readonly string[], contract: LoaderContract, epoch: number): number[] {
  const order = keys.map((_, i) => i);
  if (contract.shard_ordering === "manifest_order") return order;
  const places = keys.map((key) =>
    sha256(`psionic_dataset_shard_order|${contract.shuffle_seed}|${epoch}|${key}`),
  );
  return order.sort((a, b) => (places[a]! < places[b]! ? -1 : places[a]! > places[b]! ? 1 : a - b));
}

/**
 * Where a stream stands after so many batches: what a trainer that knows its step alone needs to go on. Packed rows take as
 * many sequences as fit, so they need a stored state.
 */
export function streamCursor(dataset: OpenDataset, contract: LoaderContract, batches: number): LoaderCursor {
  checkContract(dataset, contract);
  const { shards, token_count } = splitNamed(dataset, contract.split_name);
  if (contract.layout !== "stream")
    throw unexpected("invalid_argument", "data loader", "a stream", "packed rows, whose state must be kept");
  const { rows, length, world } = contract;
  const taken = batches * (rows * length + 1) * world;
  const epoch = contract.mode === "repeat" ? Math.max(0, Math.ceil(taken / token_count) - 1) : 0;
  let left = taken - epoch * token_count;
  if (left > token_count)
    throw unexpected(
      "invalid_request",
      "data loader",
      `at most ${token_count} tokens in a single pass`,
      taken,
    );
  let place = 0;
  const keys = shards.map(({ shard_key }) => shard_key);
  for (const index of shardOrder(keys, contract, epoch)) {
    if (left < shards[index]!.token_count) break;
    left -= shards[index]!.token_count;
    place++;
  }
  return {
    ...{ epoch, next_shard_index: place, next_sequence_index_in_shard: left },
    ...{ emitted_sequences: batches * rows * world, emitted_batches: batches },
  };
}

const stateSchema = "psionic.data.loader_state.v1";

/** Where a loader stands, as JSON for a checkpoint. */
export type LoaderState = {
  readonly schema_version: typeof stateSchema;
  readonly dataset_digest: string;
  readonly contract_digest: string;
  readonly cursor: LoaderCursor;
};

export function loaderState(
  dataset: OpenDataset,
  contract: LoaderContract,
  cursor: LoaderCursor,
): LoaderState {
  return {
    schema_version: stateSchema,
    dataset_digest: dataset.manifest_digest,
    contract_digest: sha256(canonicalJson(contract)),
    cursor,
  };
}

/** The cursor of a stored state; one of other data or another contract is `digest_mismatch`. */
export function cursorOf(dataset: OpenDataset, contract: LoaderContract, state: unknown): LoaderCursor {
  const cursor = isObject(state) ? state.cursor : undefined;
  if (!isObject(state) || state.schema_version !== stateSchema || !isObject(cursor))
    throw unexpected("file_malformed", "loader state", `a state of ${stateSchema}`, "something else");
  const expected = loaderState(dataset, contract, startCursor);
  for (const field of ["dataset_digest", "contract_digest"] as const) {
    if (state[field] === expected[field]) continue;
    const fix = "Go on with the data and settings that the run began with";
    throw unexpected("digest_mismatch", "loader state", `${field} ${expected[field]}`, String(state[field]), {
      fix,
    });
  }
  const names = Object.keys(startCursor) as (keyof LoaderCursor)[];
  const bad = names.find((name) => !(Number.isSafeInteger(cursor[name]) && Number(cursor[name]) >= 0));
  if (bad) throw unexpected("file_malformed", "loader state", `a cursor with ${bad}`, String(cursor[bad]));
  return cursor as unknown as LoaderCursor;
}
