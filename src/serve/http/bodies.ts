import { bodiesFull, ownBodiesFull } from "./errors.ts";

/** A client may hold so many times as much as is left. */
const leftToOwn = 3;

/** What the body of one request holds. */
export type BodyShare = {
  /** Throws where so many bytes more do not fit now. */
  readonly check: (bytes: number) => void;
  /** Counts so many bytes more; throws where they do not fit. */
  readonly add: (bytes: number) => void;
  readonly release: () => void;
};

/**
 * Counts the bytes of the bodies of all requests under way, those that are still arriving included. The limit of one body does not
 * bound a thousand connections with one each.
 */
export class Bodies {
  private readonly most: number;
  private readonly ofClients = new Map<string, number>();
  private total = 0;

  constructor(mostBytes: number) {
    this.most = mostBytes;
  }

  get heldBytes(): number {
    return this.total;
  }

  begin(client: string): BodyShare {
    let held = 0;
    return {
      check: (bytes) => this.check(client, held, bytes),
      add: (bytes) => {
        this.check(client, held, bytes);
        this.count(client, bytes);
        held += bytes;
      },
      release: () => {
        this.count(client, -held);
        held = 0;
      },
    };
  }

  /**
   * One client's bodies get three quarters of all, the next one's of what is left, and so on. `before`: what this body has; one alone
   * may take all that is left.
   */
  private check(client: string, before: number, bytes: number): void {
    const left = this.most - this.total - bytes;
    if (left < 0) throw bodiesFull(this.most);
    const own = this.ofClients.get(client) ?? 0;
    if (own > before && own + bytes > leftToOwn * left) throw ownBodiesFull(this.most);
  }

  private count(client: string, bytes: number): void {
    this.total += bytes;
    const own = (this.ofClients.get(client) ?? 0) + bytes;
    if (own > 0) this.ofClients.set(client, own);
    else this.ofClients.delete(client);
  }
}
