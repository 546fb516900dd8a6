import { allocateHost } from "../backends/index.ts";
import { type DType, isQuantised, rowBytes } from "../core/dtype.ts";
import { unexpected } from "../core/error.ts";
import type { Shape } from "../core/shape.ts";
import type { Packing } from "../ir/op.ts";
import type { Device, FileMapping, FilePlace } from "../runtime/device.ts";
import { makeTensor, type Tensor } from "../runtime/tensor.ts";
import type { Adapter } from "./adapter.ts";
import type { GateUp, Linear } from "./layers.ts";

/** A matrix or stack of matrices in file layout: `[rows, columns]` or `[experts, rows, columns]`. */
export type StoredTensor = {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
  readonly bytes: number;
  /** Whether the bytes lie in the mapped file; otherwise they were made from it. */
  readonly mapped: boolean;
  /** Address of the bytes in this process, valid until `drop`; 0 on the meta device. */
  address(): number;
  /** The bytes, for conversions; only for what fits one view. */
  read(): Uint8Array;
  /** Where the bytes begin in a file; undefined where they were made or nothing will be computed. */
  readonly place: FilePlace | undefined;
  /** The mapped file that has the bytes, if one has. */
  readonly mapping?: FileMapping | undefined;
  /** Tells that the mapped pages, or the memory at `address`, are not needed any more. */
  drop(): void;
};

/** Rows of a matrix that stand together, and how many rows the whole of it has. */
export type RowRun = {
  readonly name: string;
  readonly total: number;
  readonly from: number;
  readonly rows: number;
};

/** Weights by their GGUF names, whatever the file they come from. */
export interface WeightSource {
  has(name: string): boolean;
  get(name: string): StoredTensor;
  /** Tensors and elements of the file. */
  readonly parameters: number;
  /** Tensors of the file that nobody has asked for. */
  unused(): readonly string[];
  close(): void;
}

/** Ranks of adapters are filled up to a multiple of this. */
const rankStep = 32;

/**
 * Puts a model's weights on a device and owns them: matrices in the backend's packed layout, vectors as f32, embedding
 * tables left mapped where the file is if the device can read them there. Every shape is checked here, once.
 */
export class Weights {
  readonly #device: Device;
  readonly #source: WeightSource;
  readonly #progress: (bytes: number) => void;
  readonly #owned: Tensor[] = [];
  readonly #adopted = new Set<FileMapping>();
  /** Names of adopted tensors: a tied table has one place. */
  readonly #inPlace = new Set<string>();
  readonly #adapter: Adapter | undefined;
  readonly #routed: boolean;
  /** Matrices of the adapter that a layer was given. */
  readonly #adapted = new Set<string>();
  #residentBytes = 0;
  #mappedBytes = 0;

  /**
   * `routed`: routers read what the layers compute, and where rounding tips a near tie another expert is chosen: where the
   * backend would round activations to 8 bits, they get 16.
   */
  constructor(
    device: Device,
    source: WeightSource,
    progress: (bytes: number) => void,
    { adapter, routed }: { readonly adapter: Adapter | undefined; readonly routed: boolean },
  ) {
    this.#device = device;
    this.#source = source;
    this.#progress = progress;
    this.#adapter = adapter;
    this.#routed = routed && device.backend.a16 === true;
  }

  has(name: string): boolean {
    return this.#source.has(name);
  }

  get parameters(): number {
    return this.#source.parameters;
  }

  /** Bytes kept in memory of our own. */
  get residentBytes(): number {
    return this.#residentBytes;
  }

  /** Bytes left in the file, of which rows are read as they are needed. */
  get mappedBytes(): number {
    return this.#mappedBytes;
  }

  dtype(name: string): DType {
    return this.#source.get(name).dtype;
  }

  /** Tells that a tensor of the file, if it is there, is known to play no part. */
  pass(name: string): void {
    if (this.has(name)) this.#source.get(name);
  }

  /** f32 [n] from any float type. `plus` is added to each element (zero-centred norms). */
  vector(name: string, length: number, plus = 0): Tensor {
    return this.#floats(name, [length], plus);
  }

  /** f32 [rows, columns] in plain layout (biases of experts). */
  matrix(name: string, rows: number, columns: number): Tensor {
    return this.#floats(name, [rows, columns], 0);
  }

  optionalVector(name: string, length: number): Tensor | undefined {
    return this.has(name) ? this.vector(name, length) : undefined;
  }

  /** Host copy of a float vector. */
  hostVector(name: string, length: number): Float32Array {
    const stored = this.#checked(name, [length]);
    return toF32(stored);
  }

  /** Host copy of a float matrix of as many rows as it has, f32 [rows, columns]. */
  hostRows(name: string, columns: number): Float32Array {
    const { shape } = this.#source.get(name);
    return toF32(this.#checked(name, [shape.length > 1 ? shape[0]! : 1, columns]));
  }

  /** The output projection, behind which nothing is routed. */
  head(name: string, outputs: number, inputs: number): Linear {
    return this.#joined([{ name, outputs }], inputs, { packing: true });
  }

  /** Packed [outputs, inputs] with its bias if the file has one. */
  linear(name: string, outputs: number, inputs: number): Linear {
    return this.#joined([{ name, outputs }], inputs);
  }

  /**
   * Linear layers over the same input: as one weight when their types agree and panels line up, else one each.
   * `at[i]` says where the i-th layer's outputs stand.
   */
  linears(
    layers: readonly { readonly name: string; readonly outputs: number }[],
    inputs: number,
  ): {
    readonly parts: readonly Linear[];
    readonly at: readonly { readonly part: number; readonly offset: number }[];
  } {
    const types = new Set(layers.map((l) => this.dtype(`${l.name}.weight`)));
    const biases = new Set(layers.map((l) => this.has(`${l.name}.bias`)));
    const joins = !layers.every((l) => this.#isAdopted(this.#source.get(`${l.name}.weight`)));
    if (joins && types.size === 1 && biases.size === 1 && layers.every((l) => l.outputs % 16 === 0)) {
      let offset = 0;
      const at = layers.map((l) => {
        const here = { part: 0, offset };
        offset += l.outputs;
        return here;
      });
      return { parts: [this.#joined(layers, inputs)], at };
    }
    return {
      parts: layers.map((l) => this.linear(l.name, l.outputs, inputs)),
      at: layers.map((_, part) => ({ part, offset: 0 })),
    };
  }

  /** Packed [rows of all runs, inputs], for matrices of one type and runs of whole panels of 16 rows. */
  runs(runs: readonly RowRun[], inputs: number): Linear {
    const stored = runs.map(({ name, total }) => this.#checked(`${name}.weight`, [total, inputs]));
    const dtype = this.#sameType(stored);
    const outputs = runs.reduce((sum, { rows }) => sum + rows, 0);
    const packed = this.#packing(dtype);
    const weight = this.#device.empty(dtype, [outputs, inputs], { packed, kind: "weight" });
    const bytesPerRow = rowBytes(dtype, inputs);
    let place = weight.address;
    for (const [i, { from, rows }] of runs.entries()) {
      this.#pack(place, stored[i]!, from * bytesPerRow, rows);
      place += this.#device.backend.packedBytes(dtype, rows, inputs);
      this.#progress(rows * bytesPerRow);
    }
    for (const s of stored) s.drop();
    this.#own(weight, this.#device.backend.packedBytes(dtype, outputs, inputs));
    return { weight };
  }

  gateUp(gate: string, up: string, width: number, inputs: number): GateUp {
    const layers = [gate, up].map((name) => ({ name, outputs: width }));
    const { parts } = this.linears(layers, inputs);
    return parts.length === 1 ? [parts[0]!] : [parts[0]!, parts[1]!];
  }

  /** Packed [experts, outputs, inputs] and bias [experts, outputs]; several names are joined along the outputs. */
  experts(names: readonly string[], experts: number, outputs: number, inputs: number): Linear {
    const stored = names.map((name) => this.#checked(`${name}.weight`, [experts, outputs, inputs]));
    const dtype = this.#sameType(stored);
    const all = outputs * names.length;
    if (stored.length === 1 && this.#isAdopted(stored[0]!)) {
      const weight = this.#adopt(stored[0]!, [experts, outputs, inputs]);
      return { weight, bias: this.#expertBias(names, experts, outputs) };
    }
    const packed = this.#packing(dtype);
    const weight = this.#device.empty(dtype, [experts, all, inputs], { packed, kind: "weight" });
    const { packedBytes } = this.#device.backend;
    const each = packedBytes(dtype, all, inputs);
    const part = packedBytes(dtype, outputs, inputs);
    for (const [i, s] of stored.entries()) {
      const source = s.bytes / experts;
      for (let e = 0; e < experts; e++) {
        this.#pack(weight.address + e * each + i * part, s, e * source, outputs);
        this.#progress(source);
      }
      s.drop();
    }
    this.#own(weight, experts * each);
    return { weight, bias: this.#expertBias(names, experts, outputs) };
  }

  /** Gate and up of layer `i`'s experts: merged in the file, joined here where types and panels allow, or two. */
  expertGateUp(i: number, experts: number, outputs: number, inputs: number): GateUp {
    const merged = `blk.${i}.ffn_gate_up_exps`;
    if (this.has(`${merged}.weight`)) return [this.experts([merged], experts, 2 * outputs, inputs)];
    const [gate, up] = [`blk.${i}.ffn_gate_exps`, `blk.${i}.ffn_up_exps`];
    const inPlace = [gate, up].every((name) => this.#isAdopted(this.#source.get(`${name}.weight`)));
    const sameType = this.dtype(`${gate}.weight`) === this.dtype(`${up}.weight`);
    const joins = !inPlace && sameType && outputs % 16 === 0;
    if (joins) return [this.experts([gate, up], experts, outputs, inputs)];
    return [this.experts([gate], experts, outputs, inputs), this.experts([up], experts, outputs, inputs)];
  }

  /** An embedding table [V, D]: left in the mapped file, or packed where the device cannot read this process's memory. */
  table(name: string, rows: number, columns: number): Tensor {
    if (!this.#device.backend.hostMemory)
      return this.#joined([{ name, outputs: rows }], columns, { biased: [] }).weight;
    const s = this.#checked(`${name}.weight`, [rows, columns]);
    if (this.#isAdopted(s)) return this.#adopt(s, [rows, columns], false);
    if (this.#device.backend.adopt)
      return this.#joined([{ name, outputs: rows }], columns, { biased: [] }).weight;
    if (s.mapped) this.#mappedBytes += s.bytes;
    else this.#residentBytes += s.bytes;
    this.#progress(s.bytes);
    return makeTensor(this.#device, "weight", s.address(), { dtype: s.dtype, shape: [rows, columns] });
  }

  /** f32 data made by the caller (rotary tables). */
  constant(data: Float32Array): Tensor {
    const t = this.#device.empty("f32", [data.length], { kind: "weight" });
    this.#device.upload(t, data);
    this.#own(t, data.byteLength);
    return t;
  }

  /**
   * Refuses a file with tensors that the model's forward pass does not use: it computes something else than would be
   * computed here.
   */
  refuseUnused(): void {
    this.#refuseUnadapted();
    const [first, ...others] = this.#source.unused();
    if (first === undefined) return;
    const more = others.length > 0 ? ` (and ${others.length} more)` : "";
    throw unexpected("unsupported", "model", "only tensors that its architecture uses", `${first}${more}`, {
      details: { tensors: [first, ...others].slice(0, 20) },
    });
  }

  #refuseUnadapted(): void {
    const { path = "", matrices = new Map<string, unknown>() } = this.#adapter ?? {};
    const missing = [...matrices.keys()].find((name) => !this.#adapted.has(name));
    if (missing === undefined) return;
    const expected = "matrices that the model computes on their own";
    throw unexpected("unsupported", path, expected, missing, { details: { matrix: missing } });
  }

  /**
   * What the adapter adds to layers that stand together as one: their A's one above the other, their B's each in its own
   * rows and columns.
   */
  #adapterOf(
    layers: readonly { readonly name: string; readonly outputs: number }[],
    inputs: number,
  ): Linear["adapter"] {
    const adapter = this.#adapter;
    const found = layers.map(({ name }) => adapter?.matrices.get(name));
    const count = found.filter((one) => one !== undefined).length;
    if (!adapter || count === 0) return undefined;
    const { rank, path } = adapter;
    const outputs = layers.reduce((sum, l) => sum + l.outputs, 0);
    // kernels of GPUs read several columns at once; what is added is zeros
    const all = Math.ceil((rank * count) / rankStep) * rankStep;
    const [down, up] = [new Float32Array(all * inputs), new Float32Array(outputs * all)];
    let [row, column] = [0, 0];
    for (const [i, { name, outputs: own }] of layers.entries()) {
      const one = found[i];
      if (one) {
        for (const [part, expected] of [
          ["down", rank * inputs],
          ["up", own * rank],
        ] as const)
          if (one[part].length !== expected)
            throw unexpected("file_malformed", path, `${name} of [${own}, ${inputs}]`, "another size");
        down.set(one.down, column * inputs);
        for (let r = 0; r < own; r++)
          up.set(one.up.subarray(r * rank, (r + 1) * rank), (row + r) * all + column);
        this.#adapted.add(name);
        column += rank;
      }
      row += own;
    }
    return { down: this.#packed(down, [all, inputs]), up: this.#packed(up, [outputs, all]) };
  }

  /** Data made here, in the backend's packed layout. */
  #packed(data: Float32Array, [rows, columns]: readonly [number, number]): Tensor {
    const { backend } = this.#device;
    const weight = this.#device.empty("f32", [rows, columns], { packed: true, kind: "weight" });
    const host = allocateHost(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    backend.pack(weight.address, host.address, rows, columns, "f32");
    host.free();
    this.#own(weight, backend.packedBytes("f32", rows, columns));
    return weight;
  }

  free(): void {
    for (const t of this.#owned) this.#device.free(t);
    this.#owned.length = 0;
    for (const mapping of this.#adopted) this.#device.backend.disown?.(mapping);
    this.#adopted.clear();
    this.#source.close();
  }

  #joined(
    layers: readonly { readonly name: string; readonly outputs: number }[],
    inputs: number,
    {
      biased = layers.filter((l) => this.has(`${l.name}.bias`)),
      packing,
    }: { readonly biased?: typeof layers; readonly packing?: Packing } = {},
  ): Linear {
    const stored = layers.map((l) => this.#checked(`${l.name}.weight`, [l.outputs, inputs]));
    const dtype = this.#sameType(stored);
    const outputs = layers.reduce((sum, l) => sum + l.outputs, 0);
    const biases = biased.map((l) => this.hostVector(`${l.name}.bias`, l.outputs));
    const bias = biases.length === 0 ? undefined : this.constant(concatenate(biases));
    const adapter = this.#adapterOf(layers, inputs);
    if (stored.length === 1 && this.#isAdopted(stored[0]!)) {
      return { weight: this.#adopt(stored[0]!, [outputs, inputs]), bias, ...(adapter && { adapter }) };
    }
    const packed = packing ?? this.#packing(dtype);
    const weight = this.#device.empty(dtype, [outputs, inputs], { packed, kind: "weight" });
    let place = weight.address;
    for (const s of stored) {
      const rows = s.shape[0]!;
      this.#pack(place, s, 0, rows);
      place += this.#device.backend.packedBytes(dtype, rows, inputs);
      this.#progress(s.bytes);
      s.drop();
    }
    this.#own(weight, this.#device.backend.packedBytes(dtype, outputs, inputs));
    return { weight, bias, ...(adapter && { adapter }) };
  }

  #packing(dtype: DType): Packing {
    return this.#routed && isQuantised(dtype) ? "a16" : true;
  }

  /** Whether the device computes with the bytes where the file is mapped. */
  #isAdopted({ mapped }: StoredTensor): boolean {
    return this.#device.backend.adopt !== undefined && mapped;
  }

  #adopt(stored: StoredTensor, shape: Shape, packed = true): Tensor {
    const { mapping } = stored;
    const address = stored.address();
    if (mapping) {
      this.#device.backend.adopt!(mapping, address, stored.bytes);
      this.#adopted.add(mapping);
    }
    if (!this.#inPlace.has(stored.name)) this.#residentBytes += stored.bytes;
    this.#inPlace.add(stored.name);
    this.#progress(stored.bytes);
    return makeTensor(this.#device, "weight", address, { dtype: stored.dtype, shape, packed });
  }

  #expertBias(names: readonly string[], experts: number, outputs: number): Tensor | undefined {
    if (!names.some((name) => this.has(`${name}.bias`))) return undefined;
    const all = outputs * names.length;
    const data = new Float32Array(experts * all);
    for (const [i, name] of names.entries()) {
      const part = toF32(this.#checked(`${name}.bias`, [experts, outputs]));
      for (let e = 0; e < experts; e++)
        data.set(part.subarray(e * outputs, (e + 1) * outputs), e * all + i * outputs);
    }
    const t = this.#device.empty("f32", [experts, all], { kind: "weight" });
    this.#device.upload(t, data);
    this.#own(t, data.byteLength);
    return t;
  }

  #floats(name: string, shape: Shape, plus: number): Tensor {
    const data = toF32(this.#checked(name, shape));
    if (plus !== 0) for (let i = 0; i < data.length; i++) data[i]! += plus;
    const t = this.#device.empty("f32", shape, { kind: "weight" });
    this.#device.upload(t, data);
    this.#own(t, data.byteLength);
    return t;
  }

  /** Packs `rows` rows of a tensor that start `from` bytes into it. */
  #pack(destination: number, stored: StoredTensor, from: number, rows: number): void {
    const { backend } = this.#device;
    const { dtype, place } = stored;
    const columns = stored.shape.at(-1)!;
    const inFile = place && { path: place.path, offset: place.offset + from };
    if (inFile && backend.packFile(destination, inFile, rows, columns, dtype)) return;
    backend.pack(destination, stored.address() + from, rows, columns, dtype);
  }

  #sameType(stored: readonly StoredTensor[]): DType {
    const first = stored[0]!;
    const other = stored.find((s) => s.dtype !== first.dtype);
    if (other)
      throw unexpected(
        "file_malformed",
        other.name,
        `the type of ${first.name}, ${first.dtype}`,
        other.dtype,
      );
    return first.dtype;
  }

  #own(t: Tensor, bytes: number): void {
    this.#owned.push(t);
    this.#residentBytes += bytes;
  }

  #checked(name: string, shape: Shape): StoredTensor {
    const s = this.#source.get(name);
    // Files write a single expert, or a row vector, with or without the dimension of size one.
    const squeeze = (dims: Shape): string => dims.filter((d) => d !== 1).join(", ");
    if (squeeze(s.shape) !== squeeze(shape)) {
      throw unexpected("file_malformed", name, `shape [${shape.join(", ")}]`, `[${s.shape.join(", ")}]`);
    }
    const columns = shape.at(-1)!;
    const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
    if (rowBytes(s.dtype, columns) * rows !== s.bytes) {
      throw unexpected("file_malformed", name, `${rowBytes(s.dtype, columns) * rows} bytes`, s.bytes);
    }
    return { ...s, shape };
  }
}

function toF32(s: StoredTensor): Float32Array {
  if (isQuantised(s.dtype)) throw unexpected("unsupported", s.name, "a float type for this tensor", s.dtype);
  const bytes = s.read();
  const count = s.shape.reduce((a, b) => a * b, 1);
  const copy = bytes.slice().buffer;
  switch (s.dtype) {
    case "f32":
      return new Float32Array(copy);
    case "f64":
      return Float32Array.from(new Float64Array(copy));
    case "f16":
      return Float32Array.from(new Float16Array(copy));
    case "bf16": {
      const halves = new Uint16Array(copy);
      const words = new Uint32Array(count);
      for (let i = 0; i < count; i++) words[i] = halves[i]! << 16;
      return new Float32Array(words.buffer);
    }
    default:
      throw unexpected("unsupported", s.name, "a float type for this tensor", s.dtype);
  }
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const p of parts) {
    all.set(p, at);
    at += p.length;
  }
  return all;
}
