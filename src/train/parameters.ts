import { unexpected } from "../core/error.ts";
import { elementCount, type Shape } from "../core/shape.ts";
import type { Device } from "../runtime/device.ts";
import type { Trained } from "../runtime/tape.ts";
import { makeTensor, type Tensor } from "../runtime/tensor.ts";
import { cast, fill } from "../runtime/training.ts";
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
  readonly #weights = new Map<string, Tensor>();

  constructor(device: Device, model: TrainedModel, precision: "f32" | "bf16") {
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
    this.values = device.empty("f32", [offset]);
    this.gradients = device.empty("f32", [offset]);
    this.#copies = precision === "bf16" ? device.empty("bf16", [offset]) : undefined;
    this.trained = places.map((place) => {
      const inCopies =
        this.#copies !== undefined && isRounded(place.spec, device.backend.halfTensors === true);
      const value = part(inCopies ? this.#copies! : this.values, place, place.spec.shape);
      this.#weights.set(place.spec.name, value);
      return { value, gradient: part(this.gradients, place, place.spec.shape) };
    });
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
  }

  clearGradients(): void {
    fill(this.gradients, 0);
  }

  [Symbol.dispose](): void {
    for (const t of [this.values, this.gradients, this.#copies]) if (t) this.device.free(t);
  }
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
