/** A checkpoint on its way to a peer: bytes in ranges, cuts, peers that lie, stall, vanish or point elsewhere. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Refusal } from "./contract.ts";
import { sealed } from "./documents.ts";
import { type FetchOptions, fetchHandoff } from "./handoff_fetch.ts";
import { handoffIndex } from "./handoff_index.ts";
import { type Handoff, handoffRoute, openHandoff, serveHandoff } from "./handoff_server.ts";
import { bound, Scene } from "./testing/scene.ts";

const demo = (scene: Scene) => {
  const { lane_id, admission_identity } = scene.manifest("start") as Record<string, unknown>;
  return { lane_id, admission_identity };
};

const scene = new Scene();
let handoff: Handoff;
let honest: Bun.Server<undefined>;

beforeAll(() => {
  expect(scene.run("start", { coordination: bound }).outcome).toBe("succeeded");
  expect(scene.run("serve_checkpoint", demo(scene)).outcome).toBe("succeeded");
  handoff = openHandoff(scene.root, 4096);
  honest = serveHandoff(handoff, { host: "127.0.0.1", port: 0 });
});
afterAll(async () => {
  await honest.stop(true);
  handoff[Symbol.dispose]();
  scene[Symbol.dispose]();
});

let joiners = 0;
const options = (port: number | undefined, changes: Partial<FetchOptions> = {}): FetchOptions => ({
  ...{ from: new URL(`http://127.0.0.1:${port ?? 1}`), root: join(scene.folder, `joiner-${++joiners}`) },
  ...{ node: "npub1-node-b", stallMs: 300, attempts: 2, pauseMs: 1 },
  ...changes,
});

async function refusedClass(given: FetchOptions): Promise<string> {
  try {
    await fetchHandoff(given);
    return "fetched";
  } catch (cause) {
    return cause instanceof Refusal ? cause.refusalClass : String(cause);
  }
}

type Part = (request: Request, through: () => Promise<Response>) => Response | Promise<Response>;

/** The honest server with one part of it replaced. */
async function withPeer<T>(
  part: string,
  act: Part,
  use: (port: number | undefined) => Promise<T>,
): Promise<T> {
  const server = Bun.serve({
    ...{ hostname: "127.0.0.1", port: 0 },
    fetch(request) {
      const { pathname } = new URL(request.url);
      const through = () => fetch(new URL(pathname, honest.url), { headers: request.headers });
      return pathname === handoffRoute(part) ? act(request, through) : through();
    },
  });
  try {
    return await use(server.port);
  } finally {
    await server.stop(true);
  }
}

describe("an honest peer", () => {
  test("what comes is the object, and is not fetched twice", async () => {
    const given = options(honest.port);
    const done = await fetchHandoff(given);
    expect(readFileSync(join(given.root, done.objectPath))).toEqual(
      readFileSync(join(scene.root, handoff.index.object_path)),
    );
    expect(done.resumedBytes).toBe(0);
    expect((await fetchHandoff(given)).resumedBytes).toBe(done.bytes);
  });

  test("ranges as HTTP has them; no path of a client's", async () => {
    const at = (path: string, headers: Record<string, string> = {}) =>
      fetch(new URL(path, honest.url), { headers });
    const object = handoffRoute("object");
    const part = await at(object, { range: "bytes=5-9" });
    expect([part.status, part.headers.get("content-range")]).toEqual([
      206,
      `bytes 5-9/${handoff.object.bytes}`,
    ]);
    expect([...new Uint8Array(await part.arrayBuffer())]).toEqual([...handoff.object.read(5, 10)]);
    expect((await at(object, { range: `bytes=${handoff.object.bytes}-` })).status).toBe(416);
    expect((await at(object, { range: "bytes=5-9", "if-range": '"other"' })).status).toBe(200);
    for (const path of [
      "/../../etc/passwd",
      handoffRoute("..%2fpointer"),
      "/status",
      handoffRoute("object/x"),
    ])
      expect((await at(path)).status).toBe(404);
    expect((await fetch(new URL(object, honest.url), { method: "POST" })).status).toBe(405);
  });

  test("a token where one is asked for", async () => {
    const server = serveHandoff(handoff, { host: "127.0.0.1", port: 0, token: "a-long-secret" });
    expect(await refusedClass(options(server.port))).toBe("checkpoint_missing");
    expect(await refusedClass(options(server.port, { token: "another-secret" }))).toBe("checkpoint_missing");
    expect(await refusedClass(options(server.port, { token: "a-long-secret" }))).toBe("fetched");
    await server.stop(true);
  });

  test("after a cut it goes on with what is there", async () => {
    const given = options(undefined);
    let answers = 0;
    const cut: Part = async (_, through) =>
      ++answers > 4 ? new Response("gone", { status: 503 }) : through();
    const refused = await withPeer("object", cut, (port) =>
      refusedClass({ ...given, from: new URL(`http://127.0.0.1:${port}`) }),
    );
    expect(refused).toBe("checkpoint_missing");
    const done = await fetchHandoff({ ...given, from: new URL(honest.url) });
    expect(done.resumedBytes).toBe(4 * 4096);
  });
});

describe("a bad peer", () => {
  const json = (value: object) => Response.json(value);
  const cases: Readonly<Record<string, readonly [string, Part, string]>> = {
    "other bytes": [
      "object",
      async (_, through) => {
        const answer = await through();
        const bytes = new Uint8Array(await answer.arrayBuffer());
        bytes[7] = bytes[7]! ^ 1;
        return new Response(bytes, { status: 206, headers: answer.headers });
      },
      "checkpoint_digest_mismatch",
    ],
    "another range": [
      "object",
      () => new Response("x", { status: 206, headers: { "content-range": "bytes 0-0/1" } }),
      "checkpoint_digest_mismatch",
    ],
    "no ranges at all": ["object", () => new Response("x"), "checkpoint_missing"],
    silence: ["object", () => new Promise<Response>(() => {}), "checkpoint_missing"],
    "nothing there": ["receipt", () => new Response("", { status: 404 }), "checkpoint_missing"],
    "another pointer": ["pointer", () => json({}), "checkpoint_digest_mismatch"],
    "no JSON": ["receipt", () => new Response("{"), "checkpoint_digest_mismatch"],
    "an endless receipt": ["receipt", () => new Response("x".repeat(2 ** 21)), "checkpoint_digest_mismatch"],
    "an index that leads out": [
      "index",
      () => json(sealed(handoffIndex, { ...handoff.index, object_path: "checkpoints/step-4/../../x" })),
      "checkpoint_digest_mismatch",
    ],
    "an index of another size": [
      "index",
      () => json(sealed(handoffIndex, { ...handoff.index, object_bytes: 2 ** 40 })),
      "checkpoint_digest_mismatch",
    ],
  };
  for (const [name, [part, act, expected]] of Object.entries(cases)) {
    test(name, async () => {
      const given = options(undefined);
      const found = await withPeer(part, act, (port) =>
        refusedClass({ ...given, from: new URL(`http://127.0.0.1:${port}`) }),
      );
      expect(found).toBe(expected);
      const cache = join(given.root, "artifacts/resolved");
      const whole = existsSync(cache) ? readdirSync(cache).filter((n) => !n.includes(".part")) : [];
      expect(whole).toEqual([]);
    });
  }

  test("gone; another node's receipt; another receipt than was asked for", async () => {
    expect(await refusedClass(options(1))).toBe("checkpoint_missing");
    expect(await refusedClass(options(honest.port, { node: "npub1-node-c" }))).toBe(
      "checkpoint_digest_mismatch",
    );
    expect(await refusedClass(options(honest.port, { receiptDigest: "0".repeat(64) }))).toBe(
      "checkpoint_digest_mismatch",
    );
  });
});
