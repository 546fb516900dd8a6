import { expect, test } from "bun:test";
import { dtypes, fileTypes } from "../../core/dtype.ts";
import { PsionicError } from "../../core/error.ts";
import { memorySource } from "./bytes.ts";
import { parseGguf } from "./gguf.ts";
import { ggufHeader, type MetadataValue } from "./gguf_writer.ts";

const general: Record<string, MetadataValue> = { "general.architecture": { type: "string", value: "llama" } };

/** Little-endian fields one after the other: strings with their length, `[value, bytes]` as an integer. */
function fields(
  ...parts: (string | Uint8Array | readonly [value: number | bigint, bytes: 1 | 4 | 8])[]
): Uint8Array {
  const chunks = parts.map((part) => {
    if (part instanceof Uint8Array) return Buffer.from(part);
    if (typeof part === "string") {
      const text = Buffer.from(part);
      return Buffer.concat([fields([text.length, 8]), text]);
    }
    const buffer = Buffer.alloc(8);
    buffer.writeBigUInt64LE(BigInt.asUintN(64, BigInt(part[0])));
    return buffer.subarray(0, part[1]);
  });
  return new Uint8Array(Buffer.concat(chunks));
}

const magic = Buffer.from("GGUF");
/** A header with these counts and this body. */
const header = (
  tensors: number | bigint,
  records: number | bigint,
  ...body: Parameters<typeof fields>
): Uint8Array => fields(magic, [3, 4], [tensors, 8], [records, 8], ...body);
/** One tensor and its data. */
const tensor = (
  dims: readonly (number | bigint)[],
  type: number,
  offset: number | bigint,
  room = 4096,
): Uint8Array =>
  header(
    ...([1, 0, "t", [dims.length, 4], ...dims.map((d) => [d, 8] as const), [type, 4], [offset, 8]] as const),
    new Uint8Array(room),
  );

function refusal(bytes: Uint8Array): string {
  try {
    parseGguf(memorySource("m.gguf", bytes));
  } catch (error) {
    if (error instanceof PsionicError) return `${error.code} ${error.message}`;
    throw error;
  }
  throw new Error("expected a refusal, got a file");
}

test("metadata of every type comes back as it was written", () => {
  const written: Record<string, MetadataValue> = {
    ...general,
    u8: { type: "u8", value: 200 },
    i8: { type: "i8", value: -3 },
    u16: { type: "u16", value: 65535 },
    i16: { type: "i16", value: -2 },
    u32: { type: "u32", value: 2 ** 32 - 1 },
    i32: { type: "i32", value: -(2 ** 31) },
    u64: { type: "u64", value: 2 ** 53 - 1 },
    i64: { type: "i64", value: -(2 ** 53) + 1 },
    f32: { type: "f32", value: 0.5 },
    f64: { type: "f64", value: 1e300 },
    bool: { type: "bool", value: true },
    text: { type: "string", value: "naïve 😀" },
    words: { type: "array", elementType: "string", value: ["", "é", "\u0120the"] },
    numbers: { type: "array", elementType: "i32", value: [1, -1] },
    bools: { type: "array", elementType: "bool", value: [true, false] },
  };
  const { metadata } = parseGguf(memorySource("m", ggufHeader(written, [])));
  const read = [...metadata].map(([key, v]) => {
    if (v.type !== "array") return [key, v];
    const value = v.elementType === "string" ? v.value.toArray() : Array.from(v.value as Uint8Array, Number);
    return [key, { ...v, value: v.elementType === "bool" ? value.map(Boolean) : value }];
  });
  expect(Object.fromEntries(read)).toEqual(written);
});

test("integers beyond 2^53 stay exact", () => {
  const bytes = header(0, 2, "a", [10, 4], [2n ** 64n - 1n, 8], "b", [11, 4], [-(2n ** 62n), 8]);
  const { metadata } = parseGguf(memorySource("m", bytes));
  expect([...metadata.values()].map((v) => v.value)).toEqual([2n ** 64n - 1n, -(2n ** 62n)]);
});

test("tensors get absolute offsets and their slowest dimension first, in every type", () => {
  const planned = fileTypes.map((dtype) => ({
    name: dtype,
    dtype,
    shape: [3, 2, dtypes[dtype].blockElements],
  }));
  const start = ggufHeader(general, planned);
  const room = Object.values(dtypes).reduce((sum, d) => sum + Math.ceil((6 * d.blockBytes) / 32) * 32, 0);
  const bytes = new Uint8Array(Buffer.concat([start, new Uint8Array(room)]));
  const gguf = parseGguf(memorySource("m", bytes), 3);
  expect([gguf.version, gguf.alignment]).toEqual([3, 32]);
  let offset = start.length;
  for (const { name, dtype, shape } of planned) {
    const size = 6 * dtypes[dtype].blockBytes;
    expect(gguf.tensors.get(name)).toEqual({ name, dtype, shape, file: 3, offset, bytes: size });
    offset += Math.ceil(size / 32) * 32;
  }
});

test("a file may end with its last tensor, without padding", () => {
  const start = ggufHeader(general, [{ name: "t", dtype: "f32", shape: [5] }]);
  const whole = new Uint8Array(Buffer.concat([start, new Uint8Array(20)]));
  expect(parseGguf(memorySource("m", whole)).tensors.size).toBe(1);
  expect(refusal(whole.slice(0, -1))).toContain("1 too few");
});

test("a header of many megabytes is read as far as it goes, and no further", () => {
  const value = Array.from({ length: 100_000 }, (_, i) => `token ${i}`);
  const bytes = ggufHeader({ ...general, words: { type: "array", elementType: "string", value } }, []);
  let furthest = 0;
  const source = memorySource("m", new Uint8Array(Buffer.concat([bytes, new Uint8Array(bytes.length * 8)])));
  const { metadata } = parseGguf({
    ...source,
    read: (offset, target) => {
      furthest = Math.max(furthest, offset + target.byteLength);
      source.read(offset, target);
    },
  });
  const words = metadata.get("words");
  if (words?.type !== "array" || words.elementType !== "string") throw new Error("expected strings");
  expect(words.value.length).toBe(100_000);
  expect(words.value.at(99_999)).toBe("token 99999");
  expect(() => words.value.at(100_000)).toThrow(PsionicError);
  expect(furthest).toBeGreaterThan(2 ** 20);
  expect(furthest).toBeLessThan(4 * bytes.length);
});

const alignment = (type: number, value: number): Uint8Array =>
  header(0, 1, "general.alignment", [type, 4], [value, 4]);
const f32 = dtypes.f32.id;

test.each([
  ["an empty file", new Uint8Array(0), "an empty file"],
  ["a web page", Buffer.from("<!DOCTYPE html><html>"), "a web page"],
  ["an LFS pointer", Buffer.from("version https://git-lfs.github.com/spec/v1"), "git lfs pull"],
  ["a safetensors file", fields([40, 8], Buffer.from('{"a":{}}')), "got a safetensors file"],
  ["a zip", Buffer.from("PK\x03\x04aaaa"), "a zip archive"],
  ["another file", Buffer.from("abcdefgh"), "the bytes 61 62 63 64"],
  ["big-endian", Buffer.from([0x47, 0x47, 0x55, 0x46, 0, 0, 0, 3, 0, 0, 0, 0]), "got a big-endian one"],
  [
    "version 1",
    fields(magic, [1, 4], [0, 8], [0, 8]),
    "unsupported [m.gguf] expected GGUF version 2 or 3, got version 1",
  ],
  ["version 4", fields(magic, [4, 4], [0, 8], [0, 8]), "got version 4"],
  ["only a magic", fields(magic), "4 bytes for the version"],
  ["absurd tensor counts", header(2n ** 40n, 0), "a tensor count of at most"],
  ["negative tensor counts", header(-1n, 0), "the tensor count below 2^53"],
  ["absurd metadata counts", header(0, 1000), "a metadata count of at most"],
  ["an empty key", header(0, 1, "", [4, 4], [0, 4]), "a name for metadata key 0"],
  ["a long key", header(0, 1, "k".repeat(65536), [4, 4], [0, 4]), "at most 65535 bytes"],
  ["a key twice", header(0, 2, "k", [4, 4], [0, 4], "k", [4, 4], [0, 4]), '"k" twice'],
  ["an unknown value type", header(0, 1, "k", [13, 4], [0, 4]), "a value type from 0 to 12"],
  ["a bool of 2", header(0, 1, "k", [7, 4], [2, 1], [0, 4]), "0 or 1 for the bool"],
  ["an array of arrays", header(0, 1, "k", [9, 4], [9, 4], [1, 8], [0, 8]), "an array of arrays"],
  ["a long array", header(0, 1, "k", [9, 4], [4, 4], [2n ** 50n, 8]), "that fits in the remaining"],
  [
    "a long list of strings",
    header(0, 1, "k", [9, 4], [8, 4], [2n ** 20n, 8], "a"),
    "that fits in the remaining",
  ],
  ["a string beyond the file", header(0, 1, "k", [8, 4], [500, 8]), "500 bytes for"],
  ["a string of 2^63 bytes", header(0, 1, "k", [8, 4], [2n ** 63n, 8]), "below 2^53"],
  ["a string in no UTF-8", header(0, 1, "k", [8, 4], [2, 8], Buffer.from([0xc3, 0x28])), "not valid UTF-8"],
  [
    "a listed string in no UTF-8",
    header(0, 1, "k", [9, 4], [8, 4], [2, 8], "fine", [1, 8], Buffer.from([0xff])),
    '"k"[1] in UTF-8',
  ],
  ["alignment 0", alignment(4, 0), "a power of two"],
  ["alignment 48", alignment(4, 48), "a power of two"],
  ["alignment 2^31", alignment(4, 2 ** 31), "a power of two"],
  ["alignment as a fraction", alignment(6, 0x3f000000), "a power of two"],
  ["a tensor of 5 dimensions", tensor([1, 1, 1, 1, 1], f32, 0), "at most 4 dimensions"],
  ["an empty dimension", tensor([4, 0], f32, 0), "positive dimensions"],
  ["a product beyond 2^53", tensor([2n ** 40n, 2n ** 40n], f32, 0), "a product below 2^53"],
  ["a declined type", tensor([256], 16, 0), 'unsupported [m.gguf] expected "t" in a supported type'],
  ["a retired type", tensor([256], 4, 0), "id 4 (unknown or retired)"],
  ["an unknown type", tensor([256], 4_000_000_000, 0), "id 4000000000"],
  ["rows of broken blocks", tensor([48], dtypes.q8_0.id, 0), "a multiple of 32 (Q8_0)"],
  ["an unaligned offset", tensor([8], f32, 8), "at a multiple of 32"],
  ["an offset of 2^53", tensor([8], f32, 2n ** 53n - 32n), '"t" inside the file'],
  [
    "a file shorter than its tensors",
    tensor([2048], f32, 0, 4096),
    "too few. The download may be incomplete",
  ],
  [
    "tensors that overlap",
    header(
      2,
      0,
      ..."ab".split("").flatMap((n) => [n, [1, 4], [16, 8], [0, 4], [n === "a" ? 0 : 32, 8]] as const),
      new Uint8Array(256),
    ),
    "sharing bytes",
  ],
  [
    "a tensor name twice",
    header(
      2,
      0,
      ...[0, 64].flatMap((at) => ["a", [1, 4], [16, 8], [0, 4], [at, 8]] as const),
      new Uint8Array(256),
    ),
    '"a" twice',
  ],
  [
    "a tensor without a name",
    header(1, 0, "", [1, 4], [1, 8], [0, 4], [0, 8], new Uint8Array(64)),
    "a name for tensor 0",
  ],
])("refuses %s", (_, bytes, message) => {
  expect(refusal(bytes)).toContain(message);
});

test("every truncation of a header is a typed refusal", () => {
  const bytes = ggufHeader(
    { ...general, words: { type: "array", elementType: "string", value: ["a", "b"] } },
    [{ name: "t", dtype: "q8_0", shape: [2, 32] }],
  );
  for (let length = 0; length < bytes.length; length++) refusal(bytes.slice(0, length));
});
