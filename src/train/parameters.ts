import { dtypes } from "../core/dtype.ts";
import { unexpected } from "../core/error.ts";
import { elementCount, type Shape } from "../core/shape.ts";
import type { RoundingFormat } from "../ir/ops/block_round.ts";
import type { Device } from "../runtime/device.ts";
import type { Trained } from "../runtime/tape.ts";
import { makeTensor, type Tensor } from "../runtime/tensor.ts";
import { blockRound, cast, fill, mix } from "../runtime/training.ts";
import type { Initial, ParameterSpec, TrainedModel } from "./model.ts";
import { normalNumbers, uniformNumbers } from "./random.ts";

/** Where a parameter lies in the flat buffers, elements. */
export type ParameterPlace = {
  readonly spec: ParameterSpec;
  readonly offset: number;
  readonly count: number;
};

/** Elements that parameters begin at multiples of: 64 bytes of f32. */
const alignment = 16;

/**
 * The parameters of a model in one flat buffer, f32, with their gradients in another, so that an optimiser step, the global
 * norm and a digest are a few calls. Those of a class lie together, and in it those of a shape. With bf16 the forward pass
 * sees a copy of the matrices in that type; where the device computes with bf16 throughout, of embeddings and heads too.
 */
export class Parameters implements Disposable {
  readonly device: Device;
  readonly places: readonly ParameterPlace[];
  /** Elements of the flat buffers, gaps included; gaps are zero. */
  readonly elements: number;
  readonly values: Tensor;
  readonly gradients: Tensor;
  readonly trained: readonly Trained[];
  readonly #copies: Tensor | undefined;
  /** f32, for what is rounded to blocks and not to bf16. */
  readonly #rounded: Tensor | undefined;
  readonly #blocks: readonly Blocks[];
  #rounds = false;
  readonly #weights = new Map<string, Tensor>();

  constructor(
    device: Device,
    model: TrainedModel,
    precision: "f32" | "bf16",
    formatOf: (spec: ParameterSpec) => RoundingFormat | undefined = () => undefined,
  ) {
    this.device = device;
    const key = ({ class: kind, shape }: ParameterSpec): string => `${kind} ${shape.join("x")}`;
    const specs = [...model.parameters].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
    const places: ParameterPlace[] = [];
    let offset = 0;
    for (const spec of specs) {
      const count = elementCount(spec.shape);
      places.push({ spec, offset, count });
      offset += Math.ceil(count / alignment) * alignment;
    }
    this.places = places;
    this.elements = offset;
    // what cannot be is refused before anything is taken
    const formats = places.map(({ spec }) => checkedFormat(spec, formatOf(spec)));
    this.values = device.empty("f32", [offset]);
    this.gradients = device.empty("f32", [offset]);
    this.#copies = precision === "bf16" ? device.empty("bf16", [offset]) : undefined;
    const halves = (spec: ParameterSpec): boolean =>
      this.#copies !== undefined && isRounded(spec, device.backend.halfTensors === true);
    const apart = places.some(({ spec }, i) => formats[i] !== undefined && !halves(spec));
    this.#rounded = apart ? device.empty("f32", [offset]) : undefined;
    const blocks: Blocks[] = [];
    this.trained = places.map((place, i) => {
      const format = formats[i];
      const flat = halves(place.spec) ? this.#copies! : format ? this.#rounded! : this.values;
      const value = part(flat, place, place.spec.shape);
      if (format) blocks.push({ master: part(this.values, place, place.spec.shape), value, format });
      this.#weights.set(place.spec.name, value);
      return { value, gradient: part(this.gradients, place, place.spec.shape) };
    });
    this.#blocks = blocks;
  }

  /** As the forward pass computes with it. */
  weight(name: string): Tensor {
    const found = this.#weights.get(name);
    if (!found) throw unexpected("internal", "parameters", "the name of a parameter", name);
    return found;
  }

  /** Initial values by each parameter's name and the seed. */
  initialise(seed: number): void {
    for (const place of this.places) {
      const seeded = `psionic initial values ${seed} ${place.spec.name}`;
      const values = initialValues(place.spec.initial, place.count, seeded);
      this.device.upload(part(this.values, place, [place.count]), values);
    }
    this.refresh();
  }

  /** Brings the copies that the forward pass sees up to date; after every change of the values. */
  refresh(): void {
    if (this.#copies) cast(this.values, "bf16", this.#copies);
    for (const { master, value, format } of this.#blocks) {
      if (this.#rounds) blockRound(master, format, value);
      else if (value.dtype === "f32") mix(master, undefined, 1, 0, undefined, undefined, value);
    }
  }

  /** Whether the forward pass sees what has a block format as that holds it. */
  get rounds(): boolean {
    return this.#rounds;
  }

  /** From now on the forward pass sees what has a block format as that holds it. */
  round(): void {
    if (this.#rounds) return;
    this.#rounds = true;
    this.refresh();
  }

  clearGradients(): void {
    fill(this.gradients, 0);
  }

  [Symbol.dispose](): void {
    for (const t of [this.values, this.gradients, this.#copies, this.#rounded]) if (t) this.device.free(t);
  }
}

/** A parameter of a block format, as it is kept and as the forward pass sees it. */
type Blocks = { readonly master: Tensor; readonly value: Tensor; readonly format: RoundingFormat };

function checkedFormat(
  { name, shape }: ParameterSpec,
  format: RoundingFormat | undefined,
): RoundingFormat | undefined {
  if (format === undefined) return undefined;
  if (shape.at(-1)! % dtypes[format].blockElements === 0) return format;
  const expected = `rows of whole ${format} blocks of ${dtypes[format].blockElements}`;
  throw unexpected("invalid_argument", "train", expected, `${name} [${shape.join(", ")}]`);
}

function isRounded({ class: kind, shape }: ParameterSpec, throughout: boolean): boolean {
  if (throughout) return kind === "matrix" || kind === "embedding" || kind === "head";
  return kind === "matrix" && shape.length === 2;
}

/** A parameter's part of a flat buffer of any element type. */
export function part(flat: Tensor, { offset }: { readonly offset: number }, shape: Shape): Tensor {
  const bytes = flat.dtype === "bf16" ? 2 : 4;
  return makeTensor(flat.device, flat.kind, flat.address + bytes * offset, { dtype: flat.dtype, shape });
}

function initialValues(initial: Initial, count: number, seed: string): Float32Array {
  switch (initial.kind) {
    case "normal":
      return normalNumbers(seed, count, initial.deviation);
    case "uniform":
      return uniformNumbers(seed, count, initial.limit);
    case "constant":
      return new Float32Array(count).fill(initial.value);
  }
}
