import type { AppliedCall, Device, Listener } from "../../runtime/device.ts";
import { tensorBytes } from "../../runtime/tensor.ts";

/**
 * Listens to a step of a mixture-of-experts model: how many different experts a layer's products read, and by how much the
 * weights of those differ from what the op table's costs assume, which know shapes and no choices. It hears the products,
 * not the routers, of which backends have several.
 */
export class ExpertReads {
  private readonly device: Device;
  private products = 0;
  private chosen = 0;
  private difference = 0;

  constructor(device: Device) {
    this.device = device;
  }

  readonly hear: Listener = (call) => {
    const w = call.inputs.find((t) => t?.packed && t.shape.length === 3);
    const ids = call.inputs.find((t) => t?.dtype === "i32");
    if (w && ids) this.heardProduct(call, w.shape[0]!, new Set(this.device.downloadI32(ids)).size);
  };

  /** Mean number of distinct experts per layer and step, whose layers have as many products each; undefined without any. */
  get distinct(): number | undefined {
    return this.products === 0 ? undefined : this.chosen / this.products;
  }

  /** Bytes read beyond the costs' assumption, over everything heard. */
  get bytesBeyondCost(): number {
    return this.difference;
  }

  /** Weights [E, N, K] and biases [E, N] are read for the distinct experts alone. */
  private heardProduct({ inputs, outputs }: AppliedCall, experts: number, distinct: number): void {
    this.products += 1;
    this.chosen += distinct;
    const assumed = Math.min(1, outputs[0]!.shape[0]! / experts);
    for (const t of inputs) {
      if (t?.kind !== "weight" || t.shape[0] !== experts) continue;
      this.difference += tensorBytes(t) * (distinct / experts - assumed);
    }
  }
}
