import { unexpected } from "../../core/error.ts";
import { type EngineBackend, kernelsOf } from "../../ir/op.ts";

/**
 * All layers run on one device: a number below the layer count is refused, one from there on or -1 means all. Where there
 * is one memory, as on a Mac, nothing would be saved: 1 or more means all, which the note says that is returned.
 */
export function gpuLayersNote(
  layers: number,
  asked: number | undefined,
  backend: EngineBackend,
): string | undefined {
  if (kernelsOf(backend) === "metal" && asked !== undefined && asked >= 1 && asked < layers) {
    return `all ${layers} layers run on the GPU, which has the machine's own memory; -ngl asked for ${asked}`;
  }
  refusePartialOffload(layers, asked);
  return undefined;
}

function refusePartialOffload(layers: number, asked: number | undefined): void {
  if (asked === undefined || asked < 0 || asked >= layers) return;
  const fix = "A model runs on one device as a whole; leave -ngl out, or take --backend cpu";
  const details = { layers, asked };
  throw unexpected("unsupported", "-ngl", `all ${layers} layers of the model on the GPU`, asked, {
    fix,
    details,
  });
}
