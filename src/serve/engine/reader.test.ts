import { expect, test } from "bun:test";
import type { Logits } from "./batch.ts";
import { LogitReader } from "./reader.ts";

/** One row of a started step, whose logits cannot be had: 9 and 7 are likeliest, 5 was chosen. */
function started(): Logits {
  const absent = (): never => {
    throw new Error("that cannot be had of a started step");
  };
  return {
    ...{ rows: 1, argmax: absent, copy: absent, hidden: absent },
    topK: () => [{ ids: Int32Array.of(9, 7), values: Float32Array.of(4, 3) }],
    logSumExp: () => Float32Array.of(4.5),
    chosen: () => ({ token: 5, logprob: -6 }),
  };
}

test("a started step's log-probabilities are those of its ranking and of the chosen token", () => {
  const reader = new LogitReader(started(), 2);
  expect(reader.logprobs(0, 7, 2)).toEqual({
    ...{ token: 7, logprob: -1.5 },
    top: [
      { token: 9, logprob: -0.5 },
      { token: 7, logprob: -1.5 },
    ],
  });
  expect(reader.logprobs(0, 5, 0)).toEqual({ token: 5, logprob: -6, top: [] });
});

test("a token that a grammar puts in the place of the chosen one has no probability", () => {
  expect(new LogitReader(started(), 2).logprobs(0, 3, 0)).toEqual({ token: 3, logprob: -9999, top: [] });
});
