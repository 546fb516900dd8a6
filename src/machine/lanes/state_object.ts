/**
 * A trainer's whole state as one file: `model.<name>`, `first.<name>` and `second.<name>`, f32, in safetensors. The same
 * state gives the same bytes, so the file's SHA-256 is the digest of the state.
 */
import { PsionicError } from "../../core/error.ts";
import { part } from "../../train/parameters.ts";
import {
  checkFile,
  hashTensors,
  type NamedTensor,
  readTensors,
  storedTensors,
  writeTensors,
} from "../../train/tensor_file.ts";
import type { Trainer } from "../../train/trainer.ts";
import { refuse } from "../contract.ts";

/** What holds a state: a trainer, or a stage of one. */
export type StateHolder = Pick<Trainer, "device" | "parameters" | "optimizer">;

export type StateRecord = {
  readonly step: number;
  readonly object_digest: string;
  readonly object_bytes: number;
};

function tensorsOf({ parameters, optimizer }: StateHolder): NamedTensor[] {
  const flats = { model: parameters.values, first: optimizer.first, second: optimizer.second };
  return Object.entries(flats).flatMap(([kind, flat]) =>
    flat
      ? parameters.places.map((place) => ({
          name: `${kind}.${place.spec.name}`,
          tensor: part(flat, place, place.spec.shape),
        }))
      : [],
  );
}

/** Writes the state to a file, whole or not at all. */
export function writeState(holder: StateHolder, path: string, step: number): StateRecord {
  const { sha256: object_digest, bytes } = writeTensors(holder.device, path, path, tensorsOf(holder));
  return { step, object_digest, object_bytes: bytes };
}

/** SHA-256 of the file that `writeState` would write. */
export const stateDigest = (holder: StateHolder): string => hashTensors(holder.device, tensorsOf(holder));

/** A file of the bytes that were promised. */
export type BoundFile = { readonly path: string; readonly sha256: string };

/** Puts in place a state that somebody else retained; throws where the file is another or does not hold this model's. */
export function takeState(holder: StateHolder, { path, sha256 }: BoundFile): void {
  readTensors(holder.device, path, tensorsOf(holder), sha256);
  holder.parameters.refresh();
}

export const isWeight = (name: string): boolean => name.startsWith("model.");

/** SHA-256 of the optimiser's moments, in the order of the file. */
export function optimizerDigest(holder: StateHolder): string {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const { name, tensor } of tensorsOf(holder))
    if (!isWeight(name)) hasher.update(holder.device.download(tensor));
  return hasher.digest("hex");
}

/** Puts a state back; `checkpoint_digest_mismatch` where the file is not the recorded one or not of this model. */
export function loadState(holder: StateHolder, path: string, record: Omit<StateRecord, "step">): void {
  try {
    checkFile(path, { path, sha256: record.object_digest, bytes: record.object_bytes });
    readTensors(holder.device, path, tensorsOf(holder));
    holder.parameters.refresh();
  } catch (cause) {
    if (!(cause instanceof PsionicError) || cause.name === "Refusal") throw cause;
    const missing = cause.code === "file_not_found";
    refuse(missing ? "checkpoint_missing" : "checkpoint_digest_mismatch", cause.message, cause);
  }
}

/** Numbers of a state by their names in its file, in the file's order. */
export type StateValues = ReadonlyMap<string, Float32Array>;

/** The numbers of a holder, each as it is on the device. */
export const valuesOf = (holder: StateHolder): StateValues =>
  new Map(
    tensorsOf(holder).map(({ name, tensor }) => [
      name,
      new Float32Array(holder.device.download(tensor).slice().buffer),
    ]),
  );

/** The numbers in a state's file, and the digest of its moments as `optimizerDigest` makes it; throws where the file is another. */
export function valuesIn({ path, sha256 }: BoundFile): {
  readonly values: StateValues;
  readonly momentsDigest: string;
} {
  const values = new Map<string, Float32Array>();
  const hasher = new Bun.CryptoHasher("sha256");
  for (const { name, record, data } of storedTensors(path, sha256)) {
    if (!isWeight(name)) hasher.update(data);
    if (record.dtype === "f32") values.set(name, new Float32Array(data.buffer));
  }
  return { values, momentsDigest: hasher.digest("hex") };
}
