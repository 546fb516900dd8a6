import { unexpected } from "../core/error.ts";
import { sameShape } from "../core/shape.ts";
import type { Op, PlacedSpec, TensorSpec } from "../ir/op.ts";
import { describe } from "../ir/spec.ts";
import type { Device } from "./device.ts";
import type { Tensor } from "./tensor.ts";

const absent: PlacedSpec = { address: 0, dtype: "f32", shape: [0], packed: false };
const noScratch = { address: 0, bytes: 0 };

/**
 * The only caller of native ops: checks shapes, finds a place for the outputs (the innermost scope, or `into`), calls,
 * tells the listeners.
 */
export function apply<P extends object>(
  op: Op<P>,
  inputs: readonly (Tensor | undefined)[],
  params: P,
  into: readonly Tensor[] = [],
): readonly Tensor[] {
  const device = deviceOf(op, inputs);
  const specs = op.outputs(inputs, params);
  const outputs = specs.map((spec, i) => place(op, device, spec, i, inputs, into));
  const mark = device.arena.mark();
  const bytes = op.scratchBytes?.(inputs, params) ?? 0;
  const scratch = bytes > 0 ? { address: device.arena.take(bytes), bytes } : noScratch;
  const args = op.arguments(
    outputs,
    inputs.length === op.inputs.length
      ? inputs.map((t) => t ?? absent)
      : op.inputs.map((_, i) => inputs[i] ?? absent),
    params,
    scratch,
  );
  device.backend.call(op.name, args);
  if (bytes > 0) device.arena.reset(mark);
  for (const hear of device.listeners) {
    hear({
      op: op as unknown as Op<never>,
      inputs,
      outputs,
      params: { ...params } as Record<string, unknown>,
      scratchBytes: bytes,
    });
  }
  return outputs;
}

function deviceOf<P>(op: Op<P>, inputs: readonly (Tensor | undefined)[]): Device {
  let device: Device | undefined;
  for (const [i, t] of inputs.entries()) {
    if (!t) {
      if (!op.inputs[i]?.optional)
        throw unexpected("invalid_argument", op.name, `input ${op.inputs[i]?.name}`, "nothing");
    } else if (device && t.device !== device) {
      throw unexpected(
        "invalid_argument",
        op.name,
        `inputs on ${device.name}`,
        `${op.inputs[i]?.name} on ${t.device.name}`,
      );
    } else device = t.device;
  }
  if (!device) throw unexpected("invalid_argument", op.name, "at least one input", "none");
  if (!device.backend.supports(op.name)) {
    throw unexpected("unsupported", op.name, `an op of the ${device.name} backend`, "one it does not have");
  }
  return device;
}

function place<P>(
  op: Op<P>,
  device: Device,
  spec: TensorSpec,
  index: number,
  inputs: readonly (Tensor | undefined)[],
  into: readonly Tensor[],
): Tensor {
  if (index === 0 && op.inPlace !== undefined) return inputs[op.inPlace]!;
  const given = into[index];
  if (!given) return device.temporary(spec);
  if (given.dtype !== spec.dtype || !sameShape(given.shape, spec.shape) || given.packed !== spec.packed) {
    throw unexpected("invalid_argument", `${op.name} into`, describe(spec), describe(given));
  }
  return given;
}
