import { expect, test } from "bun:test";
import type { EngineInfo, GenerateEvent } from "../protocol.ts";
import { allocateLink, LinkEnd } from "./link.ts";
import { runEngine } from "./loop.ts";
import { type Command, type Report, statFields } from "./messages.ts";
import { PagedDouble } from "./testing/paged_double.ts";

const groups = [{ window: 0, pages: 64 }];

/** Lists of events as the loop reports them for a request of so many tokens. */
async function reported(maxTokens: number): Promise<(readonly GenerateEvent[])[]> {
  const link = allocateLink();
  const main = new LinkEnd(link, "main");
  const request = { sampling: {}, stopTokens: [], choices: 1, maxTokens };
  main.announce();
  main.send({ type: "submit", id: 1, request } satisfies Command, Int32Array.of(1, 2, 3));
  main.send({ type: "close" } satisfies Command);
  const stats = new SharedArrayBuffer(8 * statFields.length);
  await runEngine({ options: { modelPath: "double", backend: "cpu" }, link, stats }, async () => ({
    executor: new PagedDouble(97, groups),
    groups,
    info: {
      ...{ slots: 2, maxQueue: 8, contextLength: 512 },
      model: { vocabularySize: 97, digest: "sha256:known" },
    } as EngineInfo,
    arenaPeakBytes: () => 0,
    close: () => {},
  }));
  const reports = main.receive().map(({ body }) => body as Report);
  return reports.flatMap((report) =>
    report.type === "events" ? [report.events.map(([, event]) => event)] : [],
  );
}

test("the first token goes out before its step's other results are entered, later ones with theirs", async () => {
  const one = await reported(1);
  expect(one.map((events) => events.map(({ type }) => type))).toEqual([
    ["prefill"],
    ["prefill", "token"],
    ["done", "end"],
  ]);
  const three = (await reported(3)).map((events) => events.map(({ type }) => type));
  expect(three.slice(0, 2)).toEqual([["prefill"], ["prefill", "token"]]);
  expect(three.slice(2).flat()).toEqual(["token", "token", "done", "end"]);
});
