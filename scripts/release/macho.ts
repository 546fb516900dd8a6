/**
 * Reads what a release must know of a Mach-O file for arm64: its kind, the macOS it runs on, the libraries it names, and
 * whether its ad-hoc signature covers every page as the kernel will check it.
 */

export type Signature = {
  readonly identifier: string;
  readonly adHoc: boolean;
  /** Pages of code that the signature has digests of, and how many of them do not match. */
  readonly pages: number;
  readonly stale: number;
  /** Bytes that are signed: everything before the signature. */
  readonly bytes: number;
};

export type MachO = {
  readonly kind: "executable" | "library" | "other";
  readonly cpu: "arm64" | "other";
  /** Oldest macOS, e.g. "13.0". */
  readonly oldest: string;
  readonly installName: string | undefined;
  readonly libraries: readonly string[];
  /** Names that others may bind to, as C writes them. */
  readonly exports: ReadonlySet<string>;
  readonly signature: Signature | undefined;
};

const magic64 = 0xfeedfacf;
const cpuArm64 = 0x0100000c;
const kinds: Readonly<Record<number, MachO["kind"]>> = { 2: "executable", 6: "library" };
const command = { symbols: 0x2, load: 0xc, id: 0xd, signature: 0x1d, build: 0x32 };

function textAt(bytes: Uint8Array, at: number): string {
  const end = bytes.indexOf(0, at);
  return new TextDecoder().decode(bytes.subarray(at, end < 0 ? bytes.length : end));
}

const versionText = (packed: number): string => `${packed >>> 16}.${(packed >>> 8) & 255}`;

/** Reads a Mach-O file; throws where the bytes are none. */
export function readMachO(bytes: Uint8Array): MachO {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 32 || view.getUint32(0, true) !== magic64) {
    throw new Error("[macho] expected a 64-bit Mach-O file, got something else.");
  }
  let oldest = "unknown";
  let installName: string | undefined;
  let signature: Signature | undefined;
  const libraries: string[] = [];
  let exports: ReadonlySet<string> = new Set();
  let at = 32;
  for (let left = view.getUint32(16, true); left > 0; left--) {
    const kind = view.getUint32(at, true) & 0x7fffffff;
    if (kind === command.id) installName = textAt(bytes, at + view.getUint32(at + 8, true));
    if (kind === command.load) libraries.push(textAt(bytes, at + view.getUint32(at + 8, true)));
    if (kind === command.symbols) exports = readExports(bytes, view, at);
    if (kind === command.build) oldest = versionText(view.getUint32(at + 12, true));
    if (kind === command.signature) signature = readSignature(bytes, view.getUint32(at + 8, true));
    at += view.getUint32(at + 4, true);
  }
  return {
    kind: kinds[view.getUint32(12, true)] ?? "other",
    cpu: view.getUint32(4, true) === cpuArm64 ? "arm64" : "other",
    ...{ oldest, installName, libraries, exports, signature },
  };
}

const inSection = 0xe;
const external = 0x1;

/** Defined external names of the symbol table that the command at `at` describes. */
function readExports(bytes: Uint8Array, view: DataView, at: number): Set<string> {
  const [symbols, count, strings] = [8, 12, 16].map((field) => view.getUint32(at + field, true)) as [
    ...[number, number, number],
  ];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const entry = symbols + 16 * i;
    const type = view.getUint8(entry + 4);
    if ((type & inSection) !== inSection || (type & external) === 0) continue;
    names.add(textAt(bytes, strings + view.getUint32(entry, true)).replace(/^_/, ""));
  }
  return names;
}

const superBlob = 0xfade0cc0;
const codeDirectory = 0xfade0c02;
const adHocFlag = 0x2;
const sha256Type = 2;

function readSignature(bytes: Uint8Array, start: number): Signature | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start);
  if (view.getUint32(0) !== superBlob) return undefined;
  for (let i = 0; i < view.getUint32(8); i++) {
    const offset = view.getUint32(12 + 8 * i + 4);
    if (view.getUint32(offset) === codeDirectory) return readDirectory(bytes, start + offset, start);
  }
  return undefined;
}

function readDirectory(bytes: Uint8Array, start: number, signed: number): Signature {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start);
  const [hashes, name, pages, limit] = [16, 20, 28, 32].map((at) => view.getUint32(at)) as [
    ...[number, number, number, number],
  ];
  const size = view.getUint8(36);
  const pageBytes = 2 ** view.getUint8(39);
  // what the kernel would not accept counts as a signature of nothing
  const usable = view.getUint8(37) === sha256Type && size === 32 && limit === signed;
  let stale = usable && pages === Math.ceil(limit / pageBytes) ? 0 : pages;
  for (let page = 0; page < pages && stale < pages; page++) {
    const from = page * pageBytes;
    const digest = new Bun.CryptoHasher("sha256")
      .update(bytes.subarray(from, Math.min(from + pageBytes, limit)))
      .digest();
    const stored = bytes.subarray(start + hashes + size * page, start + hashes + size * (page + 1));
    if (digest.compare(stored) !== 0) stale++;
  }
  return {
    identifier: textAt(bytes, start + name),
    adHoc: (view.getUint32(12) & adHocFlag) !== 0,
    ...{ pages, stale, bytes: limit },
  };
}

/** One line for a log; throws when the file would not start or load on an Apple silicon Mac. */
export function checkMachO(bytes: Uint8Array, kind: MachO["kind"]): string {
  const found = readMachO(bytes);
  const { signature } = found;
  const faults = [
    found.kind === kind ? "" : `a file that is an ${found.kind}`,
    found.cpu === "arm64" ? "" : "another processor",
    Number.parseFloat(found.oldest) <= 13 ? "" : `macOS ${found.oldest} at least`,
    signature?.adHoc ? "" : "no ad-hoc signature",
    signature && signature.stale === 0 && signature.pages > 0 ? "" : `${signature?.stale ?? 0} stale pages`,
  ].filter((text) => text !== "");
  if (faults.length > 0) {
    throw new Error(`[macho] expected a signed arm64 ${kind} for macOS 13, got ${faults.join(", ")}.`);
  }
  return `Mach-O arm64 ${kind}, macOS ${found.oldest}, ad-hoc signature of ${signature!.pages} pages right, needs ${found.libraries.join(" ")}`;
}
