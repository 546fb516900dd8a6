/** Several models in one process, over scripted engines: loading, unloading, memory, and what requests see of it. */
import { describe, expect, test } from "bun:test";
import { type PsionicError, unexpected } from "../../core/error.ts";
import { cardOf } from "../http/model_card.ts";
import type { ServedModel } from "../http/options.ts";
import { testServer, until } from "../http/testing/client.ts";
import { scriptedModel } from "../http/testing/scripted.ts";
import { ModelSet, type ModelSetEvent } from "./set.ts";
import type { LoadRoom, ModelSource } from "./source.ts";

const MiB = 2 ** 20;

type Double = ModelSource & {
  readonly rooms: LoadRoom[];
  /** Engines that are open now. */
  readonly live: () => number;
  readonly engines: ServedModel["engine"][];
};

type DoubleOptions = {
  readonly sizeBytes?: number;
  readonly answer?: string;
  readonly tokenMs?: number;
  /** Loading takes until this resolves. */
  readonly gate?: () => Promise<void>;
  readonly fail?: () => unknown;
};

/** A model of a size that plans as the engine does: refused with the numbers when it does not fit. */
function double(name: string, options: DoubleOptions = {}): Double {
  const rooms: LoadRoom[] = [];
  const engines: ServedModel["engine"][] = [];
  let live = 0;
  const size = options.sizeBytes ?? 100 * MiB;
  const open = async (room: LoadRoom): Promise<ServedModel> => {
    rooms.push(room);
    await options.gate?.();
    const failure = options.fail?.();
    if (failure) throw failure;
    if (size > room.memoryBytes) {
      const sizes = { weightBytes: size, neededBytes: size, leastBytes: size };
      const details = { ...sizes, availableBytes: room.memoryBytes };
      throw unexpected("admission_refused", "memory plan", `${size} bytes`, room.memoryBytes, { details });
    }
    const model = scriptedModel({ answers: [options.answer ?? name], tokenMs: options.tokenMs ?? 0 });
    const { engine } = model;
    const info = engine.info;
    Object.defineProperty(engine, "info", {
      value: {
        ...info,
        model: { ...info.model, path: `/models/${name}`, name: "" },
        memory: { ...info.memory, totalBytes: size },
      },
    });
    live += 1;
    engine.close = async () => {
      await until(() => engine.running === 0);
      live -= 1;
    };
    engines.push(engine);
    return model;
  };
  return { name, aliases: [], open, rooms, engines, live: () => live };
}

const chat = (model: string | undefined, more: object = {}) => ({
  ...(model === undefined ? {} : { model }),
  messages: [{ role: "user", content: "hi" }],
  ...more,
});

async function failure(promise: Promise<unknown>): Promise<PsionicError> {
  return promise.then(
    () => Promise.reject(new Error("expected a failure")),
    (error: unknown) => error as PsionicError,
  );
}

describe("loading", () => {
  test("one load for all who wait, and the model stays for the next", async () => {
    const gate = Promise.withResolvers<void>();
    const a = double("a.gguf", { gate: () => gate.promise });
    const set = new ModelSet([a], { memoryBytes: 1000 * MiB });
    const waiting = Promise.all(Array.from({ length: 20 }, () => set.take("a")));
    await Bun.sleep(1);
    expect(set.rows[0]).toMatchObject({ state: "loading", requests: 20 });
    gate.resolve();
    const taken = await waiting;
    expect(a.rooms).toHaveLength(1);
    for (const one of taken) one?.release();
    expect(set.rows[0]).toMatchObject({ state: "loaded", requests: 0, loads: 1 });
    const again = await set.take(undefined);
    expect(again?.name).toBe("a.gguf");
    expect(a.rooms).toHaveLength(1);
    again?.release();
    again?.release();
    expect(set.rows[0]?.requests).toBe(0);
    await set.close();
    expect(a.live()).toBe(0);
  });

  test("a failed load is told to each who waited, and tried again for the next", async () => {
    let broken = true;
    const a = double("a.gguf", {
      fail: () => (broken ? unexpected("file_malformed", "a.gguf", "a model", "noise") : undefined),
    });
    const set = new ModelSet([a], { memoryBytes: 1000 * MiB });
    const errors = await Promise.all([failure(set.take("a")), failure(set.take("a"))]);
    expect(errors.map(({ code }) => code)).toEqual(["file_malformed", "file_malformed"]);
    expect(a.rooms).toHaveLength(1);
    expect(set.rows[0]).toMatchObject({ state: "failed", requests: 0, error: "file_malformed" });
    broken = false;
    (await set.take("a"))?.release();
    expect(set.rows[0]).toMatchObject({ state: "loaded" });
    expect(set.rows[0]?.error).toBeUndefined();
  });

  test("whoever waits may leave; the load goes on for the others", async () => {
    const gate = Promise.withResolvers<void>();
    const a = double("a.gguf", { gate: () => gate.promise });
    const set = new ModelSet([a], { memoryBytes: 1000 * MiB });
    const leaving = new AbortController();
    const left = failure(set.take("a", leaving.signal));
    const stays = set.take("a");
    leaving.abort();
    expect((await left).code).toBe("cancelled");
    expect(set.rows[0]?.requests).toBe(1);
    gate.resolve();
    expect((await stays)?.served.engine).toBe(a.engines[0]!);
  });

  test("an engine that has failed is replaced for the next request", async () => {
    const a = double("a.gguf");
    const set = new ModelSet([a, double("b.gguf")], { memoryBytes: 1000 * MiB });
    (await set.take("a"))?.release();
    Object.assign(a.engines[0]!, { failure: new Error("the device is lost") });
    const taken = await set.take("a");
    expect(taken?.served.engine).toBe(a.engines[1]!);
    expect(a.live()).toBe(1);
  });
});

describe("memory", () => {
  test("unused models make room, the longest unused first; what is held stays", async () => {
    const [a, b, c] = [double("a.gguf"), double("b.gguf"), double("c.gguf", { sizeBytes: 150 * MiB })];
    const set = new ModelSet([a, b, c], { memoryBytes: 260 * MiB });
    const events: ModelSetEvent[] = [];
    set.listen((event) => events.push(event));
    (await set.take("b"))?.release();
    (await set.take("a"))?.release();
    expect([a.live(), b.live()]).toEqual([1, 1]);
    const taken = await set.take("c");
    expect([a.live(), b.live(), c.live()]).toEqual([1, 0, 1]);
    expect(c.rooms).toEqual([
      { memoryBytes: 60 * MiB, shared: true, whole: true },
      { memoryBytes: 160 * MiB, shared: true, whole: true },
    ]);
    const told = events.filter(({ type }) => type !== "loading");
    expect(told.map(({ type, name }) => `${type} ${name}`)).toEqual([
      ...["loaded b.gguf", "loaded a.gguf", "unloaded b.gguf", "loaded c.gguf"],
    ]);
    taken?.release();
  });

  test("where everything else is in use the model is refused with the numbers", async () => {
    const [a, b] = [double("a.gguf"), double("b.gguf")];
    const set = new ModelSet([a, b], { memoryBytes: 150 * MiB });
    const held = await set.take("a");
    const refused = await failure(set.take("b"));
    expect(refused.code).toBe("admission_refused");
    expect(refused.message).toContain("a.gguf with 100 MiB, held by a request");
    expect(refused.details).toEqual({
      ...{ weightBytes: 100 * MiB, neededBytes: 100 * MiB, leastBytes: 100 * MiB },
      availableBytes: 50 * MiB,
      loaded: [{ model: "a.gguf", bytes: 100 * MiB, requests: 1 }],
    });
    expect(a.live()).toBe(1);
    held?.release();
    expect((await set.take("b"))?.name).toBe("b");
    expect([a.live(), b.live()]).toEqual([0, 1]);
  });

  test("nothing is unloaded for a model that does not fit even alone", async () => {
    const [a, b, big] = [double("a.gguf"), double("b.gguf"), double("big.gguf", { sizeBytes: 301 * MiB })];
    const set = new ModelSet([a, b, big], { memoryBytes: 300 * MiB });
    (await set.take("a"))?.release();
    const held = await set.take("b");
    const refused = await failure(set.take("big"));
    expect(refused.code).toBe("admission_refused");
    expect(refused.message).toContain("with every other model unloaded there are 300 MiB");
    expect(refused.details).toMatchObject({ mostBytes: 300 * MiB });
    // no other request's end would help: clients are told not to ask again
    expect(refused.details.loaded).toBeUndefined();
    expect([a.live(), b.live(), big.rooms.length]).toEqual([1, 1, 1]);
    held?.release();
  });

  test("nothing is unloaded where what is in use leaves too little anyhow", async () => {
    const [a, b, c] = [double("a.gguf"), double("b.gguf"), double("c.gguf", { sizeBytes: 250 * MiB })];
    const set = new ModelSet([a, b, c], { memoryBytes: 300 * MiB });
    (await set.take("a"))?.release();
    const held = await set.take("b");
    const refused = await failure(set.take("c"));
    expect(refused.message).toContain("a.gguf with 100 MiB, unused; b.gguf with 100 MiB, held by a request");
    expect([a.live(), b.live()]).toEqual([1, 1]);
    held?.release();
    (await set.take("c"))?.release();
    expect([a.live(), b.live(), c.live()]).toEqual([0, 0, 1]);
  });

  test("loads happen one after the other, so that each sees what the last one took", async () => {
    const [a, b] = [double("a.gguf"), double("b.gguf")];
    const set = new ModelSet([a, b], { memoryBytes: 150 * MiB });
    const results = await Promise.allSettled([set.take("a"), set.take("b")]);
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected"]);
    expect(b.rooms.map(({ memoryBytes }) => memoryBytes)).toEqual([50 * MiB]);
  });

  test("a model alone may cut its context; beside others it may not", async () => {
    const [a, b] = [double("a.gguf"), double("b.gguf")];
    const set = new ModelSet([a, b], { memoryBytes: 1000 * MiB });
    (await set.take("a"))?.release();
    (await set.take("b"))?.release();
    expect(a.rooms.map(({ whole }) => whole)).toEqual([false]);
    expect(b.rooms.map(({ whole }) => whole)).toEqual([true]);
    const alone = double("a.gguf");
    await new ModelSet([alone], { preload: alone }).ready;
    expect(alone.rooms.map(({ shared, whole }) => [shared, whole])).toEqual([[false, false]]);
  });
});

test("whatever requests do: what is held is open, what is open fits, and in the end nothing is held", async () => {
  let seed = 7;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const pause = () => Bun.sleep(random(3));
  const names = ["a", "b", "c", "d"];
  const models = names.map((name) =>
    double(`${name}.gguf`, {
      gate: pause,
      fail: () => (random(10) === 0 ? unexpected("io_failed", name, "a disk", "none") : undefined),
    }),
  );
  const set = new ModelSet(models, { memoryBytes: 250 * MiB, idleUnloadMs: 4 });
  const open = new Set<ServedModel["engine"]>();
  let most = 0;
  set.listen((event) => {
    if (event.type === "loaded") open.add(event.served.engine);
    if (event.type === "unloaded") open.delete(event.served.engine);
    most = Math.max(most, open.size);
  });
  const outcomes = new Map<string, number>();
  const client = async () => {
    for (let i = 0; i < 40; i++) {
      const leaving = new AbortController();
      if (random(5) === 0) setTimeout(() => leaving.abort(), random(3));
      try {
        const taken = await set.take(names[random(names.length)], leaving.signal);
        for (let k = random(4); k >= 0; k--) {
          expect(open.has(taken!.served.engine)).toBe(true);
          await pause();
        }
        taken!.release();
        outcomes.set("served", (outcomes.get("served") ?? 0) + 1);
      } catch (error) {
        const { code } = error as PsionicError;
        outcomes.set(code, (outcomes.get(code) ?? 0) + 1);
      }
    }
  };
  await Promise.all(Array.from({ length: 6 }, client));
  expect([...outcomes.keys()].sort()).toEqual(["admission_refused", "cancelled", "io_failed", "served"]);
  expect(most).toBe(2);
  await set.close();
  expect(set.rows.map(({ requests, state }) => [requests, state === "loaded"])).toEqual(
    names.map(() => [0, false]),
  );
  expect(models.map(({ live }) => live())).toEqual([0, 0, 0, 0]);
}, 120_000);

describe("idle", () => {
  test("an unused model is unloaded after a while, one in use never", async () => {
    const a = double("a.gguf");
    const set = new ModelSet([a], { memoryBytes: 1000 * MiB, idleUnloadMs: 20 });
    const taken = await set.take("a");
    await Bun.sleep(60);
    expect(a.live()).toBe(1);
    taken?.release();
    await until(() => a.live() === 0);
    expect(set.rows[0]).toMatchObject({ state: "unloaded", loads: 1 });
    const card = cardOf(set.rows[0]!);
    expect(card).toMatchObject({ context_length: 512 });
    expect(card.capabilities).toContain("reasoning");
    (await set.take("a"))?.release();
    expect(set.rows[0]).toMatchObject({ state: "loaded", loads: 2 });
    await set.close();
  });

  test("one that nobody asked for again after loading is unloaded too", async () => {
    const a = double("a.gguf");
    const set = new ModelSet([a], { preload: a, memoryBytes: 1000 * MiB, idleUnloadMs: 10 });
    await set.ready;
    await until(() => a.live() === 0);
  });
});

describe("over HTTP", () => {
  test("requests choose by name; lists show every model with its state", async () => {
    const [a, b] = [double("alpha.gguf", { answer: "I am a" }), double("beta.gguf", { answer: "I am b" })];
    const set = new ModelSet([a, b], { preload: a, memoryBytes: 1000 * MiB });
    await using server = await testServer(set);
    await server.ready;
    const say = async (model?: string) => {
      const body = await (await server.post("/v1/chat/completions", chat(model))).json();
      return [body.model, body.choices[0].message.content];
    };
    expect(await say()).toEqual(["alpha.gguf", "I am a"]);
    const before = await (await server.get("/v1/models")).json();
    const states = (list: typeof before) =>
      list.data.map((card: Record<string, unknown>) => [card.id, card.psionic_load_status]);
    expect(states(before)).toEqual([
      ["alpha.gguf", "loaded"],
      ["beta.gguf", "unloaded"],
    ]);
    expect(await say("beta")).toEqual(["beta", "I am b"]);
    expect(states(await (await server.get("/v1/models")).json())[1]).toEqual(["beta.gguf", "loaded"]);
    expect(await (await server.get("/health")).json()).toMatchObject({
      ...{ model: "alpha.gguf", model_count: 2, loaded_model_count: 2 },
    });
    const unknown = await server.post("/v1/chat/completions", chat("gamma"));
    expect(unknown.status).toBe(400);
    expect((await unknown.json()).error).toMatchObject({ code: "model_not_found", param: "model" });
    expect((await server.get("/v1/models/gamma")).status).toBe(404);
    expect((await (await server.get("/v1/models/beta")).json()).id).toBe("beta.gguf");
    const status = await (await server.get("/psionic/management/status")).json();
    expect(status.routes.map(({ model }: { model: string }) => model)).toEqual(["alpha.gguf", "beta.gguf"]);
    expect(status.models[1]).toMatchObject({ psionic_load_status: "loaded", psionic_requests: 0 });
    const metrics = await (await server.get("/metrics")).text();
    expect(metrics).toContain('psionic_time_to_first_token_seconds_count{model="beta.gguf"} 1');
    expect(metrics).toContain('psionic_model_load_seconds_count{model="beta.gguf"} 1');
  });

  test("what does not fit alone need not be asked for again", async () => {
    const big = double("big.gguf", { sizeBytes: 500 * MiB });
    await using server = await testServer(new ModelSet([double("a.gguf"), big], { memoryBytes: 150 * MiB }));
    const { status, headers } = await server.post("/v1/chat/completions", chat("big"));
    expect([status, headers.get("retry-after"), headers.get("x-should-retry")]).toEqual([503, null, "false"]);
  });

  test("a stream keeps its model until its last byte, and lets go when its client leaves", async () => {
    const a = double("a.gguf", { answer: "a rather long answer ".repeat(10), tokenMs: 10 });
    const b = double("b.gguf");
    const set = new ModelSet([a, b], { memoryBytes: 150 * MiB });
    await using server = await testServer(set);
    const streaming = await server.post("/v1/chat/completions", chat("a", { stream: true }));
    const refused = await server.post("/v1/chat/completions", chat("b"));
    expect(refused.status).toBe(503);
    expect(refused.headers.get("retry-after")).toBe("1");
    const { error } = await refused.json();
    expect(error.code).toBe("admission_refused");
    expect(error.message).toContain("a.gguf with 100 MiB, held by a request");
    expect(await streaming.text()).toContain("[DONE]");
    await until(() => set.rows[0]?.requests === 0);
    expect((await server.post("/v1/chat/completions", chat("b"))).status).toBe(200);
    expect([a.live(), b.live()]).toEqual([0, 1]);

    const client = new AbortController();
    const left = await server.post("/v1/chat/completions", chat("a", { stream: true }), {
      signal: client.signal,
    });
    expect(set.rows[0]?.requests).toBe(1);
    client.abort();
    left.text().catch(() => {});
    await until(() => set.rows[0]?.requests === 0);
  });

  test("who watches hears of models that come and go", async () => {
    const a = double("a.gguf");
    const set = new ModelSet([a], { memoryBytes: 1000 * MiB, idleUnloadMs: 20 });
    await using server = await testServer(set);
    const events = await server.get("/psionic/management/events");
    (await set.take("a"))?.release();
    await until(() => a.live() === 0);
    await server.stop();
    const snapshots = (await events.text())
      .split("\n")
      .filter((line) => line.startsWith("data: "))
      .map((line) => JSON.parse(line.slice(6)).payload)
      .filter(({ kind }) => kind === "topology_snapshot")
      .map(({ status }) => status.models[0].psionic_load_status);
    expect(snapshots).toEqual(["unloaded", "loaded", "unloaded"]);
  });

  test("why a model could not be loaded is for the log", async () => {
    const secret = unexpected("file_malformed", "/home/someone/x.gguf", "a model", "noise");
    const a = double("a.gguf");
    const b = double("b.gguf", { fail: () => secret });
    await using server = await testServer(new ModelSet([a, b], { memoryBytes: 1000 * MiB }));
    const response = await server.post("/v1/chat/completions", chat("b"));
    expect(response.status).toBe(503);
    const text = await response.text();
    expect(JSON.parse(text).error.code).toBe("load_failed");
    expect(text).not.toContain("someone");
    expect(text).toContain(response.headers.get("x-request-id")!);
    expect(server.errors).toEqual([secret]);
    expect((await server.post("/v1/chat/completions", chat("a"))).status).toBe(200);
  });

  test("a name that means several models is refused with them", async () => {
    const { backend } = scriptedModel("x").engine.info;
    const header = {
      backend,
      architecture: "llama",
      title: "Same",
      trainedContext: 64,
      parameters: 1,
      weightBytes: 1,
    };
    const titled = (name: string): ModelSource => ({
      ...double(name),
      header: { ...header, quantization: "F16", path: `/models/${name}` },
    });
    await using server = await testServer(new ModelSet([titled("q4.gguf"), titled("q8.gguf")]));
    const response = await server.post("/v1/chat/completions", chat("same"));
    expect(response.status).toBe(400);
    expect((await response.json()).error.message).toContain("same, which is q4.gguf, q8.gguf");
    const [card] = (await (await server.get("/v1/models")).json()).data;
    expect(card).toMatchObject({
      id: "q4.gguf",
      context_length: 64,
      psionic_model_family: "llama",
      psionic_served_backend: "cpu",
    });
  });

  test("counters go on when a model is unloaded and loaded again", async () => {
    const a = double("a.gguf");
    const set = new ModelSet([a], { memoryBytes: 1000 * MiB, idleUnloadMs: 10 });
    await using server = await testServer(set);
    for (let i = 0; i < 2; i++) {
      (await set.take("a"))?.release();
      const { engine } = set.rows[0]!.served!;
      const stats = engine.stats();
      engine.stats = () => ({ ...stats, completionTokens: 5 });
      await until(() => a.live() === 0);
    }
    const text = await (await server.get("/metrics")).text();
    expect(text).toContain('psionic_completion_tokens_total{model="a.gguf"} 10');
    expect(text).toContain('psionic_model_unloads_total{model="a.gguf",reason="idle"} 2');
    expect(text).toContain('psionic_model_loaded{model="a.gguf"} 0');
  });
});
