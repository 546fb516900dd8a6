import { PsionicError } from "../../core/error.ts";
import type { Entry } from "./entry.ts";

/** A refusal for want of memory, with what holds it now. */
export function besideOthers(entry: Entry, others: readonly Entry[], refused: PsionicError): PsionicError {
  if (others.length === 0) return refused;
  const loaded = others.map(({ name, served, requests }) => ({
    model: name,
    bytes: served?.engine.info.memory.totalBytes ?? 0,
    requests,
  }));
  const held = loaded.map(({ model, bytes, requests }) => {
    const count = requests === 1 ? "a request" : `${requests} requests`;
    return `${model} with ${Math.ceil(bytes / 2 ** 20)} MiB, held by ${count}`;
  });
  const message = `${refused.message}. ${entry.name} waits for others: loaded are ${held.join("; ")}`;
  return new PsionicError("admission_refused", message, { ...refused.details, loaded }, refused);
}
