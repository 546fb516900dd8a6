import type { AppliedCall, Device, Listener } from "../../runtime/device.ts";
import { tensorBytes } from "../../runtime/tensor.ts";

/**
 * Listens to a step of a mixture-of-experts model: how many different experts its routers chose, and by how much the
 * weights of those differ from what the op table's costs assume, which know shapes and no choices.
 */
export class ExpertReads {
  private readonly device: Device;
  private routers = 0;
  private chosen = 0;
  private lastDistinct = 0;
  private difference = 0;

  constructor(device: Device) {
    this.device = device;
  }

  readonly hear: Listener = (call) => {
    if (call.op.name === "router" || call.op.name === "add_norm_router") this.heardRouter(call);
    else if (call.inputs.some((t) => t?.packed && t.shape.length === 3)) this.heardExperts(call);
  };

  /** Mean number of distinct experts per layer and step; undefined without routers. */
  get distinct(): number | undefined {
    return this.routers === 0 ? undefined : this.chosen / this.routers;
  }

  /** Bytes read beyond the costs' assumption, over everything heard. */
  get bytesBeyondCost(): number {
    return this.difference;
  }

  private heardRouter({ outputs }: AppliedCall): void {
    const ids = outputs.find(({ dtype }) => dtype === "i32")!;
    this.lastDistinct = new Set(this.device.downloadI32(ids)).size;
    this.routers += 1;
    this.chosen += this.lastDistinct;
  }

  /** Weights [E, N, K] and biases [E, N] are read for the distinct experts alone. */
  private heardExperts({ inputs, outputs }: AppliedCall): void {
    const experts = inputs.find((t) => t?.packed && t.shape.length === 3)!.shape[0]!;
    const assumed = Math.min(1, outputs[0]!.shape[0]! / experts);
    for (const t of inputs) {
      if (t?.kind !== "weight" || t.shape[0] !== experts) continue;
      this.difference += tensorBytes(t) * (this.lastDistinct / experts - assumed);
    }
  }
}
