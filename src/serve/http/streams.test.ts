/** A share of the soak's thousand streams: many at once over HTTP, none lost, none mixed up. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { openServedModel } from "../served_model.ts";
import { testServer } from "./testing/client.ts";
import { percentile, streamAll } from "./testing/streams.ts";

const modelPath = join(import.meta.dir, "../../../fixtures/docs-oss-13m-mxfp4.gguf");

test("100 streams at once end whole and with the answers of requests alone", async () => {
  const model = await openServedModel({
    modelPath,
    backend: "cpu",
    slots: 16,
    contextLength: 256,
    threads: 1,
  });
  const server = await testServer(model);
  const bodies = Array.from({ length: 100 }, (_, i) => ({
    ...{
      prompt: `Topic ${i % 20}: the history of the number ${(i % 20) * 37}`,
      max_tokens: 12,
      temperature: 0,
    },
  }));
  const results = await streamAll(server.url, bodies);
  expect(results.map(({ status, done }) => [status, done])).toEqual(bodies.map(() => [200, true]));
  for (let i = 0; i < 20; i += 5) {
    const [alone] = await streamAll(server.url, [bodies[i]!]);
    for (let j = i; j < 100; j += 20) expect([j, results[j]!.text]).toEqual([j, alone!.text]);
  }
  expect(new Set(results.map(({ text }) => text)).size).toBeGreaterThan(10);
  const gaps = results.flatMap(({ gapsMs }) => gapsMs);
  expect(gaps.length).toBeGreaterThan(500);
  expect(percentile(gaps, 0.99)).toBeGreaterThan(0);
  expect(model.engine.stats()).toMatchObject({ active: 0, queued: 0, pagesUsed: 0, cancelled: 0 });
  expect(server.errors).toEqual([]);
  await server.stop({ force: true });
  await model.engine.close(true);
}, 60_000);
