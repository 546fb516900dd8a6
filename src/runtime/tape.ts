import { unexpected } from "../core/error.ts";
import { sameShape } from "../core/shape.ts";
import type { Op } from "../ir/op.ts";
import { fill } from "../ir/ops/cast.ts";
import { mix } from "../ir/ops/mix.ts";
import { describe } from "../ir/spec.ts";
import { apply } from "./apply.ts";
import type { AppliedCall, Device } from "./device.ts";
import { reshape, type Tensor, tensorBytes } from "./tensor.ts";

/** A parameter and the tensor that its gradients are added to. */
export type Trained = { readonly value: Tensor; readonly gradient: Tensor };

type Step =
  | { readonly call: AppliedCall }
  | { readonly block: Block; readonly inputs: readonly Tensor[]; readonly y: Tensor };

/** A part of a model that may be run again: what it uses and gradients flow to, it is given. */
export type Block = (...inputs: Tensor[]) => Tensor;

const isFloat = (t: Tensor): boolean => t.dtype === "f32" || t.dtype === "f64" || t.dtype === "bf16";

/**
 * Records the calls that parameters flow into, and walks them backwards. Tensors are known by their address, which is why
 * scopes keep what they made while a tape is on and why nothing on it may work in place. Order is that of the calls, so
 * the same calls add the same gradients in the same order. Parameters accumulate; everything else is assigned.
 */
export class Tape implements Disposable {
  readonly #device: Device;
  readonly #trained: readonly Trained[];
  readonly #steps: Step[] = [];
  /** Bytes at each address that a gradient may flow through. */
  readonly #flows = new Map<number, number>();
  readonly #parameters = new Map<number, Tensor>();
  readonly #gradients = new Map<number, Tensor>();
  /** Gradients that the caller of `backward` keeps: nothing is added to them. */
  readonly #fixed = new Set<number>();
  /** Of the tape around a block that is run again: what the block was not given, but uses, must not lie here. */
  readonly #outside: ReadonlyMap<number, number> | undefined;
  readonly #added: ((address: number) => void) | undefined;
  readonly #hear = (call: AppliedCall): void => this.#record(call);
  #heldBefore: boolean | undefined;

  /** `added` is told of a parameter, by its address, whenever a call has added to its gradient. */
  constructor(
    device: Device,
    trained: readonly Trained[],
    added?: (address: number) => void,
    outside?: ReadonlyMap<number, number>,
  ) {
    this.#device = device;
    this.#added = added;
    this.#outside = outside;
    this.#trained = trained;
    for (const { value, gradient } of trained) {
      const dtype = value.dtype === "f64" ? "f64" : "f32";
      if (gradient.dtype !== dtype || !sameShape(gradient.shape, value.shape)) {
        throw unexpected(
          "invalid_argument",
          "tape",
          `a gradient like ${describe(value)}`,
          describe(gradient),
        );
      }
      this.#parameters.set(value.address, gradient);
      this.#flows.set(value.address, tensorBytes(value));
    }
    this.#resume();
  }

  #resume(): void {
    this.#device.listeners.add(this.#hear);
    this.#heldBefore = this.#device.hold(true);
  }

  #pause(): void {
    if (this.#heldBefore === undefined) return;
    this.#device.listeners.delete(this.#hear);
    this.#device.hold(this.#heldBefore);
    this.#heldBefore = undefined;
  }

  /** Makes gradients flow to `x`, which no parameter reaches; `gradientOf` has it after the walk. */
  watch(x: Tensor): void {
    this.#flows.set(x.address, tensorBytes(x));
  }

  gradientOf(x: Tensor): Tensor | undefined {
    const found = this.#parameters.get(x.address) ?? this.#gradients.get(x.address);
    return found && reshape(found, x.shape);
  }

  #record(call: AppliedCall): void {
    const flowing = call.inputs.filter((t) => t && isFloat(t) && this.#isOn(t, call.op));
    if (flowing.length === 0) return;
    if (call.op.inPlace !== undefined) {
      throw unexpected("unsupported", call.op.name, "an op that is not in place on a tape", "one that is");
    }
    this.#steps.push({ call });
    for (const t of call.outputs) if (isFloat(t)) this.#flows.set(t.address, tensorBytes(t));
  }

  /** Whether a gradient may flow through `t`; a part of such a tensor is refused, for its share would be lost. */
  #isOn(t: Tensor, op: Op<never>): boolean {
    const whole = this.#flows.get(t.address);
    if (whole === tensorBytes(t)) return true;
    for (const [address, bytes] of this.#flows) {
      if (t.address < address + bytes && address < t.address + tensorBytes(t)) {
        throw unexpected("unsupported", op.name, "whole tensors on a tape", `a part of one: ${describe(t)}`);
      }
    }
    if (this.#outside?.has(t.address)) {
      const fix = "Hand it to the block";
      throw unexpected("unsupported", op.name, "what a checkpointed block was given", describe(t), { fix });
    }
    return false;
  }

  /**
   * y = block(x, ...more), of x's shape, without keeping what the block makes: the walk runs the block again. Memory for
   * time.
   */
  checkpoint(block: Block, ...inputs: readonly [Tensor, ...Tensor[]]): Tensor {
    const y = this.#device.temporary(inputs[0]);
    this.#pause();
    const before = this.#device.hold(false);
    {
      using _scope = this.#device.scope();
      copyInto(y, block(...inputs));
    }
    this.#device.hold(before);
    this.#resume();
    this.#steps.push({ block, inputs, y });
    this.#flows.set(y.address, tensorBytes(y));
    return y;
  }

  /**
   * Adds d(sum of y)/dp to the gradient of every parameter p that reached `y`; with `dy`, the gradient that comes back from
   * whoever went on from `y`, what that makes of it. Ends the recording.
   */
  backward(y: Tensor, dy?: Tensor): void {
    this.#pause();
    if (dy) this.#fixed.add(dy.address);
    this.#walk(y, dy ?? this.#ones(y));
  }

  #ones(like: Tensor): Tensor {
    const ones = this.#device.temporary({ dtype: like.dtype, shape: like.shape });
    apply(fill, [ones], { value: 1 });
    return ones;
  }

  #walk(y: Tensor, dy: Tensor): void {
    this.#pause();
    this.#gradients.set(y.address, dy);
    for (const step of this.#steps.reverse()) {
      if ("call" in step) this.#walkCall(step.call);
      else this.#walkBlock(step.block, step.inputs, step.y);
    }
    this.#steps.length = 0;
  }

  #walkCall({ op, inputs, outputs, params }: AppliedCall): void {
    const dy = outputs.map((t) => this.gradientOf(t));
    if (dy.every((t) => t === undefined)) return;
    if (!op.grad) {
      throw unexpected("unsupported", op.name, "an op with a gradient on the way to a loss", "one without");
    }
    const saved: Record<string, Tensor | undefined> = {};
    for (const name of op.saves ?? []) {
      const out = /^out(\d)$/.exec(name);
      saved[name] = out ? outputs[Number(out[1])] : inputs[op.inputs.findIndex((i) => i.name === name)];
    }
    const wanted = (i: number): boolean => {
      const t = inputs[i];
      return t !== undefined && isFloat(t) && this.#flows.has(t.address);
    };
    const sum = (i: number): Tensor => this.#sum(inputs[i]!);
    const place = (i: number) => this.#place(inputs[i]!);
    const found = op.grad(apply, dy, saved, params as never, { wanted, sum, place });
    // a rule may pass on what it was given: to one input, since nothing else needs it any more, to others copies
    const passed = new Set(dy.flatMap((d) => (d && !this.#fixed.has(d.address) ? [d.address] : [])));
    for (const [i, gradient] of found.entries()) {
      if (!gradient || !wanted(i)) continue;
      const given = dy.some((d) => d?.address === gradient.address);
      if (this.#add(inputs[i]!, gradient, given && !passed.has(gradient.address))) {
        passed.delete(gradient.address);
      }
    }
    for (const t of outputs) this.#gradients.delete(t.address);
    if (!this.#added) return;
    for (const [i, t] of inputs.entries())
      if (t && wanted(i) && this.#parameters.has(t.address)) this.#added(t.address);
  }

  /** The block again, on a tape of its own, whose memory ends with it. */
  #walkBlock(block: Block, inputs: readonly Tensor[], y: Tensor): void {
    const dy = this.gradientOf(y);
    if (!dy) return;
    // an input may be given twice; what is summed already goes on in its place, in the order of a walk without blocks
    const flowing = new Map(inputs.filter((x) => this.#flows.has(x.address)).map((x) => [x.address, x]));
    const fresh = [...flowing.values()]
      .filter((x) => !this.gradientOf(x))
      .map((x) => [x, this.#device.temporary({ dtype: gradientType(x), shape: x.shape })] as const);
    {
      using _scope = this.#device.scope();
      using inner = new Tape(this.#device, this.#trained, this.#added, this.#flows);
      for (const [address, x] of flowing) {
        inner.watch(x);
        const present = this.#gradients.get(address);
        if (present) inner.#gradients.set(address, present);
      }
      inner.#walk(block(...inputs), dy);
      for (const [x, gradient] of fresh) {
        const found = inner.gradientOf(x);
        if (!found) continue;
        copyInto(gradient, found);
        this.#gradients.set(x.address, gradient);
      }
    }
    this.#gradients.delete(y.address);
  }

  /** Where the gradient of `t` is added up. */
  #sum(t: Tensor): Tensor {
    const present = this.gradientOf(t);
    if (present) return present;
    const zeros = this.#device.temporary({ dtype: gradientType(t), shape: t.shape });
    apply(fill, [zeros], { value: 0 });
    this.#gradients.set(t.address, zeros);
    return zeros;
  }

  /** Where the gradient of `t` goes, and whether something is there. */
  #place(t: Tensor): { readonly into: Tensor; readonly add: boolean } {
    const present = this.gradientOf(t);
    if (present) return { into: present, add: true };
    const into = this.#device.temporary({ dtype: gradientType(t), shape: t.shape });
    this.#gradients.set(t.address, into);
    return { into, add: false };
  }

  /** Whether `gradient` itself became the gradient of `t`; with `copied` never. */
  #add(t: Tensor, gradient: Tensor, copied: boolean): boolean {
    const present = this.gradientOf(t);
    if (present?.address === gradient.address) return false;
    if (present) {
      const dtype = present.dtype === "f64" ? undefined : (present.dtype as "f32" | "bf16");
      apply(mix, [present, reshape(gradient, present.shape)], { alpha: 1, beta: 1, dtype }, [present]);
      return false;
    }
    this.#gradients.set(t.address, copied ? apply(mix, [gradient], { alpha: 1, beta: 0 })[0]! : gradient);
    return !copied;
  }

  /** Ends the recording; gradients of parameters stay. */
  [Symbol.dispose](): void {
    this.#pause();
  }
}

/** Gradients of bf16 tensors are in f32, where nothing computes with less. */
function gradientType(t: Tensor): "f32" | "f64" | "bf16" {
  if (t.dtype === "bf16") return t.device.backend.halfTensors ? "bf16" : "f32";
  return t.dtype === "f64" ? "f64" : "f32";
}

function copyInto(to: Tensor, from: Tensor): void {
  const dtype = to.dtype === "f64" ? undefined : (to.dtype as "f32" | "bf16");
  apply(mix, [reshape(from, to.shape)], { alpha: 1, beta: 0, dtype }, [to]);
}
