/** The Apple lane on what stands in for its backend: the same kernels on this machine's processor. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { metalStandin } from "../../backends/testing/metal_library.ts";
import { appleLane } from "../contract.ts";
import { LaneScene } from "../testing/lane_scene.ts";

setDefaultTimeout(120_000);

test.skipIf(!metalStandin)(
  "a window is trained on Metal's kernels, and done again there and on the CPU",
  () => {
    using scene = new LaneScene(appleLane);
    scene.backend = "metal-standin";
    scene.profile({
      steps: 2,
      optimizer_settings: { sequences: "1", length: "8", stride: "8", retain_every: "1" },
    });
    const packet = scene.do("start");
    expect(packet.capability_projection?.backend_family).toBe("metal-standin");
    expect(packet.outcome).toBe("succeeded");
    expect(scene.evidence().backend).toBe("metal-standin");
    scene.do("record_checkpoint", { optimizer_step: 2 });
    expect(scene.validate().detail).toContain("accepted with 10000");
    scene.backend = "cpu";
    expect(scene.validate().detail).toContain("accepted with 10000");
  },
);
