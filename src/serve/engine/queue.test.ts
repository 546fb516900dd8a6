import { expect, test } from "bun:test";
import type { PsionicError } from "../../core/error.ts";
import { checkPlace, FairQueue } from "./queue.ts";

/** Lets a client have as many waiting as it gets places; gives what the refusal says. */
function fill(queue: FairQueue<number>, client: string, most: number, soon = 0): PsionicError {
  for (;;) {
    try {
      checkPlace(queue, client, { most, soon });
    } catch (error) {
      return error as PsionicError;
    }
    queue.push(client, 1);
  }
}

test("one client fills no queue, nor do five: who asks for the first time gets a place", () => {
  const queue = new FairQueue<number>();
  const heavy = Array.from({ length: 5 }, (_, i) => `heavy ${i}`);
  // one after the other, each takes what it gets
  for (const client of heavy) {
    expect(fill(queue, client, 2048).details.ownWaiting).toBe(queue.sizeOf(client));
    expect(() => checkPlace(queue, "new", { most: 2048, soon: 0 })).not.toThrow();
  }
  expect(queue.sizeOf("heavy 0")).toBe(1536);
  expect(queue.sizeOf("heavy 1")).toBe(384);
});

test("a client whose requests have gone on gets places again, and who goes on at once does not wait", () => {
  const queue = new FairQueue<number>();
  expect(fill(queue, "a", 8).code).toBe("queue_full");
  expect(queue.size).toBe(6);
  queue.take();
  expect(() => checkPlace(queue, "a", { most: 8, soon: 0 })).not.toThrow();
  const idle = new FairQueue<number>();
  fill(idle, "a", 8, 4);
  expect(idle.size).toBe(10);
});

test("a queue without a place refuses everybody", () => {
  const queue = new FairQueue<number>();
  for (let i = 0; i < 4; i++) queue.push(`client ${i}`, 1);
  const refusal = fill(queue, "new", 4);
  expect([refusal.code, refusal.details]).toEqual(["queue_full", { queued: 4, maxQueue: 4 }]);
});
