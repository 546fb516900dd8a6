import { expect, test } from "bun:test";
import { PsionicError } from "../../core/error.ts";
import { memorySource } from "./bytes.ts";
import { parseSafetensors } from "./safetensors.ts";

const pair =
  '"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"U8","shape":[],"data_offsets":[12,13]}';

/** A file with `header` as it stands and `dataBytes` zeros after it. */
function file(header: string | Uint8Array, dataBytes: number): Uint8Array {
  const text = Buffer.from(header);
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

function refusal(bytes: Uint8Array): string {
  try {
    parseSafetensors(memorySource("m.safetensors", bytes));
  } catch (error) {
    if (error instanceof PsionicError) return `${error.code} ${error.message}`;
    throw error;
  }
  throw new Error("expected a refusal, got tensors");
}

test("tensors get absolute ranges, shapes and stored types; padding after the JSON is part of the header", () => {
  const header = `{"__metadata__":{"format":"pt"},${pair}}   `;
  const records = parseSafetensors(memorySource("m", file(header, 13)), 2);
  const start = 8 + header.length;
  expect([...records.values()]).toEqual([
    { name: "a", dtype: "bf16", shape: [2, 3], file: 2, offset: start, bytes: 12 },
    { name: "b", dtype: "u8", shape: [], file: 2, offset: start + 12, bytes: 1 },
  ]);
});

test("names that objects have by nature are plain names", () => {
  const header =
    '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}';
  expect([...parseSafetensors(memorySource("m", file(header, 2))).keys()]).toEqual([
    "__proto__",
    "constructor",
  ]);
});

const entry = (dtype: string, shape: string, offsets: string): string =>
  `{"a":{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}}`;

test.each([
  ["an empty file", new Uint8Array(0), "an empty file"],
  ["nine bytes", new Uint8Array(9), "got a file that begins with zeros"],
  ["a GGUF file", Buffer.from("GGUF\x03\0\0\0aaaaaaaaaaaa"), "got a GGUF file"],
  ["a zip", Buffer.from("PK\x03\x04aaaaaaaaaaaaaaaa"), "a zip archive"],
  ["an LFS pointer", Buffer.from("version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"],
  ["a header beyond the file", file(`{${pair}}`, 13).slice(0, 60), "The file is truncated"],
  ["data cut short", file(`{${pair}}`, 12), "got 131 bytes, 1 too few"],
  ["bytes of no tensor", file(`{${pair}}`, 20), "expected 13 bytes of data, all of tensors, got 20 bytes"],
  ["a gap", file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2), "expected 1 bytes of data"],
  [
    "bytes of two tensors",
    file(`{${pair},"c":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}`, 13),
    "do not overlap",
  ],
  [
    "a name twice",
    file(`{${pair},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[13,13]}}`, 13),
    '"a" twice',
  ],
  [
    "a field twice",
    file('{"a":{"dtype":"U8","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
    '"dtype" twice',
  ],
  ["no name", file(entry("U8", "[1]", "[0,1]").replace('"a"', '""'), 1), "a name for every tensor"],
  ["an unknown type", file(entry("Q9", "[1]", "[0,1]"), 1), "a dtype of F64"],
  ["a declined type", file(entry("F8_E4M3", "[1]", "[0,1]"), 1), "unsupported [m.safetensors]"],
  ["a range of another size", file(entry("F32", "[2]", "[0,4]"), 4), 'a range of 8 bytes for "a"'],
  ["a range backwards", file(entry("F32", "[0]", "[4,0]"), 4), 'a range of 0 bytes for "a"'],
  ["a product beyond 2^53", file(entry("F32", "[94906267,94906267]", "[0,4]"), 4), "a range of"],
  ["a negative size", file(entry("F32", "[-1]", "[0,4]"), 4), 'a shape for "a"'],
  ["a fraction", file(entry("F32", "[0.5]", "[0,2]"), 2), 'a shape for "a"'],
  ["three offsets", file(entry("F32", "[1]", "[0,4,4]"), 4), 'two data_offsets for "a"'],
  ["metadata of numbers", file(`{"__metadata__":{"a":1},${pair}}`, 13), "an object of strings"],
  ["a deep header", file(`{"a":${"[".repeat(100_000)}`, 1), "nested at most"],
  ["broken JSON", file("{nope}", 0), "valid JSON"],
  ["invalid UTF-8", file(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 0), "not valid UTF-8"],
])("refuses %s", (_, bytes, message) => {
  expect(refusal(bytes)).toContain(message);
});
