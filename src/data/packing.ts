/** How sequences fill rows and rows fill batches, without reading a token. */
import { unexpected } from "../core/error.ts";

export type PackingContract = {
  /** Sequences side by side until the next does not fit, or one in a row. */
  readonly packing_mode: "pack_into_context_window" | "batch_by_token_budget";
  readonly max_row_tokens: number;
  readonly max_batch_tokens: number;
  readonly max_rows_per_batch: number;
  /** Rows of a batch are padded to its longest, rounded up to this; null: to nothing further. */
  readonly pad_to_multiple_of: number | null;
  readonly overlong_sequence_posture: "refuse" | "drop";
};

export type PlannedBatch = {
  /** Numbers of the sequences of each row. */
  readonly rows: readonly (readonly number[])[];
  readonly token_count: number;
  /** Rows times the length that all are padded to. */
  readonly padded_token_count: number;
};

export type PackingPlan = {
  readonly batches: readonly PlannedBatch[];
  readonly row_count: number;
  readonly token_count: number;
  readonly padded_token_count: number;
  /** Tokens among padded tokens, in basis points. */
  readonly fill_bps: number;
  readonly dropped: readonly number[];
};

type Row = { readonly sequences: number[]; tokens: number };

/** Rows and batches for sequences of the given lengths, greedily and in their order. */
export function packingPlan(lengths: ArrayLike<number>, contract: PackingContract): PackingPlan {
  checkPacking(contract);
  const { rows, dropped } = rowsOf(lengths, contract);
  const batches = batchesOf(rows, contract);
  const token_count = batches.reduce((sum, b) => sum + b.token_count, 0);
  const padded_token_count = batches.reduce((sum, b) => sum + b.padded_token_count, 0);
  const fill_bps = padded_token_count === 0 ? 0 : Math.floor((10000 * token_count) / padded_token_count);
  return { batches, row_count: rows.length, token_count, padded_token_count, fill_bps, dropped };
}

function checkPacking(contract: PackingContract): void {
  for (const [name, n] of Object.entries(contract)) {
    if (typeof n === "number" && !(Number.isSafeInteger(n) && n >= 1))
      throw unexpected("invalid_request", "packing", `${name} of at least 1`, n);
  }
  if (padded(contract.max_row_tokens, contract) > contract.max_batch_tokens) {
    const room = `max_batch_tokens of at least a padded row, ${padded(contract.max_row_tokens, contract)}`;
    throw unexpected("invalid_request", "packing", room, contract.max_batch_tokens);
  }
}

function padded(tokens: number, { pad_to_multiple_of: step }: PackingContract): number {
  return step === null ? tokens : Math.ceil(tokens / step) * step;
}

function rowsOf(lengths: ArrayLike<number>, contract: PackingContract) {
  const rows: Row[] = [];
  const dropped: number[] = [];
  for (let i = 0; i < lengths.length; i++) {
    const length = lengths[i]!;
    if (length > contract.max_row_tokens) {
      if (contract.overlong_sequence_posture === "refuse")
        throw unexpected(
          "invalid_request",
          "packing",
          `sequences of at most ${contract.max_row_tokens} tokens`,
          `${length} in number ${i}`,
        );
      dropped.push(i);
      continue;
    }
    const last = rows.at(-1);
    const joins = contract.packing_mode === "pack_into_context_window" && last;
    if (joins && last.tokens + length <= contract.max_row_tokens) {
      last.sequences.push(i);
      last.tokens += length;
    } else rows.push({ sequences: [i], tokens: length });
  }
  return { rows, dropped };
}

function batchesOf(rows: readonly Row[], contract: PackingContract): PlannedBatch[] {
  const batches: PlannedBatch[] = [];
  let open: Row[] = [];
  let width = 0;
  const close = (): void => {
    if (open.length === 0) return;
    batches.push({
      rows: open.map(({ sequences }) => sequences),
      token_count: open.reduce((sum, row) => sum + row.tokens, 0),
      padded_token_count: open.length * width,
    });
    [open, width] = [[], 0];
  };
  for (const row of rows) {
    const wider = Math.max(width, padded(row.tokens, contract));
    if (open.length === contract.max_rows_per_batch || (open.length + 1) * wider > contract.max_batch_tokens)
      close();
    open.push(row);
    width = Math.max(width, padded(row.tokens, contract));
  }
  close();
  return batches;
}
