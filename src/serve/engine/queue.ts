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
