/**
 * The part of zstd-napi that the program uses, by the zstd inside of Bun: for executables whose target no binding was compiled
 * for (build.ts puts this module in the package's place). The same frames, and damage is told alike; only the words differ.
 */
import { createZstdDecompress, type ZstdDecompress } from "node:zlib";

export function decompress(bytes: Uint8Array): Uint8Array {
  // nothing is nothing, as zstd-napi has it
  return bytes.length === 0 ? new Uint8Array() : Bun.zstdDecompressSync(Uint8Array.from(bytes));
}

export function compress(bytes: Uint8Array, { compressionLevel }: { compressionLevel: number }): Uint8Array {
  return Bun.zstdCompressSync(Uint8Array.from(bytes), { level: compressionLevel });
}

/** A stream that decompresses frames as they come. Bun's ends quietly where its input ends within a frame; this one fails. */
export const DecompressStream = function makeDecompressor(): ZstdDecompress {
  const stream = createZstdDecompress();
  const frames = new Frames();
  const inner = stream as unknown as InnerStream;
  const [transform, flush] = [inner._transform, inner._flush];
  inner._transform = (chunk, encoding, done) => {
    frames.read(chunk);
    // Bun's would pass over what stands behind the last frame
    if (frames.areOver) done(new Error("Unknown frame descriptor"));
    else transform.call(stream, chunk, encoding, done);
  };
  inner._flush = (done) => {
    if (frames.areWhole) flush.call(stream, done);
    else done(new Error("Stream ended in middle of compressed data frame"));
  };
  return stream;
} as unknown as new () => ZstdDecompress;

type Done = (error?: Error | null) => void;
type InnerStream = {
  _transform(chunk: Uint8Array, encoding: string, done: Done): void;
  _flush(done: Done): void;
};

type Part = "magic" | "skippable" | "descriptor" | "block" | "beyond";

/** Follows frames by their headers (RFC 8878, part 3), to know whether the input ended with one. */
class Frames {
  private part: Part = "magic";
  private head: number[] = [];
  private skip = 0;
  private hasChecksum = false;

  get areWhole(): boolean {
    return this.skip === 0 && this.head.length === 0 && this.part === "magic";
  }

  /** Whether something came that is no frame. */
  get areOver(): boolean {
    return this.part === "beyond";
  }

  read(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length && this.part !== "beyond"; ) {
      const skipped = Math.min(this.skip, chunk.length - at);
      this.skip -= skipped;
      at += skipped;
      if (this.skip > 0 || at === chunk.length) return;
      this.head.push(chunk[at++]!);
      this.take();
    }
  }

  /** Goes on where a header is complete. */
  private take(): void {
    const { head } = this;
    const number = head.reduce((sum, byte, i) => sum + byte * 256 ** i, 0);
    const sizes: Readonly<Record<Part, number>> = {
      magic: 4,
      skippable: 4,
      descriptor: 1,
      block: 3,
      beyond: 0,
    };
    if (head.length < sizes[this.part]) return;
    this.head = [];
    if (this.part === "magic") {
      if (number === 0xfd2fb528) this.part = "descriptor";
      else this.part = number >= 0x184d2a50 && number <= 0x184d2a5f ? "skippable" : "beyond";
    } else if (this.part === "skippable") {
      this.skip = number;
      this.part = "magic";
    } else if (this.part === "descriptor") {
      const single = (number & 0x20) !== 0;
      const window = single ? 0 : 1;
      const content = [single ? 1 : 0, 2, 4, 8][number >> 6]!;
      this.skip = window + [0, 1, 2, 4][number & 3]! + content;
      this.hasChecksum = (number & 4) !== 0;
      this.part = "block";
    } else {
      const [last, kind, size] = [(number & 1) !== 0, (number >> 1) & 3, number >>> 3];
      this.skip = kind === 1 ? 1 : size; // a run has one byte
      if (!last) return;
      this.skip += this.hasChecksum ? 4 : 0;
      this.part = "magic";
    }
  }
}
