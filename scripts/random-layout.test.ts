import { afterAll, expect, test } from "bun:test";
import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ggufHeader } from "../src/models/files/gguf_writer.ts";
import { openModelFiles } from "../src/models/files/source.ts";
import { tensorBytes, writeLayout } from "./random-layout.ts";
import { type ModelShape, randomModel, shapes } from "./random-model.ts";

const path = join(tmpdir(), `random-layout-${process.pid}.gguf`);
afterAll(() => rmSync(path, { force: true }));

/** Elements as published. */
test.each([
  ["qwen35-9b", 8_953_803_264],
  ["qwen35-35b-a3b", 34_660_610_688],
  ["gemma4-e4b", 7_518_069_290],
  ["gemma4-26b-a4b", 25_233_142_046],
] as const)("%s has the published number of elements", (name, elements) => {
  const { tensors } = randomModel({ shape: shapes[name]!, dtype: "q8_0", expertDtype: "q4_0", seed: 1 });
  const counts = tensors.map(({ shape }) => shape.reduce((a, b) => a * b, 1));
  expect(counts.reduce((a, b) => a + b, 0)).toBe(elements);
});

/** Elements as published, and bytes with MXFP4 experts and Q8_0 elsewhere, header not counted. */
test.each([
  ["gpt-oss-20b", 20_914_757_184, 12_096_558_336],
  ["gpt-oss-120b", 116_829_156_672, 63_374_323_968],
] as const)("%s has the published layout", (name, elements, bytes) => {
  const { tensors } = randomModel({ shape: shapes[name]!, dtype: "q8_0", expertDtype: "mxfp4", seed: 1 });
  const sum = (of: (t: (typeof tensors)[number]) => number) => tensors.reduce((all, t) => all + of(t), 0);
  expect(sum(({ shape }) => shape.reduce((a, b) => a * b, 1))).toBe(elements);
  expect(sum(tensorBytes)).toBe(bytes);
  const dtypeOf = (tensor: string) => tensors.find((t) => t.name === tensor)?.dtype;
  expect(dtypeOf("blk.0.ffn_gate_inp.weight")).toBe("f32");
  expect(dtypeOf("blk.0.ffn_up_exps.weight")).toBe("mxfp4");
  expect(dtypeOf("token_embd.weight")).toBe("q8_0");
});

test("large tensors are valid blocks cut from a pattern, the same in every run", () => {
  const shape: ModelShape = {
    ...shapes["tiny-gpt-oss"]!,
    width: 1024,
    feedForward: 1024,
    layers: 1,
    experts: 16,
  };
  const options = { shape, dtype: "q8_0", expertDtype: "mxfp4", seed: 3 } as const;
  const size = writeLayout(path, options);
  const first = readFileSync(path);
  expect(first.length).toBe(size);
  writeLayout(path, options);
  expect(readFileSync(path).equals(first)).toBe(true);

  const model = randomModel(options);
  expect(size).toBeGreaterThan(ggufHeader(model.metadata, model.tensors).length);
  const at = (name: string) => openModelFiles(path).tensors.get(name)!;
  const [gate, up] = [at("blk.0.ffn_gate_exps.weight"), at("blk.0.ffn_up_exps.weight")];
  const bytes = (t: typeof gate) => first.subarray(t.offset, t.offset + t.bytes);
  expect(bytes(gate).equals(bytes(up))).toBe(false);
  const exponents = new Set(Array.from({ length: gate.bytes / 17 }, (_, b) => bytes(gate)[b * 17]));
  expect([...exponents]).toEqual([121]);
});
