/** The worker of a loader: reads batches into the ring until it is told to close. */
import { PsionicError } from "../../core/error.ts";
import { openDataset } from "../shards/dataset.ts";
import type { LoaderContract, LoaderCursor } from "./contract.ts";
import { BatchReader } from "./reader.ts";
import { Ring, type RingMemory, slotState } from "./ring.ts";

export type LoaderStart = {
  readonly folder: string;
  readonly manifestDigest: string;
  readonly contract: LoaderContract;
  readonly cursor: LoaderCursor;
  readonly memory: RingMemory;
};

/** Looks up now and then, should the other side have gone. */
const waitMs = 1000;

declare const self: Worker;

self.onmessage = (event: MessageEvent<LoaderStart>): void => {
  const ring = new Ring(event.data.memory);
  let slot = 0;
  try {
    fill(event.data, ring, (at) => {
      slot = at;
    });
  } catch (error) {
    const code = error instanceof PsionicError ? error.code : "internal";
    ring.setMessage({ code, message: error instanceof Error ? error.message : String(error) });
    ring.setState(slot, slotState.failed);
  }
};

function fill(start: LoaderStart, ring: Ring, at: (slot: number) => void): void {
  const dataset = openDataset(start.folder);
  if (dataset.manifest_digest !== start.manifestDigest)
    throw new PsionicError(
      "digest_mismatch",
      `[${start.folder}] expected the manifest that was opened, got another`,
    );
  using reader = new BatchReader(dataset, start.contract, start.cursor);
  for (let slot = 0; ; slot = (slot + 1) % ring.slots) {
    at(slot);
    while (ring.state(slot) !== slotState.empty) {
      if (ring.closing) return;
      ring.wait(slot, ring.state(slot), waitMs);
    }
    if (ring.closing) return;
    const more = reader.next(ring.batch(slot));
    ring.setCursor(slot, reader.cursor);
    ring.setState(slot, more ? slotState.full : slotState.ended);
    if (!more) return;
  }
}
