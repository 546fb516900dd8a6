import { unexpected } from "../../core/error.ts";

/**
 * Waiting entries, served round-robin over clients and first come, first served inside one client: a client that sends
 * a hundred requests delays another's next one by one turn, not by a hundred.
 */
export class FairQueue<T> {
  /** Insertion order is the rotation; a served client moves to the end. */
  private readonly lines = new Map<string, T[]>();
  private count = 0;

  get size(): number {
    return this.count;
  }

  push(client: string, entry: T): void {
    const line = this.lines.get(client);
    if (line) line.push(entry);
    else this.lines.set(client, [entry]);
    this.count += 1;
  }

  /** Puts an entry before all others of its client: for work that was already begun. */
  pushFront(client: string, entry: T): void {
    const line = this.lines.get(client);
    if (line) line.unshift(entry);
    else this.lines.set(client, [entry]);
    this.count += 1;
  }

  /** The entry whose turn it is. */
  peek(): T | undefined {
    for (const line of this.lines.values()) return line[0];
    return undefined;
  }

  /** How many entries of a client wait. */
  sizeOf(client: string): number {
    return this.lines.get(client)?.length ?? 0;
  }

  /** The last entry of the client that has the most of them. */
  lastOfMost(): { readonly client: string; readonly entry: T } | undefined {
    let most: readonly [string, readonly T[]] | undefined;
    for (const line of this.lines) if (!most || line[1].length > most[1].length) most = line;
    return most && { client: most[0], entry: most[1].at(-1)! };
  }

  /** Takes the entry whose turn it is, of those clients that may have one; the others keep their turns. */
  take(may: (client: string) => boolean = () => true): T | undefined {
    for (const [client, line] of this.lines) {
      if (!may(client)) continue;
      const entry = line.shift();
      this.lines.delete(client);
      if (line.length > 0) this.lines.set(client, line);
      this.count -= 1;
      return entry;
    }
    return undefined;
  }

  /** Takes out every entry that `match` names; gives them. */
  remove(match: (entry: T) => boolean): T[] {
    const taken: T[] = [];
    for (const [client, line] of this.lines) {
      const kept = line.filter((entry) => {
        if (!match(entry)) return true;
        taken.push(entry);
        return false;
      });
      if (kept.length === line.length) continue;
      if (kept.length === 0) this.lines.delete(client);
      else this.lines.set(client, kept);
    }
    this.count -= taken.length;
    return taken;
  }
}

/** A client may have so many times as many waiting as there are places left. */
const placesToOwn = 3;

/**
 * Throws `queue_full` where one more of the client may not wait, `most` being the places and `soon` how many of those who wait go on
 * at once. One client gets three quarters of the places, the next one of those that are left, and so on, so that neither one nor
 * some fill the queue. `details.ownWaiting`: what the client has, where others would get a place.
 */
export function checkPlace(
  queue: FairQueue<unknown>,
  client: string,
  { most, soon }: { readonly most: number; readonly soon: number },
): void {
  const queued = queue.size - soon;
  if (queued >= most) {
    const details = { queued, maxQueue: most };
    throw unexpected("queue_full", "queue", `fewer than ${most} waiting requests`, queued, { details });
  }
  const ownWaiting = queue.sizeOf(client) - soon;
  if (ownWaiting <= 0 || ownWaiting < placesToOwn * (most - queued)) return;
  const details = { queued, maxQueue: most, ownWaiting };
  throw unexpected("queue_full", "queue", "a client with fewer waiting requests", ownWaiting, { details });
}
