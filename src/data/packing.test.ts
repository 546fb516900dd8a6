import { expect, test } from "bun:test";
import { type PackingContract, packingPlan } from "./packing.ts";
import { randomBits } from "./random.ts";

const usual: PackingContract = {
  packing_mode: "pack_into_context_window",
  ...{ max_row_tokens: 10, max_batch_tokens: 20, max_rows_per_batch: 8, pad_to_multiple_of: null },
  overlong_sequence_posture: "refuse",
};

test("a row closes when the next sequence would exceed it; rows fill batches", () => {
  const plan = packingPlan([4, 6, 3, 8, 2, 10], usual);
  expect(plan.batches.map((b) => b.rows)).toEqual([
    [[0, 1], [2]],
    [[3, 4], [5]],
  ]);
  expect(plan).toMatchObject({
    row_count: 4,
    token_count: 33,
    padded_token_count: 40,
    fill_bps: 8250,
    dropped: [],
  });
  const single = packingPlan([4, 6, 3, 8], {
    ...usual,
    packing_mode: "batch_by_token_budget",
    pad_to_multiple_of: 4,
  });
  expect(single.batches.map((b) => [b.rows.flat(), b.padded_token_count])).toEqual([
    [[0, 1], 16],
    [[2, 3], 16],
  ]);
});

test("overlong sequences are dropped or refused; limits that cannot be are named", () => {
  expect(packingPlan([4, 11, 3], { ...usual, overlong_sequence_posture: "drop" }).dropped).toEqual([1]);
  expect(() => packingPlan([4, 11], usual)).toThrow("sequences of at most 10 tokens, got 11 in number 1");
  expect(() => packingPlan([4], { ...usual, max_rows_per_batch: 0 })).toThrow(
    "max_rows_per_batch of at least 1",
  );
  expect(() => packingPlan([4], { ...usual, max_batch_tokens: 9 })).toThrow("at least a padded row, 10");
  expect(packingPlan([], usual)).toMatchObject({ batches: [], fill_bps: 0 });
});

test("no plan exceeds a limit, loses a sequence or changes the order", () => {
  const bits = randomBits("packing");
  for (let round = 0; round < 100; round++) {
    const lengths = Array.from({ length: bits() % 50 }, () => 1 + (bits() % 10));
    const contract = {
      ...usual,
      packing_mode: bits() % 2 ? "pack_into_context_window" : "batch_by_token_budget",
      max_batch_tokens: 12 + (bits() % 40),
      max_rows_per_batch: 1 + (bits() % 5),
      pad_to_multiple_of: bits() % 2 ? 4 : null,
    } as const;
    const { batches } = packingPlan(lengths, contract);
    expect(batches.flatMap((b) => b.rows.flat())).toEqual(lengths.map((_, i) => i));
    for (const { rows, padded_token_count } of batches) {
      expect(rows.length).toBeLessThanOrEqual(contract.max_rows_per_batch);
      expect(padded_token_count).toBeLessThanOrEqual(contract.max_batch_tokens);
      for (const row of rows) expect(row.reduce((sum, i) => sum + lengths[i]!, 0)).toBeLessThanOrEqual(10);
    }
  }
});
