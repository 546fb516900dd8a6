/** The Apple lane on what stands in for its backend: the same kernels on this machine's processor. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { openDevice } from "../../backends/index.ts";
import { PsionicError } from "../../core/error.ts";
import { appleLane } from "../contract.ts";
import { LaneScene } from "../testing/lane_scene.ts";
import { builtInProfile } from "./profile.ts";
import { planWindow, stepShapes } from "./window_plan.ts";

setDefaultTimeout(60_000);

/** Ops of a step that the stand-in lacks; undefined where there is no stand-in to try. */
function lacks(): readonly string[] | undefined {
  const needed = stepShapes(planWindow(builtInProfile(appleLane)!, () => new Uint8Array())).program.calls;
  try {
    const device = openDevice("metal-standin");
    const missing = needed.map(({ op }) => op).filter((op) => !device.backend.supports(op));
    device.close();
    return [...new Set(missing)];
  } catch (error) {
    if (error instanceof PsionicError) return undefined;
    throw error;
  }
}

const missing = lacks();

test.skipIf(missing === undefined)(
  "refused by the op that is lacking, or done again there and on the CPU",
  () => {
    using scene = new LaneScene(appleLane);
    scene.backend = "metal-standin";
    scene.profile({
      steps: 2,
      optimizer_settings: { sequences: "1", length: "8", stride: "8", retain_every: "1" },
    });
    const packet = scene.do("start");
    expect(packet.capability_projection?.backend_family).toBe("metal-standin");
    if (missing!.length > 0) {
      expect(packet.refusal_class).toBe("unsupported_topology");
      expect(packet.detail).toMatch(new RegExp(`cannot do this lane's work: \\[(${missing!.join("|")})\\]`));
      return;
    }
    expect(packet.outcome).toBe("succeeded");
    expect(scene.evidence().backend).toBe("metal-standin");
    scene.do("record_checkpoint", { optimizer_step: 2 });
    expect(scene.validate().detail).toContain("accepted with 10000");
    scene.backend = "cpu";
    expect(scene.validate().detail).toContain("accepted with 10000");
  },
);
