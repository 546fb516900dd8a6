/** Every probe against our own server, and against servers with one fault each, which the probe must find. */
import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { runCommand } from "citty";
import { defaultModelPath } from "../../models/default_model.ts";
import { checkedArguments } from "../../terminal/arguments.ts";
import { UsageError } from "../../terminal/command.ts";
import { conformance } from "../cli/conformance.ts";
import { type OwnServer, ownServer, scriptedServer } from "./own.ts";
import { groupOf, groups, type Probe, runProbe } from "./probe.ts";
import { chosenProbes, probes } from "./probes/index.ts";
import { makeReport, reportTable } from "./report.ts";
import { runNamed, runOwn } from "./run.ts";
import { contextOf } from "./shapes.ts";
import { sseComments, sseEvents } from "./sse.ts";
import { firstModel, makeTarget, rootOf } from "./target.ts";

const answer =
  "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>";
const forced = '{"city":"Oslo"}<|call|>';

const closing: (() => unknown)[] = [];
afterAll(async () => {
  for (const close of closing) await close();
});

test("our own server meets every requirement that it serves", async () => {
  const server = await ownServer({ modelPath: defaultModelPath(), backend: "cpu" });
  closing.push(server.close);
  const report = makeReport("own", server.target, await runOwn(probes, server.target));
  const failed = report.probes.filter(({ status }) => status === "fail");
  expect(failed.map(({ name, detail }) => `${name}: ${detail}`)).toEqual([]);
  expect(report.overall_pass).toBe(true);
  // what is skipped is not served: a server that serves it must be asked
  const skippable = /^(ai-sdk\.json|complaints\.(.*schema.*))$/;
  const skipped = report.probes.filter(({ status }) => status === "skip").map(({ name }) => name);
  expect(skipped.filter((name) => !skippable.test(name))).toEqual([]);
  expect(reportTable(report)).toEndWith(`${report.passed} passed, 0 failed, ${report.skipped} skipped`);
}, 60_000);

type Fault = {
  readonly probe: Probe["name"];
  /** What the server says otherwise. */
  readonly says?: string;
  /** Part of the detail. */
  readonly finds: string;
  readonly body?: (text: string, path: string) => string;
  readonly answer?: (path: string, request: Request) => Response | undefined;
};

const without = (part: string | RegExp) => (text: string) => text.replaceAll(part, "");

const faults: readonly Fault[] = [
  { probe: "openai.stream", finds: "[DONE]", body: without("data: [DONE]\n\n") },
  { probe: "openai.stream", finds: "role", body: without('"role":"assistant",') },
  {
    probe: "openai.stream",
    finds: "finish_reason",
    body: (text) => text.replace('_reason":"stop"', '_reason":null'),
  },
  { probe: "openai.stream", finds: "JSON", body: (text) => text.replace("data: {", "data: [{") },
  {
    probe: "openai.chat",
    finds: "sum",
    body: (text) => text.replace(/"total_tokens":\d+/, '"total_tokens":1'),
  },
  {
    probe: "openai.tool-stream",
    says: forced,
    finds: "tool call index",
    body: (text) => text.replaceAll('"tool_calls":[{"index":0,', '"tool_calls":[{'),
  },
  { probe: "openai.tool-stream", says: forced, finds: "an id", body: without(/"id":"[^"]*-tool-0",/g) },
  {
    probe: "ai-sdk.chunks",
    finds: "choices",
    body: (text) => text.replace('"choices":[],"usage"', '"usage"'),
  },
  { probe: "ai-sdk.tools", says: answer, finds: "called no tool" },
  {
    probe: "langchain.usage",
    finds: "usage",
    body: without(/data: [^\n]*"choices":\[\],"usage"[^\n]*\n\n/g),
  },
  {
    probe: "codex.stream",
    finds: "response.completed",
    body: without(/event: response.completed\ndata: .*\n\n/g),
  },
  { probe: "codex.models", finds: "models", body: (text) => text.replace('"models":[', '"other":[') },
  {
    probe: "hermes.context",
    finds: "one number",
    body: (text, path) => (path === "/props" ? text.replace('"n_ctx":8192', '"n_ctx":4096') : text),
  },
  {
    probe: "hermes.unknown-path",
    finds: "404",
    answer: (path) => (path === "/no/such/path" ? new Response("<html>") : undefined),
  },
  {
    probe: "opencode.whole-prompt",
    finds: "tokens",
    body: (text) => text.replace(/"prompt_tokens":(\d+)/, (_, n) => `"prompt_tokens":${Math.min(n, 1000)}`),
  },
  {
    probe: "complaints.truncation",
    finds: "200",
    answer: (path) => (path.endsWith("/chat/completions") ? Response.json({ choices: [] }) : undefined),
  },
  {
    probe: "complaints.markup",
    finds: "markup",
    body: (text) => text.replace("Hello.", "<|channel|>Hello."),
  },
  {
    probe: "complaints.cached-turn",
    finds: "cached_tokens above 0",
    body: (text) => text.replace(/"cached_tokens":\d+/, '"cached_tokens":0'),
  },
  { probe: "complaints.metrics", finds: "404", answer: (path) => missing(path === "/metrics") },
  {
    probe: "complaints.fails-closed",
    finds: "200",
    answer: (path) => (path.endsWith("/chat/completions") ? Response.json({ choices: [] }) : undefined),
  },
  {
    probe: "complaints.broken-harmony",
    finds: "500",
    answer: (path) => (path.endsWith("/chat/completions") ? new Response("{}", { status: 500 }) : undefined),
  },
  { probe: "security.keys", finds: "skip" },
  {
    probe: "security.bodies",
    finds: "4xx",
    answer: (path) => (path.endsWith("/chat/completions") ? new Response("{}", { status: 500 }) : undefined),
  },
  {
    probe: "security.origin",
    finds: "access-control",
    answer: (_, request) =>
      request.headers.has("origin")
        ? Response.json({}, { headers: { "access-control-allow-origin": "*" } })
        : undefined,
  },
];

const missing = (is: boolean): Response | undefined => (is ? new Response("no", { status: 404 }) : undefined);

const behind = new Map<string, Promise<OwnServer>>();

function serverThatSays(text: string): Promise<OwnServer> {
  let server = behind.get(text);
  if (!server) {
    server = scriptedServer({ answers: [text] });
    behind.set(text, server);
    closing.push(async () => (await server!).close());
  }
  return server;
}

/** A server between the probe and ours that changes what passes. */
async function faulty({ says = answer, body, answer: own }: Fault) {
  const { target } = await serverThatSays(says);
  const proxy = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: async (request) => {
      const { pathname, search } = new URL(request.url);
      const answered = own?.(pathname, request);
      if (answered) return answered;
      const sent = request.method === "POST" ? await request.arrayBuffer() : undefined;
      const headers = { "content-type": request.headers.get("content-type") ?? "text/plain" };
      const reply = await fetch(target.root + pathname + search, {
        ...{ method: request.method, headers },
        ...(sent === undefined ? {} : { body: sent }),
      });
      const text = await reply.text();
      const type = reply.headers.get("content-type") ?? "";
      return new Response(body ? body(text, pathname) : text, {
        status: reply.status,
        headers: { "content-type": type },
      });
    },
  });
  return { target: makeTarget(`http://127.0.0.1:${proxy.port}`, target.model, undefined), proxy };
}

test("a fault is found by the probe that is about it, and by that one's words", async () => {
  for (const fault of faults) {
    const { target, proxy } = await faulty(fault);
    const probe = probes.find(({ name }) => name === fault.probe)!;
    const result = await runProbe(probe, target, false);
    await proxy.stop(true);
    const said = `${fault.probe} ${result.status} ${result.detail}`;
    expect(said).not.toStartWith(`${fault.probe} pass`);
    expect(said).toContain(fault.finds);
  }
}, 120_000);

test("without a fault in between, the same probes pass or are skipped", async () => {
  const { target, proxy } = await faulty({ probe: "openai.chat", finds: "" });
  const names = new Set(faults.filter(({ says }) => says === undefined).map(({ probe }) => probe));
  const results = await runNamed(
    probes.filter(({ name }) => names.has(name)),
    target,
  );
  await proxy.stop(true);
  // the proxy takes the Origin away, and a scripted engine has no cache to speak of
  const failed = results.filter(({ status, name }) => status === "fail" && name !== "security.origin");
  expect(failed.map(({ name, detail }) => `${name}: ${detail}`)).toEqual([]);
}, 120_000);

/** A server whose every token takes so long, and which answers one request after the other or all at once. */
function pacedServer(tokenMs: number, oneByOne: boolean) {
  let tail: Promise<unknown> = Promise.resolve();
  const event = (choice: object) => `data: ${JSON.stringify({ choices: [{ index: 0, ...choice }] })}\n\n`;
  return Bun.serve({
    ...{ port: 0, hostname: "127.0.0.1" },
    fetch: async (request) => {
      if (request.method === "GET") return Response.json({ data: [{ id: "m", context_length: 8192 }] });
      const { max_tokens: tokens } = await request.json();
      const before = tail;
      const answered = Promise.withResolvers<void>();
      if (oneByOne) tail = before.then(() => answered.promise);
      const start = async (stream: ReadableStreamDefaultController<Uint8Array>): Promise<void> => {
        const send = (text: string): void => stream.enqueue(new TextEncoder().encode(text));
        send(event({ delta: { role: "assistant", content: "" }, finish_reason: null }));
        await (oneByOne && before);
        for (let i = 0; i < tokens; i++) {
          send(event({ delta: { content: `${i} ` }, finish_reason: null }));
          // others get their turn between two tokens, however fast they are
          await Bun.sleep(tokenMs);
        }
        answered.resolve();
        send(`${event({ delta: {}, finish_reason: "length" })}data: [DONE]\n\n`);
        stream.close();
      };
      return new Response(new ReadableStream({ start }), {
        headers: { "content-type": "text/event-stream" },
      });
    },
  });
}

test("whether requests are answered at once is seen of fast and slow servers alike", async () => {
  const probe = probes.find(({ name }) => name === "complaints.several-at-once")!;
  const seen = async (tokenMs: number, oneByOne: boolean) => {
    const server = pacedServer(tokenMs, oneByOne);
    const { status } = await runProbe(probe, makeTarget(server.url.origin, "m", undefined), false);
    await server.stop(true);
    return status;
  };
  expect([await seen(4, false), await seen(4, true)]).toEqual(["pass", "fail"]);
  expect([await seen(1, false), await seen(1, true)]).toEqual(["pass", "fail"]);
  // answers that end at once: nothing waits, and nothing may be said against either
  expect(["pass", "skip"]).toContain(await seen(0, false));
  expect(["fail", "skip"]).toContain(await seen(0, true));
  const scripted = await serverThatSays(answer);
  expect((await runProbe(probe, scripted.target, false)).status).toBe("skip");
}, 60_000);

const empty: Readonly<Record<string, () => Response>> = {
  "an empty object": () => Response.json({}),
  "a page": () => new Response("<html>Hello</html>", { headers: { "content-type": "text/html" } }),
  "a server error": () => new Response("oops", { status: 500 }),
  "an error in JSON": () => Response.json({ error: { message: "no", code: "x" } }, { status: 500 }),
  "an empty stream": () => new Response("", { headers: { "content-type": "text/event-stream" } }),
  "nothing but an end": () =>
    new Response("data: [DONE]\n\n", { headers: { "content-type": "text/event-stream" } }),
};

test("no probe passes on a server that says the same to everything", async () => {
  for (const [what, reply] of Object.entries(empty)) {
    const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: reply });
    const results = await runNamed(probes, makeTarget(`http://127.0.0.1:${server.port}`, "m", "key"));
    await server.stop(true);
    const passed = results.filter(({ status }) => status === "pass").map(({ name }) => name);
    // Hermes takes any answer that is fast and no failure
    expect([what, ...passed.filter((name) => name !== "hermes.detection")]).toEqual([what]);
  }
}, 120_000);

test("probes have names of their own, in every group", () => {
  expect(new Set(probes.map(({ name }) => name)).size).toBe(probes.length);
  expect([...new Set(probes.map(groupOf))].sort()).toEqual([...groups].sort());
  expect(chosenProbes(["codex", "openai.chat"]).map(({ name }) => name)).toContain("openai.chat");
  expect(chosenProbes(["codex"]).every((probe) => groupOf(probe) === "codex")).toBe(true);
  expect(() => chosenProbes(["codecs"])).toThrow("--only takes names");
});

test("events are read as the standard says", () => {
  const text = ": ping\n\nevent: a\ndata: {\ndata: }\n\ndata:x\r\n\r\ndata\n\n";
  expect(sseEvents(text)).toEqual([
    { name: "a", data: "{\n}" },
    { name: "", data: "x" },
    { name: "", data: "" },
  ]);
  expect(sseComments(text)).toEqual([": ping"]);
});

test("a base URL means the same with and without /v1", async () => {
  expect(rootOf("http://a:1/v1/")).toBe("http://a:1");
  expect(rootOf("http://a:1")).toBe("http://a:1");
  expect(() => rootOf("a:1")).toThrow("[base-url]");
  await expect(firstModel("http://127.0.0.1:9", undefined)).rejects.toThrow();
  expect(contextOf({ meta: { n_ctx: 7 } })).toBe(7);
  expect(contextOf({ max_tokens: 7 })).toBeUndefined();
});

async function psionic(...args: string[]) {
  const main = join(import.meta.dir, "..", "..", "main.ts");
  const child = Bun.spawn([process.execPath, main, "conformance", ...args], {
    ...({ stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const),
  });
  const [out, err] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { code: await child.exited, out, err };
}

test("the command: exit codes 0, 1 and 2, a table and JSON", async () => {
  const good = await serverThatSays(answer);
  const passed = await psionic("--base-url", `${good.target.root}/v1`, "--only", "codex.models", "--json");
  expect(passed.code).toBe(0);
  expect(JSON.parse(passed.out)).toMatchObject({
    ...{ kind: "psionic_conformance", server: "named", overall_pass: true, passed: 1, failed: 0 },
    probes: [{ name: "codex.models", group: "codex", status: "pass", model: "served", detail: null }],
  });
  const { target, proxy } = await faulty({ probe: "codex.models", finds: "", body: without('"models":[') });
  const failed = await psionic("--base-url", target.root, "--model", "x", "--only", "codex.models");
  await proxy.stop(true);
  expect(failed).toMatchObject({ code: 1, err: expect.stringContaining("1 of 1 probes failed") });
  expect(failed.out).toContain("codex.models  fail");
  expect(await psionic("harmony")).toMatchObject({ code: 2, err: expect.stringContaining("hermes") });
}, 120_000);

test("wrong usage is found before anything is asked", async () => {
  for (const wrong of [
    ["--only", "none"],
    ["--base-url", "http://a", "-c", "5"],
    ["--api-key", "k"],
    ["--rows", "a=b"],
    ["hermes", "parallel"],
    ["hermes", "parallel", "--rows", "a=start:x"],
    ["hermes", "benchmark", "--base-url", "http://a", "--rows", "psionic=http://b"],
  ]) {
    const rawArgs = checkedArguments(wrong, conformance.args);
    const failure = await runCommand(conformance, { rawArgs }).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(UsageError);
  }
});
