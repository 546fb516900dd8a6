/**
 * A trainer's whole state as one file: `model.<name>`, `first.<name>` and `second.<name>`, f32, in safetensors. The same
 * state gives the same bytes, so the file's SHA-256 is the digest of the state.
 */
import { PsionicError } from "../../core/error.ts";
import { openFile } from "../../models/files/bytes.ts";
import { parseSafetensors } from "../../models/files/safetensors.ts";
import { part } from "../../train/parameters.ts";
import {
  checkFile,
  hashTensors,
  type NamedTensor,
  readTensors,
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

/** Puts in place a state that somebody else retained; throws where the file does not hold this model's. */
export function takeState(holder: StateHolder, path: string): void {
  readTensors(holder.device, path, tensorsOf(holder));
  holder.parameters.refresh();
}

/** SHA-256 of the optimiser's moments, in the order of the file. */
export function optimizerDigest(holder: StateHolder): string {
  const hasher = new Bun.CryptoHasher("sha256");
  for (const { name, tensor } of tensorsOf(holder))
    if (!name.startsWith("model.")) hasher.update(holder.device.download(tensor));
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

/** The weights of a holder, each as it is on the device. */
export function weightsOf({ device, parameters }: StateHolder): ReadonlyMap<string, Float32Array> {
  return new Map(
    parameters.places.map((place) => [
      place.spec.name,
      device.downloadF32(part(parameters.values, place, [place.count])),
    ]),
  );
}

/** The weights in a state's file. */
export function weightsIn(path: string): ReadonlyMap<string, Float32Array> {
  using source = openFile(path);
  const found = new Map<string, Float32Array>();
  for (const [name, record] of parseSafetensors(source)) {
    if (!name.startsWith("model.") || record.dtype !== "f32") continue;
    const bytes = new Uint8Array(record.bytes);
    source.read(record.offset, bytes);
    found.set(name.slice("model.".length), new Float32Array(bytes.buffer));
  }
  return found;
}
