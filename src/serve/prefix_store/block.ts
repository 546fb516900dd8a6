/**
 * One file of the prefix cache's disk tier: what one page holds of one cache group, or a recurrent state. Little-endian:
 *
 *   magic "PSIBLOCK" | u32 version | u32 part | f64 payload bytes | 32 bytes address | u64 checksum | payload
 *
 * The checksum (XXH3) covers the payload and is seeded with that of the header before it.
 */
const magic = "PSIBLOCK";
const version = 1;
export const headerBytes = 64;

/** What a block is called by: the digest of everything its bits depend on, and which part of the page it is. */
export type BlockName = {
  /** 64 hexadecimal digits */
  readonly address: string;
  /** Number of the cache group, or `statePart`. */
  readonly part: number;
};

export const statePart = 255;

/** `<first two digits>/<address>.<part>` */
export function blockFile({ address, part }: BlockName): string {
  return `${address.slice(0, 2)}/${address}.${part}`;
}

/** Names of files that are blocks; nothing else in the folder is ever touched. */
export const blockPattern = /^[0-9a-f]{64}\.\d{1,3}$/;

/** The header of a block with this payload. */
export function sealed({ address, part }: BlockName, payload: Uint8Array): Uint8Array {
  const header = new Uint8Array(headerBytes);
  header.set(new TextEncoder().encode(magic));
  const view = new DataView(header.buffer);
  view.setUint32(8, version, true);
  view.setUint32(12, part, true);
  view.setFloat64(16, payload.length, true);
  header.set(Buffer.from(address, "hex"), 24);
  view.setBigUint64(56, checksum(header, payload), true);
  return header;
}

/** What is wrong with a header, or with its payload where it is given; undefined: nothing. */
export function blockFault(
  name: BlockName,
  header: Uint8Array,
  bytes: number,
  payload?: Uint8Array,
): string | undefined {
  if (header.length < headerBytes) return `${header.length} bytes in all`;
  const view = new DataView(header.buffer, header.byteOffset, headerBytes);
  if (new TextDecoder().decode(header.subarray(0, 8)) !== magic) return "no block";
  if (view.getUint32(8, true) !== version) return `version ${view.getUint32(8, true)}`;
  if (view.getUint32(12, true) !== name.part) return "another part";
  if (Buffer.from(header.subarray(24, 56)).toString("hex") !== name.address) return "another block";
  if (view.getFloat64(16, true) !== bytes) return `${view.getFloat64(16, true)} bytes where ${bytes} belong`;
  if (payload && payload.length !== bytes) return `${payload.length} bytes of ${bytes}`;
  if (payload && view.getBigUint64(56, true) !== checksum(header, payload)) return "a wrong checksum";
  return undefined;
}

function checksum(header: Uint8Array, payload: Uint8Array): bigint {
  return Bun.hash.xxHash3(payload, Bun.hash.xxHash3(header.subarray(0, 56)));
}
