import { expect, test } from "bun:test";
import { boundsOf } from "./replay_bounds.ts";

test("only work whose roundings stay small is judged on other kernels", () => {
  const [work, trained] = ["small_model_local_training", { name: "adam_w", precision: "f32" }] as const;
  expect(boundsOf(work, trained).update).toBeLessThan(0.01 / 5);
  for (const changed of [{ name: "muon" }, { precision: "bf16" }])
    expect(() => boundsOf(work, { ...trained, ...changed })).toThrow("other kernels than the worker's");
  expect(() => boundsOf("grouped_replica_stage_execution", trained)).toThrow("cannot be judged");
});
