import { expect, test } from "bun:test";
import { ModelSet } from "../models/set.ts";
import { Rehearsal } from "./rehearsal.ts";
import { testServer, until } from "./testing/client.ts";
import { scriptedModel } from "./testing/scripted.ts";

/** A model that is computed on a device of its own. */
function onDevice() {
  const model = scriptedModel({ answers: ["one"], contextLength: 4096 });
  Object.assign(model.engine.info, { device: { device: "some" } });
  let reads = 0;
  const { tokenizer, chat } = model;
  const counted = <A extends unknown[], R>(make: (...args: A) => R) => {
    return (...args: A) => {
      reads += 1;
      return make(...args);
    };
  };
  const [streamDecoder, parser] = [tokenizer.streamDecoder.bind(tokenizer), chat.parser.bind(chat)];
  return {
    model: {
      ...model,
      tokenizer: { ...tokenizer, streamDecoder: counted(streamDecoder) },
      chat: { ...chat, parser: counted(parser) },
    },
    engine: model.engine,
    answers: () => reads,
  };
}

for (const [path, body] of [
  ["/v1/completions", { prompt: "hi" }],
  ["/v1/chat/completions", { messages: [{ role: "user", content: "hi" }] }],
] as const)
  test(`behind ${path} requests are rehearsed, of which nobody learns`, async () => {
    const { model, engine, answers } = onDevice();
    await using server = await testServer(model, { rehearsalMs: 2 });
    await Bun.sleep(20);
    expect(answers()).toBe(0);
    expect((await server.post(path, body)).status).toBe(200);
    const real = answers();
    await until(() => answers() > real + 5);
    const asked = engine.requests.filter(({ rehearsal }) => !rehearsal);
    expect([asked.length, server.lines.length, server.errors.length]).toEqual([1, 1, 0]);
    const text = await (await server.get("/metrics")).text();
    expect(text).toMatch(new RegExp(`^psionic_http_requests_total\\{route="${path}".* 1$`, "m"));
    const { requests } = await (await server.get("/psionic/management/activity")).json();
    expect(requests).toHaveLength(1);
  });

test("a server whose processor computes, or that was not asked to, does without", async () => {
  const { model, answers } = onDevice();
  const { device: _, ...info } = model.engine.info;
  Object.assign(model.engine, { info });
  await using server = await testServer(model, { rehearsalMs: 1 });
  await using other = await testServer(onDevice().model);
  for (const one of [server, other]) await (await one.post("/v1/completions", { prompt: "hi" })).text();
  const real = answers();
  await Bun.sleep(30);
  expect(answers()).toBe(real);
});

test("one that fails ends them until the next request", async () => {
  const models = ModelSet.of(onDevice().model);
  await models.ready;
  let tries = 0;
  const failing = () => {
    tries += 1;
    return Promise.reject(new Error("no engine"));
  };
  const rehearsal = new Rehearsal(
    models,
    1,
    () => false,
    () => failing,
  );
  rehearsal.heard("/v1/completions");
  await Bun.sleep(30);
  expect(tries).toBe(1);
  rehearsal.heard("/v1/completions");
  await until(() => tries === 2);
  rehearsal.close();
});
