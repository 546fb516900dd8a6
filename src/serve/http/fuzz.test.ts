import { expect, test } from "bun:test";
import { fuzzBodies } from "./fuzz.ts";
import { startServer } from "./server.ts";
import { scriptedModel } from "./testing/scripted.ts";

test("mutated bodies end in answers or errors of the right shape", async () => {
  const model = scriptedModel("<|think|>r<|answer|>hello");
  const server = await startServer(model, { port: 0 });
  const { requests, statuses } = await fuzzBodies(1, { count: 3000 }, server.handle);
  await server.stop({ force: true });
  expect(requests).toBe(3000);
  // Both outcomes must be common, else the mutants test nothing.
  expect(statuses[200]).toBeGreaterThan(300);
  expect(statuses[400]).toBeGreaterThan(300);
  expect(model.engine.running).toBe(0);
}, 120_000);

test("a wrong answer is found and can be reproduced", async () => {
  const broken = async () => new Response("oops", { status: 500 });
  await expect(fuzzBodies(1, { count: 5 }, broken)).rejects.toThrow("status 500");
});
