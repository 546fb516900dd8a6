import { describe, expect, test } from "bun:test";
import { Readable } from "node:stream";
import * as napi from "zstd-napi";
import * as own from "./own_zstd.ts";

const text = Uint8Array.from({ length: 3000 }, (_, i) => (i * i + (i >> 7)) & 255);
const noise = Uint8Array.from({ length: 500 }, (_, i) => Bun.hash.crc32(String(i)) & 255);
const frame = napi.compress(text, { compressionLevel: 3, checksumFlag: true });
const skippable = Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3);
const changed = (at: number): Uint8Array => frame.with(at, frame.at(at)! ^ 1);
const joined = (...parts: Uint8Array[]): Uint8Array => Buffer.concat(parts);

const inputs: Readonly<Record<string, Uint8Array>> = {
  ...{ whole: frame, two: joined(frame, frame), "with a skippable frame": joined(frame, skippable, frame) },
  ...{
    "without a checksum": napi.compress(noise, { compressionLevel: 1 }),
    empty: napi.compress(new Uint8Array()),
  },
  ...{ "cut in the checksum": frame.subarray(0, -3), "cut in a block": frame.subarray(0, 60) },
  ...{ "cut before a second": joined(frame, frame.subarray(0, 5)), "damaged in a block": changed(40) },
  ...{
    "another checksum": changed(frame.length - 1),
    "something behind": joined(frame, Buffer.from("xyz.")),
  },
  ...{ "no frame": Buffer.from("hello world"), nothing: new Uint8Array() },
};

function given(act: () => Uint8Array): string {
  try {
    return Bun.hash(act()).toString();
  } catch {
    return "refused";
  }
}

/** What a stream makes of the input in pieces: a hash, or that it failed. */
async function streamed(stream: NodeJS.ReadWriteStream, input: Uint8Array, piece: number): Promise<string> {
  const pieces = Array.from({ length: Math.ceil(input.length / piece) }, (_, i) =>
    Buffer.from(input.subarray(i * piece, (i + 1) * piece)),
  );
  const parts: Uint8Array[] = [];
  try {
    for await (const part of Readable.from(pieces).pipe(stream)) parts.push(part as unknown as Uint8Array);
    return Bun.hash(joined(...parts)).toString();
  } catch {
    return "refused";
  }
}

describe("Bun's zstd in zstd-napi's place", () => {
  test.each(Object.entries(inputs))("%s: the same content, or refused alike", async (_name, input) => {
    expect(given(() => own.decompress(input))).toBe(given(() => napi.decompress(input)));
    for (const piece of [3, 64, 1 << 16]) {
      const expected = await streamed(new napi.DecompressStream(), input, piece);
      expect(await streamed(new own.DecompressStream(), input, piece)).toBe(expected);
    }
  });

  test("frames are the same bytes and name their content's size", () => {
    for (const content of [text, noise, new Uint8Array(), new Uint8Array(1 << 18)]) {
      const options = { compressionLevel: 1 };
      expect(Buffer.compare(own.compress(content, options), napi.compress(content, options))).toBe(0);
    }
  });
});
