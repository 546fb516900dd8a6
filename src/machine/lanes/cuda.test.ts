/** The actual lane on its own backend, whose kernels run on fibers where there is no device. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { cudaLibrary } from "../../backends/testing/cuda_library.ts";
import { actualLane } from "../contract.ts";
import { LaneScene } from "../testing/lane_scene.ts";
import { bound } from "../testing/scene.ts";

setDefaultTimeout(60_000);

const few = { sequences: "1", length: "8", stride: "8", retain_every: "1" };
const next = { ...bound, window_id: "window-0002", assignment_id: "assignment-0002" };

describe.skipIf(!cudaLibrary)("the actual lane on CUDA", () => {
  test("trains, goes on bit for bit, and is done again there and on the CPU", () => {
    using parts = new LaneScene(actualLane);
    parts.backend = "cuda";
    parts.profile({ steps: 2, optimizer_settings: few });
    expect(parts.do("start")).toMatchObject({
      outcome: "succeeded",
      capability_projection: { backend_family: "cuda" },
    });
    const first = parts.evidence();
    expect(first.backend).toBe("cuda");
    expect(parts.do("record_checkpoint", { optimizer_step: 2 }).outcome).toBe("succeeded");
    expect(parts.validate().detail).toContain("accepted with 10000");
    parts.backend = "cpu";
    const elsewhere = parts.validate();
    expect(elsewhere.detail).toContain("accepted with 10000");
    parts.backend = "cuda";
    expect(parts.do("resume", { coordination: next }).outcome).toBe("succeeded");
    using whole = new LaneScene(actualLane);
    whole.backend = "cuda";
    whole.profile({ steps: 4, optimizer_settings: few });
    expect(whole.do("start").outcome).toBe("succeeded");
    expect(whole.evidence().steps).toEqual([...first.steps, ...parts.evidence().steps]);
    expect(whole.evidence().end_state_digest).toBe(parts.evidence().end_state_digest);
  });
});
