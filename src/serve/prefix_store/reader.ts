/** Entry of a thread that reads the prefix cache's blocks; an extra entry point of the executable's build. */
import { closeSync, openSync, readSync } from "node:fs";
import { blockFault, headerBytes } from "./block.ts";
import { type BlockJob, ReadAhead, type ReaderMessage } from "./read_ahead.ts";

declare const self: Worker;

self.onmessage = ({ data }: MessageEvent<ReaderMessage>) => {
  const { memory, slots, outside } = data;
  const jobs = JSON.parse(data.jobs) as BlockJob[];
  const ahead = new ReadAhead(memory, slots, outside);
  for (let job = ahead.claim(jobs.length); job >= 0; job = ahead.claim(jobs.length)) {
    const room = ahead.room(job);
    if (!room) break;
    ahead.done(job, isRead(jobs[job]!, room));
  }
  ahead.leave();
};

/** Reads a block; false where its file cannot be read, or is not what its name says: who wants it finds out why. */
function isRead({ name, path, bytes }: BlockJob, room: Uint8Array): boolean {
  try {
    const file = openSync(path, "r");
    try {
      // a byte more than there should be
      const length = readSync(file, room, 0, headerBytes + bytes + 1, 0);
      const payload = room.subarray(headerBytes, Math.max(headerBytes, length));
      return blockFault(name, room.subarray(0, length), bytes, payload) === undefined;
    } finally {
      closeSync(file);
    }
  } catch {
    return false;
  }
}
