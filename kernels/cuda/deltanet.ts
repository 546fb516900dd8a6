/** Runs the ops of DeltaNet layers batch by batch on the device. */
import { chunkStateRows } from "../../src/ir/ops/gated_delta_chunks.ts";
import { type DeltaShape, type Part, places, putRows, rowsOf } from "../cpu/deltanet.ts";
import { floats, randomFloats } from "../cpu/library.ts";
import { check, cuda, deviceBytes, floatsFromDevice, onDevice } from "./library.ts";

/** Slots of the states. */
export const slots = 5;

export type Batches = readonly (readonly Part[])[];

/** One call of the op for each batch; what it says is copied from and to where it runs. */
export type Step = (
  y: Float32Array,
  state: Float32Array,
  rows: readonly Float32Array[],
  at: ReturnType<typeof places>,
) => void;

/** Runs `psi_<name>` on the device: arrays go there, y and the state come back. */
export function onDeviceOnly(name: string, args: (at: never) => readonly (number | ArrayBufferView)[]): Step {
  return (y, state, rows, at) => {
    const [yAt, stateAt] = [deviceBytes(y.byteLength), onDevice(state)];
    const rest = [...rows, ...args(at as never)].map((v) => (typeof v === "number" ? v : onDevice(v)));
    check(cuda[`psi_${name}`]!(yAt, stateAt, ...rest));
    y.set(floatsFromDevice(yAt, y.length));
    state.set(floatsFromDevice(stateAt, state.length));
  };
}

export type Places = ReturnType<typeof places>;

/** All batches one after the other; the outputs by sequence, and the states. */
export function through(
  step: Step,
  batches: Batches,
  sizes: {
    readonly sequences: number;
    readonly length: number;
    readonly width: number;
    readonly state: number;
  },
  inputs: readonly { readonly data: Float32Array; readonly stride: number }[],
) {
  const state = randomFloats(slots * sizes.state, 9);
  const all = floats(sizes.sequences * sizes.length * sizes.width);
  for (const parts of batches) {
    const at = places(parts);
    const y = floats(at.tokens * sizes.width);
    const rows = inputs.map(({ data, stride }) => rowsOf(data, stride, sizes.length, parts));
    step(y, state, rows, at);
    putRows(all, y, sizes.width, sizes.length, parts);
  }
  return { all, state };
}

/** What counts of states by chunks after `tokens` tokens: zeros for tokens that their chunk does not have. */
export function liveState(state: Float32Array, { keyDim, valueDim }: DeltaShape, tokens: number) {
  const [chunk, have] = [16, tokens % 16];
  const head = chunkStateRows(keyDim, valueDim) * valueDim;
  const live = state.slice();
  for (let at = 0; at < live.length; at += head) {
    let part = at + keyDim * valueDim;
    for (const width of [valueDim, keyDim, 1]) {
      live.fill(0, part + have * width, part + chunk * width);
      part += chunk * width;
    }
    live.fill(0, part, at + head);
  }
  return live;
}
