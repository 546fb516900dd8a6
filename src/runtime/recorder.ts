import type { Program, ProgramCall, ProgramValue } from "../ir/program.ts";
import type { AppliedCall, Device } from "./device.ts";
import { type Tensor, tensorBytes } from "./tensor.ts";

/** Runs `step` and returns what was called, in order, with values numbered by first appearance. */
export function record(device: Device, step: () => void): Program {
  const ids = new Map<Tensor, number>();
  const values: ProgramValue[] = [];
  const calls: ProgramCall[] = [];
  const idOf = (t: Tensor | undefined): number => {
    if (!t) return -1;
    let id = ids.get(t);
    if (id === undefined) {
      id = values.length;
      ids.set(t, id);
      values.push({ dtype: t.dtype, shape: t.shape, packed: t.packed, kind: t.kind, bytes: tensorBytes(t) });
    }
    return id;
  };
  const hear = (call: AppliedCall): void => {
    calls.push({
      op: call.op.name,
      inputs: call.inputs.map(idOf),
      outputs: call.outputs.map(idOf),
      params: call.params,
      scratchBytes: call.scratchBytes,
      cost: call.op.cost(call.inputs, call.params as never, call.outputs),
    });
  };
  device.listeners.add(hear);
  try {
    step();
  } finally {
    device.listeners.delete(hear);
  }
  return { values, calls };
}
