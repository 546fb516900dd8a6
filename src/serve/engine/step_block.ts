import { unexpected } from "../../core/error.ts";
import { sampleRecordWords } from "../../ir/ops/sample.ts";
import type { Device } from "../../runtime/device.ts";
import { makeTensor, type Tensor } from "../../runtime/tensor.ts";
import { type Batch, slotsOf } from "./batch.ts";
import { spareRecords } from "./device_choice.ts";

/** Elements (i32) that a part is aligned to: 64 bytes. */
const alignment = 16;
/** More changed ranges than this go up as one. */
const mostRanges = 8;

export type StepBlockShape = {
  /** Largest number of rows. */
  readonly rows: number;
  /** Largest number of pages of a sequence. */
  readonly maxPages: number;
  /** Per cache group: the page that spare rows write to. */
  readonly dummyPages: readonly number[];
  /** Rows from one state slot to the next; 0 = no recurrent layers. */
  readonly stateStride: number;
};

/** What a recorded step reads: views into the block, for `rows` rows and page tables of `pages` columns. */
export type StepInputs = {
  readonly tokens: Tensor;
  readonly positions: Tensor;
  readonly sequences: Tensor;
  readonly outputRows: Tensor;
  /** How each row's token is chosen, [rows, 20]; only what a step of that kind brought. */
  readonly records: Tensor;
  readonly pageTables: readonly Tensor[];
  /** Row of each row's state, -1 of spare ones. */
  readonly stateRows?: Tensor;
};

/**
 * Everything that changes from one generation step to the next, in one piece of device memory at fixed addresses, with a
 * copy on the host: `tokens, positions, sequences, outputRows, states [rows]` (the last of models with recurrent layers),
 * records of the choices, then a page table per group. Filling it uploads the head in one copy, the records where there
 * are some, and of the tables only what changed.
 *
 * Spare rows are token 0 at position 0 of a sequence whose only page is the dummy page; its row is the last of each table.
 */
export class StepBlock {
  private readonly device: Device;
  private readonly shape: StepBlockShape;
  private readonly memory: Tensor;
  private readonly host: Int32Array;
  /** Elements from one part of the head to the next. */
  private readonly stride: number;
  private readonly tableStride: number;
  /** Parts of the head. */
  private readonly parts: number;
  /** Elements before the tables. */
  private readonly headEnd: number;
  /** Columns of the tables as they stand on the device. */
  private columns = 0;

  constructor(device: Device, shape: StepBlockShape) {
    this.device = device;
    this.shape = shape;
    this.stride = aligned(shape.rows);
    this.tableStride = aligned((shape.rows + 1) * shape.maxPages);
    this.parts = shape.stateStride > 0 ? 5 : 4;
    this.headEnd = this.parts * this.stride + aligned(shape.rows * sampleRecordWords);
    this.host = new Int32Array(this.headEnd + shape.dummyPages.length * this.tableStride);
    this.memory = device.empty("i32", [this.host.length]);
    for (let row = 0; row < shape.rows; row++) this.host[3 * this.stride + row] = row;
  }

  free(): void {
    this.device.free(this.memory);
  }

  views(rows: number, pages: number): StepInputs {
    const view = (element: number, ...shape: number[]): Tensor =>
      makeTensor(this.device, "state", this.memory.address + 4 * element, { dtype: "i32", shape });
    return {
      tokens: view(0, rows),
      positions: view(this.stride, rows),
      sequences: view(2 * this.stride, rows),
      outputRows: view(3 * this.stride, rows),
      records: view(this.parts * this.stride, rows, sampleRecordWords),
      pageTables: this.shape.dummyPages.map((_, g) => view(this.tableStart(g), this.shape.rows + 1, pages)),
      ...(this.shape.stateStride > 0 && { stateRows: view(4 * this.stride, rows) }),
    };
  }

  /**
   * Takes over a batch of one token per sequence, filled up to `rows` rows, with tables of `pages` columns. `before`: the
   * chosen tokens of the step that it follows, i32; `records`: how its own are chosen.
   */
  fill(batch: Batch, rows: number, pages: number, before?: Tensor, records?: Int32Array): void {
    const { host, stride } = this;
    const spare = this.shape.rows;
    const used = batch.tokens.length;
    host.set(batch.tokens, 0);
    host.set(batch.positions, stride);
    host.set(batch.sequences, 2 * stride);
    host.fill(0, used, rows);
    host.fill(0, stride + used, stride + rows);
    host.fill(spare, 2 * stride + used, 2 * stride + rows);
    const { stateStride } = this.shape;
    if (stateStride > 0) {
      const at = 4 * stride;
      const slots = slotsOf(batch);
      for (let row = 0; row < used; row++) host[at + row] = slots[row]! * stateStride;
      host.fill(-1, at + used, at + rows);
    }
    this.upload(0, this.parts * stride);
    if (batch.follows) this.takeTokens(batch.follows, before);
    if (records) this.takeRecords(records, rows);
    if (pages !== this.columns) this.relayout(pages);
    for (const [from, to] of this.changes(batch, pages)) this.upload(from, to);
  }

  /** Copies tokens from where the step before left them, neighbours together. */
  private takeTokens(follows: Int32Array, before: Tensor | undefined): void {
    if (!before) throw unexpected("internal", "step", "a step to follow", "none");
    for (let from = 0, to = 1; to <= follows.length; to++) {
      if (to < follows.length && follows[to] === follows[to - 1]! + 1) continue;
      const source = before.address + 4 * follows[from]!;
      this.device.backend.copy(this.memory.address + 4 * from, source, 4 * (to - from));
      from = to;
    }
  }

  private takeRecords(records: Int32Array, rows: number): void {
    const at = this.parts * this.stride;
    const used = records.length / sampleRecordWords;
    this.host.set(records, at);
    this.host.set(spareRecords(used, rows), at + records.length);
    this.upload(at, at + rows * sampleRecordWords);
  }

  private tableStart(group: number): number {
    return this.headEnd + group * this.tableStride;
  }

  /** Empty tables of another number of columns, with the dummy page in the last row. */
  private relayout(pages: number): void {
    this.columns = pages;
    this.host.fill(-1, this.headEnd);
    this.shape.dummyPages.forEach((page, g) => {
      const from = this.tableStart(g);
      this.host[from + this.shape.rows * pages] = page;
      this.upload(from, from + (this.shape.rows + 1) * pages);
    });
  }

  /** Writes the batch's tables into the host's copy; the ranges of elements that differ from before, ascending. */
  private changes(batch: Batch, pages: number): readonly (readonly [number, number])[] {
    const { host } = this;
    const { maxPages } = batch;
    const ranges: [number, number][] = [];
    batch.pageTables.forEach((table, g) => {
      const own: [number, number][] = [];
      for (let row = 0; row < batch.sequenceCount; row++) {
        const to = this.tableStart(g) + row * pages;
        const from = row * maxPages;
        let first = -1;
        let last = -1;
        for (let i = 0; i < maxPages; i++) {
          const page = table[from + i]!;
          if (host[to + i] === page) continue;
          host[to + i] = page;
          if (first < 0) first = i;
          last = i;
        }
        if (first >= 0) own.push([to + first, to + last + 1]);
      }
      if (own.length > mostRanges) ranges.push([own[0]![0], own.at(-1)![1]]);
      else ranges.push(...own);
    });
    return ranges;
  }

  private upload(from: number, to: number): void {
    const bytes = new Uint8Array(this.host.buffer, 4 * from, 4 * (to - from));
    this.device.backend.write(this.memory.address + 4 * from, bytes);
  }
}

function aligned(elements: number): number {
  return Math.ceil(elements / alignment) * alignment;
}
