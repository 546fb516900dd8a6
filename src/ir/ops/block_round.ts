import { dtypes } from "../../core/dtype.ts";
import { unexpected } from "../../core/error.ts";
import { elementCount } from "../../core/shape.ts";
import type { Op } from "../op.ts";
import { elementWise, expectReal, plainSpec, trainingBackends } from "../real.ts";
import { dtypeCode } from "../spec.ts";

/** Block formats that training can finish in. */
export const roundingFormats = ["mxfp4", "q8_0"] as const;
export type RoundingFormat = (typeof roundingFormats)[number];

export type BlockRoundParams = {
  readonly format: RoundingFormat;
  /** Of the result. */
  readonly dtype: "f32" | "bf16";
};

/**
 * y = x as a file of a block format would keep it: quantised by ggml's rule in blocks of 32 along memory, and back. What is
 * trained on such values learns through them: the masters that are rounded take the gradients as they are.
 */
export const blockRound: Op<BlockRoundParams> = {
  name: "block_round",
  summary: "values that a block format can hold, nearest to x's",
  backends: trainingBackends,
  inputs: [{ name: "x" }],
  params: ["format", "dtype"],
  signature: ["ptr", "ptr", "i32", "i32", "f64"],
  outputs([x], { format, dtype }) {
    const { shape } = expectReal("block_round x", x, x?.shape ?? []);
    const { blockElements } = dtypes[format];
    const whole = (shape.at(-1) ?? 1) % blockElements === 0;
    if (x!.dtype !== "f32" || !whole) {
      const expected = `f32 in rows of whole blocks of ${blockElements}`;
      throw unexpected("invalid_argument", "block_round", expected, `${x!.dtype} [${shape.join(", ")}]`);
    }
    return [plainSpec(dtype, ...shape)];
  },
  cost: elementWise(4),
  arguments: ([y], [x], { format }) => [
    ...[y!.address, x!.address, dtypes[format].id, dtypeCode(y!), elementCount(x!.shape)],
  ],
};
