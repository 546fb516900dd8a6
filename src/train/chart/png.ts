import { crc32, deflateSync } from "node:zlib";

const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);

function chunk(kind: string, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(12 + data.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(new TextEncoder().encode(kind), 4);
  out.set(data, 8);
  view.setUint32(8 + data.length, crc32(out.subarray(4, 8 + data.length)));
  return out;
}

/** Rows of red, green and blue as a PNG file (W3C PNG, third edition); `dotsPerMetre` says how large it is meant to be. */
export function encodedPng(
  pixels: Uint8Array,
  width: number,
  height: number,
  dotsPerMetre: number,
): Uint8Array<ArrayBuffer> {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, 2);
  const size = new DataView(new ArrayBuffer(9));
  size.setUint32(0, dotsPerMetre);
  size.setUint32(4, dotsPerMetre);
  size.setUint8(8, 1);
  // each row begins with its filter: 0, the bytes as they are
  const rows = new Uint8Array(height * (1 + 3 * width));
  for (let y = 0; y < height; y++)
    rows.set(pixels.subarray(3 * y * width, 3 * (y + 1) * width), y * (1 + 3 * width) + 1);
  const parts = [
    signature,
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("pHYs", new Uint8Array(size.buffer)),
    chunk("IDAT", new Uint8Array(deflateSync(rows))),
    chunk("IEND", new Uint8Array()),
  ];
  return new Uint8Array(Buffer.concat(parts));
}
