import type { DType } from "../core/dtype.ts";
import type { Shape } from "../core/shape.ts";
import type { Cost, Packing } from "./op.ts";

/** Who owns a value's memory. */
export type ValueKind = "weight" | "state" | "temporary";

export type ProgramValue = {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly packed: Packing;
  readonly kind: ValueKind;
  readonly bytes: number;
};

/** One recorded call: values are indexes into `Program.values`, -1 for an absent optional input. */
export type ProgramCall = {
  readonly op: string;
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly params: Readonly<Record<string, unknown>>;
  readonly scratchBytes: number;
  readonly cost: Cost;
};

/** What a recorder heard: the calls of one step in order. Addresses are not part of it. */
export type Program = { readonly values: readonly ProgramValue[]; readonly calls: readonly ProgramCall[] };
