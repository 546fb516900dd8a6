import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { DType } from "../../core/dtype.ts";
import { PsionicError } from "../../core/error.ts";
import { goldenFolder } from "../testing/golden_folder.ts";
import { type MetadataValue, writeGguf } from "./gguf_writer.ts";
import { openModelFiles } from "./source.ts";

const fixtures = join(import.meta.dir, "../../../fixtures");
const root = mkdtempSync(join(tmpdir(), "model-files-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

let folders = 0;
function folder(): string {
  const path = join(root, String(folders++));
  mkdirSync(path);
  return path;
}

function refusal(path: string): string {
  try {
    openModelFiles(path);
  } catch (error) {
    if (error instanceof PsionicError) return `${error.code} ${error.message}`;
    throw error;
  }
  throw new Error("expected a refusal, got a model");
}

const architecture: MetadataValue = { type: "string", value: "llama" };
const u16 = (value: number): MetadataValue => ({ type: "u16", value });

function write(path: string, metadata: Record<string, MetadataValue>, names: readonly string[]): void {
  const tensors = names.map((name) => ({
    name,
    dtype: "f32" as DType,
    shape: [8],
    chunks: () => [new Uint8Array(32)],
  }));
  writeGguf(path, metadata, tensors);
}

describe("a GGUF file", () => {
  test("the default model: architecture, types and ranges inside the file", () => {
    const model = openModelFiles(join(fixtures, "docs-oss-13m-mxfp4.gguf"));
    expect([model.kind, model.architecture, model.tensors.size]).toEqual(["gguf", "gpt-oss", 117]);
    expect(model.setting("gpt-oss.block_count")).toBe(6);
    const experts = model.tensors.get("blk.5.ffn_down_exps.weight");
    expect(experts).toMatchObject({ dtype: "mxfp4", shape: [8, 256, 256], bytes: (8 * 256 * 256 * 17) / 32 });
    const end = Math.max(...[...model.tensors.values()].map((t) => t.offset + t.bytes));
    expect(end).toBeLessThanOrEqual(model.files[0]!.bytes);
  });

  test("cut short: says by how much", () => {
    const path = join(folder(), "short.gguf");
    cpSync(join(fixtures, "docs-oss-13m-mxfp4.gguf"), path);
    chmodSync(path, 0o644);
    truncateSync(path, 9_000_000);
    expect(refusal(path)).toMatch(/at least \d+ bytes for its tensors.*got 9000000 bytes, 8\d{5} too few/);
  });

  test("without an architecture, or with a wrong one", () => {
    const path = join(folder(), "none.gguf");
    write(path, {}, ["a"]);
    expect(refusal(path)).toContain("general.architecture as a string");
    write(path, { "general.architecture": u16(1) }, ["a"]);
    expect(refusal(path)).toContain("general.architecture as a string, got u16");
  });

  test("nothing there, an empty file, a device", () => {
    const empty = join(folder(), "empty.gguf");
    writeFileSync(empty, "");
    expect(refusal(join(root, "nowhere.gguf"))).toStartWith("file_not_found");
    expect(refusal(join(empty, "below"))).toStartWith("file_not_found");
    expect(refusal(empty)).toContain("an empty file");
    expect(refusal("/dev/null")).toContain("a regular file");
  });
});

describe("a split GGUF", () => {
  const parts = [["a", "b"], ["c"], ["d"]];
  const name = (i: number): string => `m-0000${i + 1}-of-00003.gguf`;
  function split(change: (i: number) => Record<string, MetadataValue> = () => ({}), tensors = parts): string {
    const path = folder();
    for (const [i, names] of tensors.entries()) {
      const first: Record<string, MetadataValue> = i === 0 ? { "general.architecture": architecture } : {};
      const place = { "split.no": u16(i), "split.count": u16(3), "split.tensors.count": u16(4) };
      write(join(path, name(i)), { ...first, ...place, ...change(i) }, names);
    }
    return path;
  }

  test("any part, or the folder, opens all", () => {
    const path = split();
    for (const given of [path, ...[0, 1, 2].map((i) => join(path, name(i)))]) {
      const model = openModelFiles(given);
      expect(model.files.map((f) => f.path)).toEqual([0, 1, 2].map((i) => join(path, name(i))));
      expect([...model.tensors.values()].map((t) => [t.name, t.file])).toEqual([
        ...[
          ["a", 0],
          ["b", 0],
          ["c", 1],
          ["d", 2],
        ],
      ]);
    }
  });

  test("a missing part is named", () => {
    const path = split();
    rmSync(join(path, name(1)));
    expect(refusal(join(path, name(0)))).toContain(`1 missing: ${name(1)}`);
    rmSync(join(path, name(0)));
    expect(refusal(path)).toContain(`2 missing: ${name(0)}, ${name(1)}`);
  });

  test("parts that do not fit together", () => {
    const text: MetadataValue = { type: "string", value: "1" };
    expect(refusal(split((i) => ({ "split.no": u16(i === 2 ? 1 : i) })))).toContain("split.no = 2");
    expect(refusal(split((i) => ({ "split.count": u16(i === 1 ? 4 : 3) })))).toContain("split.count = 3");
    expect(refusal(split(() => ({ "split.no": text })))).toContain("a non-negative integer in split.no");
    expect(refusal(split(() => ({}), [["a", "b"], ["c"], ["a"]]))).toContain('"a" in parts 1 and 3');
    expect(refusal(split(() => ({}), [["a"], ["c"], ["d"]]))).toContain("4 tensors over all parts");
  });

  test("names that say another place", () => {
    const path = split();
    cpSync(join(path, name(1)), join(path, "renamed.gguf"));
    expect(refusal(join(path, "renamed.gguf"))).toContain("restore the original file names");
    cpSync(join(path, name(1)), join(path, "m-00004-of-00003.gguf"));
    expect(refusal(join(path, "m-00004-of-00003.gguf"))).toContain("a part number from 00001 to 00003");
  });
});

describe("a folder", () => {
  test("with one GGUF, beside a config.json or not; several must be named", () => {
    const path = folder();
    expect(refusal(path)).toContain("got neither");
    write(join(path, "one.gguf"), { "general.architecture": architecture }, ["a"]);
    writeFileSync(join(path, "config.json"), "{}");
    expect(openModelFiles(path).path).toBe(join(path, "one.gguf"));
    write(join(path, "two.gguf"), { "general.architecture": architecture }, ["a"]);
    expect(refusal(path)).toContain('2 GGUF models ("one.gguf", "two.gguf"); name one');
  });

  test("a checkpoint: types as stored, settings of the text model", () => {
    const model = openModelFiles(goldenFolder);
    expect([model.kind, model.architecture, model.tensors.size]).toEqual(["safetensors", "gpt_oss", 71]);
    expect(model.setting("num_local_experts")).toBe(8);
    expect(model.setting("constructor")).toBeUndefined();
    expect(model.tensors.get("lm_head.weight")).toMatchObject({ dtype: "bf16", shape: [512, 128] });
    expect(refusal(join(goldenFolder, "model.safetensors"))).toContain("Give the folder");
  });

  test("config.json that is none, or no model's", () => {
    const path = folder();
    const config = (text: string | Uint8Array): string => {
      writeFileSync(join(path, "config.json"), text);
      return refusal(path);
    };
    writeFileSync(join(path, "model.safetensors"), safetensors(["a"]));
    expect(config("{")).toContain("expected JSON");
    expect(config("[]")).toContain("a JSON object");
    expect(config(new Uint8Array([0x22, 0xff, 0x22]))).toContain("expected JSON");
    expect(config("[".repeat(200_000))).toContain("config.json");
    expect(config("{}")).toContain("model_type");
    rmSync(join(path, "model.safetensors"));
    writeFileSync(join(path, "pytorch_model.bin"), "");
    expect(config("{}")).toContain("only a PyTorch checkpoint");
  });
});

/** A safetensors file with one byte for each name. */
function safetensors(names: readonly string[]): Uint8Array {
  const entry = (i: number) => ({ dtype: "U8", shape: [1], data_offsets: [i, i + 1] });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(names.map((n, i) => [n, entry(i)]))));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return new Uint8Array(Buffer.concat([length, header, Buffer.alloc(names.length)]));
}

describe("shards with an index", () => {
  function sharded(map: Record<string, unknown>, shards: Record<string, string[]>): string {
    const path = folder();
    writeFileSync(join(path, "config.json"), '{"model_type":"llama"}');
    writeFileSync(join(path, "model.safetensors.index.json"), JSON.stringify({ weight_map: map }));
    for (const [name, tensors] of Object.entries(shards))
      writeFileSync(join(path, name), safetensors(tensors));
    return path;
  }
  const one = "model-00001-of-00002.safetensors";
  const two = "model-00002-of-00002.safetensors";

  test("only the shards of the index are opened", () => {
    const model = openModelFiles(
      sharded({ a: two, b: one }, { [one]: ["b"], [two]: ["a"], "consolidated.safetensors": ["a"] }),
    );
    expect(model.files.length).toBe(2);
    expect(model.tensors.get("a")).toMatchObject({ file: 1, dtype: "u8" });
  });

  test("an index that does not tell the truth", () => {
    const whole = { [one]: ["b"], [two]: ["a"] };
    expect(refusal(sharded({ a: two, b: one }, { [one]: ["b"] }))).toContain(`the shard "${two}"`);
    expect(refusal(sharded({ a: one, b: two }, whole))).toContain(`"a" in ${one}, got it in ${two}`);
    expect(refusal(sharded({ a: two, b: one, c: one }, whole))).toContain("got no such tensor");
    expect(refusal(sharded({ a: two, b: one }, { [one]: ["a", "b"], [two]: ["a"] }))).toContain(
      `"a" in ${one} and ${two}`,
    );
    expect(refusal(sharded({ a: "../secret.safetensors" }, {}))).toContain("a safetensors file name");
    expect(refusal(sharded({ a: 7 }, {}))).toContain("a safetensors file name");
  });
});
