/** Pulling from a host that drops, lies, stalls and refuses, and going on afterwards. */
import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { modelPath } from "../model_option.ts";
import { folderOf, storedModels } from "./manifest.ts";
import { pullModel } from "./pull.ts";
import { retryAfterMs } from "./remote.ts";
import { fileReply, type HostReply, type HostRequest, startHost } from "./testing/host.ts";
import { ggufBytes } from "./testing/models.ts";
import {
  bytesOf,
  chunkBytes,
  chunks,
  failure,
  isProbe,
  model,
  modelHost,
  ownStore,
  quick,
  rangeOf,
  rangesOf,
  startOf,
} from "./testing/pulling.ts";

const store = ownStore();

test("a place that cannot be written to is named before anything is fetched", async () => {
  using host = modelHost();
  const { PSIONIC_HOME: home } = process.env;
  const file = join(store.home, "a file");
  writeFileSync(file, "");
  process.env.PSIONIC_HOME = join(file, "below");
  const error = await failure(pullModel(`${host.url}/model.gguf`, quick));
  process.env.PSIONIC_HOME = home;
  expect([error.code, error.message.includes("PSIONIC_HOME")]).toEqual(["io_failed", true]);
  expect(rangesOf(host, "/model.gguf")).toEqual([]);
});

describe("a file at an address", () => {
  test("comes in ranges, in parallel, and is there when it is whole", async () => {
    using host = modelHost();
    let last = [0, 0];
    const { model: stored, state } = await pullModel(`${host.url}/model.gguf?sig=secret`, {
      ...quick,
      onProgress: (stage, done, total) => {
        if (stage === "download") last = [done, total];
      },
    });
    expect(state).toBe("pulled");
    expect(bytesOf(stored.path)).toEqual(model);
    expect(last).toEqual([model.length, model.length]);
    expect(rangesOf(host, "/model.gguf").sort()).toEqual(
      Array.from({ length: chunks }, (_, i) => `/model.gguf ${rangeOf(i)}`).sort(),
    );
    expect(stored.manifest).toMatchObject({
      name: "model",
      source: `${host.url}/model.gguf`,
      revision: null,
    });
    expect(stored.manifest.files).toEqual([
      { path: "model.gguf", bytes: model.length, sha256: sha256(model), verified: false, etag: "one" },
    ]);
    expect(readdirSync(stored.folder).sort()).toEqual(["manifest.json", "model.gguf"]);
    expect(readdirSync(join(store.home, "models", "url"))).toEqual(["model"]);
    expect(modelPath("model")).toBe(stored.path);
    const count = host.requests.length;
    expect((await pullModel(`${host.url}/model.gguf`, quick)).state).toBe("already there");
    expect(host.requests.length).toBe(count + 1);
  });

  test("connections that drop: what came is kept, only the rest is asked for", async () => {
    using host = modelHost((request, honest) =>
      request.earlier === 0 && !isProbe(request) && startOf(request) % chunkBytes === 0
        ? { ...honest, dropAfter: 1000 }
        : honest,
    );
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    const starts = host.seen.filter((one) => !isProbe(one)).map(startOf);
    expect(starts.filter((start) => start % chunkBytes === 1000)).toHaveLength(chunks);
  });

  test("a host that stalls is left and asked again", async () => {
    using host = modelHost((request, honest) =>
      startOf(request) === 2 * chunkBytes && request.earlier === 0 ? { ...honest, stallAfter: 500 } : honest,
    );
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    expect(host.requests).toContain(`/model.gguf bytes=${2 * chunkBytes + 500}-${3 * chunkBytes - 1}`);
  });

  test("a host that always stalls is given up, with its name", async () => {
    using host = modelHost((request, honest) => (isProbe(request) ? honest : { ...honest, stallAfter: 0 }));
    const error = await failure(
      pullModel(`${host.url}/model.gguf`, { ...quick, remote: { stallMs: 20, attempts: 2, pauseMs: 1 } }),
    );
    expect(error.code).toBe("network_failed");
    expect(error.message).toContain("127.0.0.1");
    expect(error.message).toContain("sent nothing for 0.02 s, 2 times in a row");
    expect(existsSync(folderOf("model"))).toBe(false);
  });

  test("ranges that are other than asked for, too long, or lie about their length are not taken", async () => {
    const wrong: ((honest: HostReply, request: HostRequest) => HostReply)[] = [
      (honest) => ({
        ...honest,
        headers: { ...honest.headers, "content-range": `bytes 0-9/${model.length}` },
      }),
      (honest) => ({ ...honest, headers: { ...honest.headers, "content-range": "bytes 0-9/10" } }),
      (honest) => ({ ...honest, headers: { etag: '"one"' } }),
      (honest) => ({ ...honest, body: new Uint8Array(chunkBytes + 5) }),
      (honest) => ({ ...honest, claimedLength: chunkBytes * 2 }),
      (honest) => ({ ...honest, claimedLength: null, body: new Uint8Array(chunkBytes + 5) }),
      (honest) => ({ ...honest, status: 200, body: model }),
    ];
    for (const [i, lie] of wrong.entries()) {
      using host = startHost((request) => {
        const honest = fileReply(request, model, { etag: "one" });
        const first = startOf(request) === chunkBytes && request.earlier === 0;
        return first ? lie(honest, request) : honest;
      });
      const { model: stored } = await pullModel(`${host.url}/model-${i}.gguf`, quick);
      expect([i, sha256(bytesOf(stored.path))]).toEqual([i, sha256(model)]);
      expect(rangesOf(host, `/model-${i}.gguf`).length).toBeGreaterThan(chunks);
    }
  });

  test("a digest for a range: only the chunk that is wrong comes again", async () => {
    const digest = (bytes: Uint8Array) =>
      `sha-256=:${new Bun.CryptoHasher("sha256").update(bytes).digest("base64")}:`;
    using host = startHost((request) => {
      const honest = fileReply(request, model, { etag: "one" });
      const headers = { ...honest.headers, "content-digest": digest(honest.body as Uint8Array) };
      if (startOf(request) !== 3 * chunkBytes || request.earlier > 0) return { ...honest, headers };
      return { ...honest, headers, body: new Uint8Array(chunkBytes) };
    });
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    expect(rangesOf(host, "/model.gguf")).toHaveLength(chunks + 1);
    expect(rangesOf(host, "/model.gguf").filter((one) => one.endsWith(rangeOf(3)))).toHaveLength(2);
  });

  test("a digest of the whole: bytes that came wrong once are found and replaced", async () => {
    using host = startHost((request) => {
      const headers = { "repr-digest": `sha-256=:${Buffer.from(sha256(model), "hex").toString("base64")}:` };
      const honest = fileReply(request, model, { etag: "one", headers });
      if (startOf(request) !== chunkBytes || request.earlier > 0) return honest;
      return { ...honest, body: new Uint8Array(chunkBytes).fill(1) };
    });
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    expect(stored.manifest.files[0]).toMatchObject({ verified: true, sha256: sha256(model) });
  });

  test("a digest of the whole, and lies now here and now there: what has come alike twice is not fetched again", async () => {
    const lies = ["1 0", "2 1", "1 2", "3 2", "3 3", "3 4"];
    using host = modelHost((request, honest) => {
      const headers = { ...honest.headers, "x-linked-etag": `"${sha256(model)}"` };
      const start = startOf(request);
      const isLie = start % chunkBytes === 0 && lies.includes(`${start / chunkBytes} ${request.earlier}`);
      if (!isLie) return { ...honest, headers };
      return { ...honest, headers, body: new Uint8Array(chunkBytes).fill(request.earlier + 1) };
    });
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    // twice each, chunk 1 twice more and chunk 2 once
    expect(rangesOf(host, "/model.gguf")).toHaveLength(2 * chunks + 3);
  });

  test("a host that keeps sending other bytes than it promised: a mismatch, and nothing is kept", async () => {
    using host = modelHost((_, honest) => ({
      ...honest,
      headers: { ...honest.headers, "x-linked-etag": `"${"ab".repeat(32)}"` },
    }));
    const error = await failure(pullModel(`${host.url}/model.gguf`, quick));
    expect(error.code).toBe("digest_mismatch");
    expect(error.details).toEqual({ expected: "ab".repeat(32), got: sha256(model) });
    expect(existsSync(`${folderOf("model")}.pull`)).toBe(false);
  });

  test("hosts without ranges: one answer, from the start again where it drops", async () => {
    using host = startHost((request) => {
      const honest = fileReply(request, model, { ranges: false });
      return request.headers.has("range") || request.earlier > 0 ? honest : { ...honest, dropAfter: 100_000 };
    });
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    expect(host.requests).toEqual(["/model.gguf bytes=0-0", "/model.gguf all", "/model.gguf all"]);
  });

  test("statuses: 401, 404, 429 and 503 with the wait that is asked for", async () => {
    const cases: readonly (readonly [HostReply, string])[] = [
      [{ status: 401 }, "unauthorized"],
      [{ status: 403 }, "unauthorized"],
      [{ status: 404 }, "model_not_found"],
      [{ status: 418 }, "network_failed"],
      [{ status: 500 }, "network_failed"],
      [{ status: 429, headers: { "retry-after": "86400" } }, "network_failed"],
      [{ status: 302 }, "network_failed"],
      [{ status: 200, claimedLength: null, body: "x" }, "network_failed"],
      [{ status: 200, headers: { "content-encoding": "gzip" }, body: "x" }, "network_failed"],
    ];
    for (const [reply, code] of cases) {
      using host = startHost(() => reply);
      const error = await failure(pullModel(`${host.url}/model.gguf`, quick));
      expect([reply.status, error.code]).toEqual([reply.status, code as typeof error.code]);
      expect(error.message).not.toContain("Set HF_TOKEN");
    }
    using host = modelHost((request, honest) => {
      if (request.earlier > 0 || startOf(request) !== 0) return honest;
      return { status: isProbe(request) ? 429 : 503, headers: { "retry-after": "1" } };
    });
    const start = performance.now();
    await pullModel(`${host.url}/model.gguf`, quick);
    expect(performance.now() - start).toBeGreaterThan(1900);
    expect(retryAfterMs("120")).toBe(120_000);
    expect(retryAfterMs("Wed, 21 Oct 2015 07:28:00 GMT", Date.UTC(2015, 9, 21, 7, 27))).toBe(60_000);
    expect(retryAfterMs("soon")).toBeUndefined();
  });

  test("a file that changes at its host while it comes is no mixture", async () => {
    using host = modelHost((request, honest) =>
      startOf(request) >= 2 * chunkBytes
        ? { ...honest, headers: { ...honest.headers, etag: '"two"' } }
        : honest,
    );
    const error = await failure(pullModel(`${host.url}/model.gguf`, quick));
    expect(error.code).toBe("network_failed");
    expect(error.message).toContain("another version");
  });

  test("what is no model is not kept, though its digest fits", async () => {
    using host = startHost((request) =>
      fileReply(request, new TextEncoder().encode("<html>sorry</html>".repeat(99))),
    );
    const error = await failure(pullModel(`${host.url}/model.gguf`, quick));
    expect(error.code).toBe("file_malformed");
    expect(storedModels()).toEqual([]);
    expect(readdirSync(join(store.home, "models", "url"))).toEqual([]);
  });

  test("a disk that is too full is said before anything comes", async () => {
    using host = modelHost();
    const error = await failure(
      pullModel(`${host.url}/model.gguf`, { ...quick, freeBytes: () => 64 * 2 ** 20 + 1000 }),
    );
    expect(error.code).toBe("disk_full");
    expect(error.details).toMatchObject({ neededBytes: model.length });
    expect(host.requests).toEqual(["/model.gguf bytes=0-0"]);
  });

  test("split files: naming one part brings all", async () => {
    const part = (no: number) => {
      const u16 = (value: number) => ({ type: "u16", value }) as const;
      return ggufBytes(1000, no, {
        "split.no": u16(no),
        "split.count": u16(2),
        "split.tensors.count": u16(1),
      });
    };
    using host = startHost((request) => fileReply(request, part(request.path.includes("-00001-") ? 0 : 1)));
    const pulled = await failure(pullModel(`${host.url}/big-00002-of-00002.gguf`, quick));
    // both parts hold a tensor of one name here, which opening the model notices: so both were there
    expect(pulled.message).toContain("unique over all parts");
    expect(new Set(host.seen.map(({ path }) => path))).toEqual(
      new Set(["/big-00001-of-00002.gguf", "/big-00002-of-00002.gguf"]),
    );
  });
});

describe("going on", () => {
  test("after an end in the middle, with what is there checked first", async () => {
    const stop = new AbortController();
    let served = 0;
    using host = modelHost((request, honest) => {
      if (!isProbe(request) && ++served === 4) queueMicrotask(() => stop.abort());
      return !isProbe(request) && served >= 4 && !stop.signal.aborted
        ? { ...honest, stallAfter: 10 }
        : honest;
    });
    const error = await failure(
      pullModel(`${host.url}/model.gguf`, { ...quick, connections: 1, signal: stop.signal }),
    );
    expect(error.code).toBe("cancelled");
    const part = join(`${folderOf("model")}.pull`, "model.gguf.part");
    const broken = bytesOf(part);
    broken[10] = broken[10]! ^ 1;
    writeFileSync(part, broken);
    const from = host.requests.length;
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    const asked = host.requests.slice(from + 1);
    // three chunks were there, of which one had been damaged on the disk
    expect(asked.filter((one) => one.endsWith(rangeOf(0)))).toHaveLength(1);
    expect(asked.filter((one) => one.endsWith(rangeOf(1)) || one.endsWith(rangeOf(2)))).toEqual([]);
    expect(asked).toHaveLength(chunks - 3 + 1);
  });

  test("damage on the disk, where the host gives a digest: the chunk that is damaged comes again, no other", async () => {
    const stop = new AbortController();
    const headers = { "x-checksum-sha256": sha256(model) };
    using host = startHost((request) => {
      if (startOf(request) >= 3 * chunkBytes && !stop.signal.aborted) stop.abort();
      return fileReply(request, model, { etag: "one", headers });
    });
    await failure(pullModel(`${host.url}/model.gguf`, { ...quick, connections: 1, signal: stop.signal }));
    const part = join(`${folderOf("model")}.pull`, "model.gguf.part");
    const broken = bytesOf(part);
    broken[chunkBytes + 10] = broken[chunkBytes + 10]! ^ 1;
    writeFileSync(part, broken);
    const from = host.requests.length;
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    const asked = host.requests.slice(from + 1);
    expect(asked.filter((one) => one.endsWith(rangeOf(1)))).toHaveLength(1);
    expect(asked.filter((one) => one.endsWith(rangeOf(0)) || one.endsWith(rangeOf(2)))).toEqual([]);
  });

  test("of another version at the host nothing is taken over", async () => {
    const stop = new AbortController();
    let etag = "one";
    const other = ggufBytes(5 * chunkBytes + 1000, 2);
    using host = startHost((request) => {
      if (startOf(request) >= 2 * chunkBytes && etag === "one") stop.abort();
      return fileReply(request, etag === "one" ? model : other, { etag });
    });
    await failure(pullModel(`${host.url}/model.gguf`, { ...quick, connections: 1, signal: stop.signal }));
    etag = "two";
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(other);
  });

  test("two pulls of one model: the second is refused, and the lock of a dead process is nobody's", async () => {
    using host = modelHost((_, honest) => honest);
    const first = pullModel(`${host.url}/model.gguf`, quick);
    const second = await failure(pullModel(`${host.url}/model.gguf`, quick));
    expect(second.code).toBe("locked");
    expect(second.details).toEqual({ pid: process.pid });
    const { model: stored } = await first;
    rmSync(stored.folder, { recursive: true });
    mkdirSync(`${stored.folder}.lock`);
    writeFileSync(`${stored.folder}.lock/${2 ** 22 + 1}-1-0123456789ab`, "");
    expect((await pullModel(`${host.url}/model.gguf`, quick)).state).toBe("pulled");
    expect(existsSync(`${stored.folder}.lock`)).toBe(false);
  });

  test("stopped just before it got its name, a model gets it without a byte coming again", async () => {
    using host = modelHost();
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    renameSync(stored.folder, `${stored.folder}.pull`);
    const count = host.requests.length;
    expect((await pullModel(`${host.url}/model.gguf`, quick)).state).toBe("already there");
    expect(host.requests.slice(count)).toEqual(["/model.gguf bytes=0-0"]);
    expect(readdirSync(join(store.home, "models", "url"))).toEqual(["model"]);
  });

  test("a process that is killed leaves what the next one goes on with", async () => {
    let slow = true;
    using host = modelHost((request, honest) =>
      slow && startOf(request) >= 3 * chunkBytes ? { ...honest, stallAfter: 100 } : honest,
    );
    const main = join(import.meta.dir, "..", "..", "main.ts");
    const script = `
      const { pullModel } = await import(${JSON.stringify(join(import.meta.dir, "pull.ts"))});
      await pullModel(process.argv[1], { chunkBytes: ${chunkBytes}, connections: 1 });
    `;
    expect(existsSync(main)).toBe(true);
    const child = Bun.spawn([process.execPath, "-e", script, `${host.url}/model.gguf`], {
      ...{ stdout: "inherit", stderr: "inherit", env: { ...process.env, PSIONIC_HOME: store.home } },
    });
    const journal = join(`${folderOf("model")}.pull`, "model.gguf.part.journal");
    const three = () => existsSync(journal) && readFileSync(journal, "utf8").trim().split("\n").length === 4;
    for (let i = 0; i < 500 && !(three() && host.requests.at(-1)?.endsWith(rangeOf(3))); i++)
      await Bun.sleep(10);
    expect(three()).toBe(true);
    child.kill("SIGKILL");
    await child.exited;
    slow = false;
    const from = host.requests.length;
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, quick);
    expect(bytesOf(stored.path)).toEqual(model);
    expect(host.requests.slice(from + 1).sort()).toEqual(
      Array.from({ length: chunks - 3 }, (_, i) => `/model.gguf ${rangeOf(i + 3)}`).sort(),
    );
  });
});
