import { unexpected } from "../../core/error.ts";

/** All layers run on one device: a number below the layer count is refused, one from there on or -1 means all. */
export function refusePartialOffload(layers: number, asked: number | undefined): void {
  if (asked === undefined || asked < 0 || asked >= layers) return;
  const fix = "A model runs on one device as a whole; leave -ngl out, or take --backend cpu";
  const details = { layers, asked };
  throw unexpected("unsupported", "-ngl", `all ${layers} layers of the model on the GPU`, asked, {
    fix,
    details,
  });
}
