/** Entry of the thread that writes the prefix cache's blocks; an extra entry point of the executable's build. */
import { join } from "node:path";
import { unexpected } from "../../core/error.ts";
import { type BlockName, blockFile } from "./block.ts";
import { StoreCounters } from "./counters.ts";
import { BlockFiles } from "./files.ts";

/** Engine's thread to writer; the payload's buffer changes hands. */
export type WriterMessage =
  | {
      readonly type: "open";
      readonly folder: string;
      readonly limitBytes: number;
      readonly counters: SharedArrayBuffer;
    }
  | {
      readonly type: "keep";
      readonly name: BlockName;
      readonly payload: ArrayBuffer;
      readonly depth: number;
      readonly replace: boolean;
    }
  /** Of a block that comes in pieces, in order; one that begins puts an unfinished one away. */
  | {
      readonly type: "piece";
      readonly name: BlockName;
      readonly payload: ArrayBuffer;
      /** First byte, and bytes of the whole. */
      readonly at: number;
      readonly total: number;
      readonly depth: number;
      readonly replace: boolean;
    }
  | { readonly type: "check"; readonly names: readonly BlockName[] }
  | { readonly type: "use"; readonly names: readonly (BlockName & { readonly depth: number })[] };

/** What is read to look at the blocks of one prompt: some hundred milliseconds. */
const mostCheckedBytes = 2 ** 30;

declare const self: Worker;

let folder = "";
let files: BlockFiles | undefined;
let counters = new StoreCounters();
/** A block that is coming in pieces: its file's name, and what is there. */
let assembled: { readonly file: string; readonly bytes: Uint8Array } | undefined;

self.onmessage = ({ data }: MessageEvent<WriterMessage>) => {
  if (data.type === "open") {
    folder = data.folder;
    files = new BlockFiles(folder, data.limitBytes);
    counters = new StoreCounters(data.counters);
    counters.set("storedBytes", files.storedBytes);
    return;
  }
  try {
    if (data.type === "use") {
      for (const name of data.names) files?.use(join(folder, blockFile(name)), name.depth);
    } else if (data.type === "check") check(data.names);
    else if (data.type === "piece") addPiece(data);
    else keep(data);
  } catch (error) {
    counters.fail(error instanceof Error ? error.message : String(error));
  }
  if (data.type === "check") counters.add("checking", -1);
  if (data.type === "keep" || data.type === "piece") counters.add("pendingBytes", -data.payload.byteLength);
  counters.add("pending", -1);
  counters.ring();
};

function addPiece(piece: Extract<WriterMessage, { type: "piece" }>): void {
  const { name, payload, at, total, depth, replace } = piece;
  const file = blockFile(name);
  if (at === 0) assembled = { file, bytes: new Uint8Array(total) };
  if (assembled?.file !== file) throw unexpected("internal", "writer", `more of ${assembled?.file}`, file);
  const { bytes } = assembled;
  bytes.set(new Uint8Array(payload), at);
  if (at + payload.byteLength < total) return;
  assembled = undefined;
  keep({ type: "keep", name, payload: bytes.buffer as ArrayBuffer, depth, replace });
}

function keep({ payload, ...block }: Extract<WriterMessage, { type: "keep" }>): void {
  if (!files) return;
  const bytes = files.keep({ ...block, payload: new Uint8Array(payload) });
  counters.set("storedBytes", files.storedBytes);
  counters.set("evicted", files.evicted);
  if (bytes === 0) return;
  counters.add("writtenBlocks", 1);
  counters.add("writtenBytes", bytes);
}

/** Removes what is not what its name says, so that it is written again. */
function check(names: readonly BlockName[]): void {
  if (!files) return;
  counters.add("rejected", files.check(names, mostCheckedBytes));
  counters.set("storedBytes", files.storedBytes);
}
