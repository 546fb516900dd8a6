import { PsionicError, unexpected } from "../../core/error.ts";
import type { Entry } from "./entry.ts";

/** Loaded, and no request holds it. */
export function isUnused({ requests, served }: Entry): boolean {
  return requests === 0 && served !== undefined;
}

/**
 * What a plan's refusal means beside the other loaded models: undefined where unloading the unused ones makes room, else
 * the refusal to answer with. A model alone may cut its context; beside one that is held it may not.
 */
export function refusalFor(
  entry: Entry,
  others: readonly Entry[],
  refused: PsionicError,
): PsionicError | undefined {
  if (others.length === 0) return refused;
  const available = bytesIn(refused, "availableBytes");
  const room = (emptied: readonly Entry[]) =>
    emptied.reduce((sum, other) => sum + planBytes(other), available);
  const least = bytesIn(refused, "leastBytes");
  if (least > room(others)) return evenAlone(entry, refused, least, room(others));
  const unused = others.filter(isUnused);
  const needed = unused.length < others.length ? bytesIn(refused, "neededBytes") : least;
  return needed > room(unused) ? besideOthers(entry, others, refused) : undefined;
}

function bytesIn({ details }: PsionicError, name: string): number {
  const bytes = details[name];
  if (typeof bytes === "number") return bytes;
  throw unexpected("internal", "models", `${name} in a refusal for want of memory`, typeof bytes);
}

function planBytes({ served }: Entry): number {
  return served?.engine.info.memory.totalBytes ?? 0;
}

/** No waiting helps: without `loaded` the answer tells clients not to ask again. */
function evenAlone(
  { name }: Entry,
  refused: PsionicError,
  leastBytes: number,
  mostBytes: number,
): PsionicError {
  const most = Math.floor(mostBytes / 2 ** 20);
  const needs = `${name} takes at least ${Math.ceil(leastBytes / 2 ** 20)} MiB`;
  const message = `${refused.message}. ${needs}, and with every other model unloaded there are ${most} MiB`;
  return new PsionicError("admission_refused", message, { ...refused.details, mostBytes }, refused);
}

/** A refusal for want of memory, with what holds it now. */
function besideOthers(entry: Entry, others: readonly Entry[], refused: PsionicError): PsionicError {
  const loaded = others.map((other) => ({
    model: other.name,
    bytes: planBytes(other),
    requests: other.requests,
  }));
  const held = loaded.map(({ model, bytes, requests }) => {
    const count = requests === 1 ? "a request" : `${requests} requests`;
    return `${model} with ${Math.ceil(bytes / 2 ** 20)} MiB, ${requests === 0 ? "unused" : `held by ${count}`}`;
  });
  const message = `${refused.message}. ${entry.name} waits for others: loaded are ${held.join("; ")}`;
  return new PsionicError("admission_refused", message, { ...refused.details, loaded }, refused);
}
