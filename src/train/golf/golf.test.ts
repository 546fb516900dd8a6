/** The parts of a Parameter Golf run: metric, quantised artifact, recipe; runs are in run.test.ts. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openDevice } from "../../backends/index.ts";
import { type ByteTable, countBytes } from "../../data/byte_counts.ts";
import { parameterCount } from "../model.ts";
import { golf, golfBaseline } from "../models/golf.ts";
import { momentumAt } from "../optimizer/config.ts";
import { Parameters, part } from "../parameters.ts";
import { rateAt } from "../schedule.ts";
import {
  compressed,
  containerOf,
  decompressed,
  exportedTensors,
  loadExported,
  tensorsOfContainer,
} from "./artifact.ts";
import { dequantized, quantileOf, quantized } from "./quantize.ts";
import { golfGroups, golfModel, golfSchedule } from "./recipe.ts";
import { bitsPerByte, score, scoredWindows } from "./score.ts";
import { checkedGolfSettings, type GolfSettings, settingsDigest, strideOf } from "./settings.ts";
import { claimOf } from "./submission.ts";

setDefaultTimeout(60_000);

const settings = checkedGolfSettings("test", { dataset: "d", tokenizer: "t" });

describe("bits per byte", () => {
  /** Every token is two bytes and a leading blank; token 0 is a boundary. */
  const table: ByteTable = {
    bytes: Uint16Array.from({ length: 8 }, (_, i) => (i === 0 ? 0 : 2)),
    leadingBlank: Uint8Array.from({ length: 8 }, (_, i) => Number(i > 0)),
    boundary: Uint8Array.from({ length: 8 }, (_, i) => Number(i === 0)),
  };

  test.each([
    ["non_overlapping", undefined, 4],
    ["sliding_window:3", 3, 9],
    ["sliding_window:8", 8, 4],
    ["sliding_window:1", 1, 25],
  ] as const)("%s scores every target once, with the tokens before it", (eval_mode, stride, windows) => {
    const length = 8;
    // 3 is left over
    const tokens = Int32Array.from({ length: 4 * length + 1 + 3 }, (_, i) => i % 8);
    const seen = new Map<number, number>();
    const found = score(
      ({ tokens: inputs, targets, positions, sequences, length: n }) => {
        expect(inputs.length).toBe(sequences * n);
        let count = 0;
        for (const [i, target] of targets.entries()) {
          if (target < 0) continue;
          expect(target).toBe((inputs[i]! + 1) % 8);
          expect(positions[i]).toBe(i % n);
          // of all but the first windows the scored targets have so much before them
          if (stride !== undefined && seen.size >= length)
            expect(i % n).toBeGreaterThanOrEqual(length - stride);
          seen.set(seen.size, target);
          count++;
        }
        return count * Math.log(8);
      },
      tokens,
      table,
      { eval_mode, length, sequences: 2 },
    );
    expect([...seen.values()]).toEqual([...tokens.subarray(1, 4 * length + 1)]);
    expect(found.evaluated_sequence_count).toBe(windows);
    expect(found.evaluated_token_count).toBe(32);
    // 28 tokens of 2 bytes, 24 of them with their blank; four boundaries
    expect(found.evaluated_byte_count).toBe(28 * 2 + 24);
    expect(found.mean_loss).toBeCloseTo(Math.log(8), 12);
    expect(found.bits_per_byte).toBeCloseTo((3 * 32) / 80, 12);
    expect(bitsPerByte(Math.LN2, 10, 40)).toBe(0.25);
    expect(countBytes(table, [1, 2], [0, 1])).toBe(5);
  });

  test("too little text and strides that make no sense are refused", () => {
    expect(() => scoredWindows(7, 8, undefined)).toThrow("expected at least 8 targets, got 7");
    for (const eval_mode of ["sliding_window:0", "sliding_window:9", "sliding_window:", "else"])
      expect(() => strideOf({ eval_mode, length: 8 })).toThrow("non_overlapping, or sliding_window:STRIDE");
  });
});

describe("int8 by rows", () => {
  test("quantiles are linear between neighbours", () => {
    expect(quantileOf(Float32Array.of(3, 1, 2, 0), 0.5)).toBe(1.5);
    expect(quantileOf(Float32Array.of(5), 0.9999984)).toBe(5);
  });

  test("rows keep their own scale, ties go to the even number, a row of zeros stays", () => {
    const [rows, columns] = [3, 30_000];
    const values = new Float32Array(rows * columns);
    values.set([127, 0.5, 1.5, -2.5, -126.6]);
    values.fill(127, columns - 10, columns);
    values.fill(-0.01, columns, 2 * columns);
    const stored = quantized({ name: "m", shape: [rows, columns], values }, "int8_clean_per_row");
    if (stored.kind !== "i8") throw new Error(stored.kind);
    expect([...stored.scales]).toEqual([1, Math.fround(new Float16Array([0.01 / 127])[0]!), 1]);
    expect([...stored.values.subarray(0, 5)]).toEqual([127, 0, 2, -2, -127]);
    expect(stored.values[columns]).toBe(-127);
    expect(stored.values.subarray(2 * columns).every((q) => q === 0)).toBe(true);
    const floored = quantized({ name: "m", shape: [rows, columns], values }, "int8_clean_per_row_v1");
    if (floored.kind !== "i8") throw new Error(floored.kind);
    expect(floored.scales[1]).toBe(new Float16Array([1 / 127])[0]!);
    expect(floored.values[columns]).toBe(-1);
    expect(dequantized(floored)[columns]).toBeCloseTo(-1 / 127, 5);
  });

  test("small tensors are f16, what steers blocks is f32", () => {
    const values = Float32Array.of(0.1, -3);
    expect(quantized({ name: "x.weight", shape: [1, 2], values }, "int8_clean_per_row").kind).toBe("f16");
    for (const name of ["blocks.0.attn_scale", "blocks.0.attn.q_gain", "skip_weights", "blocks.1.resid_mix"])
      expect(quantized({ name, shape: [2], values }, "int8_clean_per_row")).toEqual({ kind: "f32", values });
  });
});

describe("the artifact", () => {
  // the embedding has more than 65,536 elements, so some of it is quantised
  const model = golf({
    ...{ width: 72, layers: 3, heads: 2, kvHeads: 1, headDim: 36, feedForwardFactor: 2 },
    ...{ vocabularySize: 1024, contextLength: 16, eps: 2 ** -23 },
  });

  function withParameters(check: (parameters: Parameters) => void): void {
    const device = openDevice("cpu", { threads: 1 });
    try {
      using parameters = new Parameters(device, model, "f32");
      parameters.initialise(3);
      check(parameters);
    } finally {
      device.close();
    }
  }

  test.each(["zlib", "zstd"] as const)("%s: the same tensors under the baseline's names", (compression) => {
    withParameters((parameters) => {
      const exported = exportedTensors(parameters);
      const shapes = new Map(exported.map(({ name, shape }) => [name, shape]));
      expect(shapes.get("skip_weights")).toEqual([1, 72]);
      expect(shapes.get("blocks.2.resid_mix")).toEqual([2, 72]);
      expect(shapes.get("tok_emb.weight")).toEqual([1024, 72]);
      expect(exported.length).toBe(2 + 3 * 10);
      const artifact = compressed(containerOf(exported, "int8_clean_per_row"), compression);
      const tensors = tensorsOfContainer(decompressed(artifact, "a"), "a");
      const before = parameters.device.downloadF32(parameters.values);
      loadExported(parameters, tensors, "a");
      const after = parameters.device.downloadF32(parameters.values);
      expect(after).not.toEqual(before);
      for (const place of parameters.places) {
        const own = before.subarray(place.offset, place.offset + place.count);
        const largest = own.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
        const quantisedHere = place.count > 65_536;
        const error = own.reduce((most, v, i) => Math.max(most, Math.abs(after[place.offset + i]! - v)), 0);
        expect(error).toBeLessThanOrEqual(largest * (quantisedHere ? 1 / 127 : 2 ** -11));
      }
      const mix = parameters.places.find(({ spec }) => spec.name === "blocks.1.resid_mix.1")!;
      expect(parameters.device.downloadF32(part(parameters.values, mix, [72]))).toEqual(new Float32Array(72));
    });
  });

  test("files that are damaged or of another model are refused", () => {
    withParameters((parameters) => {
      const container = containerOf(exportedTensors(parameters), "int8_clean_per_row");
      const artifact = compressed(container, "zlib");
      const cut = artifact.subarray(0, artifact.length - 100);
      const wanted = "[cut] expected a model compressed by zlib or zstd, got";
      expect(() => decompressed(cut, "cut")).toThrow(`${wanted} one that is damaged or was cut off`);
      const packed = compressed(container, "zstd");
      expect(() => decompressed(packed.subarray(0, packed.length - 100), "cut")).toThrow(
        `${wanted} one that`,
      );
      expect(() => decompressed(container, "cut")).toThrow(`${wanted} another file`);
      const tensors = new Map(tensorsOfContainer(container, "a"));
      tensors.delete("blocks.0.mlp.fc.weight");
      expect(() => loadExported(parameters, tensors, "a")).toThrow("as blocks.0.mlp.fc.weight, got none");
      const more = new Map(tensorsOfContainer(container, "a")).set("other", new Float32Array(1));
      expect(() => loadExported(parameters, more, "a")).toThrow("32 tensors of the model, got 33");
      expect(() => tensorsOfContainer(container.subarray(0, 400), "a")).toThrow("[a]");
    });
  });
});

describe("the recipe", () => {
  test("17,059,912 parameters in three groups at their rates", () => {
    const model = golfModel(settings, 1024);
    expect(parameterCount(model)).toBe(17_059_912);
    expect(golfBaseline.vocabularySize).toBe(1024);
    const groups = golfGroups(500);
    const of = (name: string): string =>
      groups.find((g) => g.has(model.parameters.find((p) => p.name === name)!))!.id;
    expect(of("tok_emb.weight")).toBe("token_embedding");
    expect(of("blocks.4.mlp.proj.weight")).toBe("matrices");
    for (const name of ["skip_weights.3", "blocks.0.attn.q_gain", "blocks.8.resid_mix.1"])
      expect(of(name)).toBe("scalars");
    expect(groups.map(({ rateScale }) => rateScale)).toEqual([0.05, 0.04, 0.04]);
    const { optimizer } = groups[1]!;
    if (optimizer.kind !== "muon") throw new Error(optimizer.kind);
    const momenta = [1, 251, 501, 900].map((step) => momentumAt(optimizer, step).toFixed(6));
    expect(momenta).toEqual(["0.850000", "0.900000", "0.950000", "0.950000"]);
  });

  test("the multiplier falls with the time left, or with the steps left", () => {
    const byTime = golfSchedule(settings);
    // 1200 steps of 315 ms are 378 s; 120 s are left of 600
    expect(rateAt(byTime, 1, 1525, 480_060)).toBeCloseTo(119_940 / 378_000, 6);
    expect(rateAt(byTime, 1, 301, 94_500)).toBe(1);
    const bySteps = golfSchedule({ ...settings, time_budget_seconds: 0, max_steps: 381 });
    expect(rateAt(bySteps, 1, 1)).toBeCloseTo(381 / 1200, 12);
    expect(rateAt(bySteps, 1, 381)).toBeCloseTo(1 / 1200, 12);
  });

  test("settings name what makes no sense", () => {
    const refused: readonly (readonly [Partial<GolfSettings>, string])[] = [
      [{ sequences: 0 }, "sequences: a whole number from 1"],
      [{ time_budget_seconds: -1 }, "time_budget_seconds: 0 to 1e9"],
      [{ quantization: "int4" as never }, "quantization: int8_clean_per_row, int8_clean_per_row_v1"],
      [{ tokenizer: "" }, "tokenizer: a path"],
    ];
    for (const [change, message] of refused)
      expect(() => checkedGolfSettings("here", { ...settings, ...change })).toThrow(message);
    const free = {
      ...settings,
      dataset: "elsewhere",
      eval_mode: "sliding_window:64",
      compression: "zstd",
    } as const;
    expect(settingsDigest(free)).toBe(settingsDigest(settings));
    expect(settingsDigest({ ...settings, sequences: 32 })).not.toBe(settingsDigest(settings));
  });

  test("only the challenge's own validation set makes a submission", () => {
    expect(claimOf("corpus@v1", 62_021_632, 1e6).label).toBe("research");
    expect(claimOf("fineweb10B_sp1024@files", 1000, 1e6).label).toBe("research");
    expect(claimOf("fineweb10B_sp1024@files", 62_021_632, 1e6).label).toBe("non_record_submission");
    expect(claimOf("fineweb10B_sp1024@files", 62_021_632, 16_000_001).label).toBe(
      "record_candidate_blocked_on_accounting",
    );
  });
});
