/** Pulling from a host that drops, lies, stalls, redirects and refuses. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import type { PsionicError } from "../../core/error.ts";
import { modelPath } from "../model_option.ts";
import { folderOf, storedModels } from "./manifest.ts";
import { type PullOptions, pullModel } from "./pull.ts";
import { isLocal, retryAfterMs } from "./remote.ts";
import { fileReply, type Host, type HostReply, type HostRequest, startHost } from "./testing/host.ts";
import { ggufBytes, safetensorsBytes } from "./testing/models.ts";

const chunkBytes = 64 * 1024;
const model = ggufBytes(5 * chunkBytes + 1000);
const chunks = Math.ceil(model.length / chunkBytes);
const quick: PullOptions = {
  ...{ chunkBytes, connections: 3 },
  remote: { stallMs: 250, attempts: 4, pauseMs: 1 },
};

let home: string;
const variables = ["PSIONIC_HOME", "HF_ENDPOINT", "HF_TOKEN", "XDG_CACHE_HOME"] as const;
let before: Record<string, string | undefined>;

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "pull-"));
  before = Object.fromEntries(variables.map((name) => [name, process.env[name]]));
  process.env.PSIONIC_HOME = home;
  delete process.env.HF_TOKEN;
  delete process.env.HF_ENDPOINT;
});

afterEach(() => {
  for (const name of variables) {
    if (before[name] === undefined) delete process.env[name];
    else process.env[name] = before[name];
  }
  rmSync(home, { recursive: true });
});

async function failure(promise: Promise<unknown>): Promise<PsionicError> {
  return promise.then(
    () => Promise.reject(new Error("expected a failure")),
    (error: unknown) => error as PsionicError,
  );
}

const bytesOf = (path: string) => new Uint8Array(readFileSync(path));
const rangesOf = (host: Host, path: string) =>
  host.requests.filter((one) => one.startsWith(`${path} bytes=`) && !one.endsWith(" bytes=0-0"));
const rangeOf = (chunk: number) =>
  `bytes=${chunk * chunkBytes}-${Math.min(model.length, (chunk + 1) * chunkBytes) - 1}`;

/** A host with the model at /model.gguf, which `change` may answer for otherwise. */
function modelHost(
  change: (request: HostRequest, honest: HostReply) => HostReply = (_, honest) => honest,
): Host {
  return startHost((request) => change(request, fileReply(request, model, { etag: "one" })));
}

/** The beginning of a range that was asked for; -1 for none. */
const startOf = ({ headers }: HostRequest) =>
  Number(/^bytes=(\d+)-/.exec(headers.get("range") ?? "")?.[1] ?? -1);
const isProbe = ({ headers }: HostRequest) => headers.get("range") === "bytes=0-0";

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
    expect(readdirSync(join(home, "models", "url"))).toEqual(["model"]);
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
    expect(readdirSync(join(home, "models", "url"))).toEqual([]);
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
    writeFileSync(`${stored.folder}.lock`, JSON.stringify({ pid: 2 ** 22 + 1, started: "1" }));
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
    expect(readdirSync(join(home, "models", "url"))).toEqual(["model"]);
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
      ...{ stdout: "inherit", stderr: "inherit", env: { ...process.env, PSIONIC_HOME: home } },
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

describe("redirects", () => {
  test("the token stays with its host; later requests go to where the first one led", async () => {
    using storage = modelHost();
    using hub = hubHost({ "model-Q8_0.gguf": model }, () => ({
      status: 302,
      headers: { location: `${storage.url}/x` },
    }));
    process.env.HF_ENDPOINT = hub.url;
    process.env.HF_TOKEN = "hf_secret";
    const { model: stored } = await pullModel("org/repo", quick);
    expect(bytesOf(stored.path)).toEqual(model);
    expect(hub.seen.every(({ headers }) => headers.get("authorization") === "Bearer hf_secret")).toBe(true);
    expect(storage.seen.some(({ headers }) => headers.has("authorization"))).toBe(false);
    expect(hub.seen.filter(({ path }) => path.includes("/resolve/"))).toHaveLength(1);
  });

  test("an address that has expired is asked for anew", async () => {
    using storage = modelHost((request, honest) =>
      request.query.get("sig") === "1" && !isProbe(request) ? { status: 403 } : honest,
    );
    let count = 0;
    using host = startHost(() => ({ status: 307, headers: { location: `${storage.url}/x?sig=${++count}` } }));
    const { model: stored } = await pullModel(`${host.url}/model.gguf`, { ...quick, connections: 1 });
    expect(bytesOf(stored.path)).toEqual(model);
    expect(count).toBe(2);
  });

  test("the token of the hub is not sent to other addresses", async () => {
    using host = modelHost();
    process.env.HF_TOKEN = "hf_secret";
    await pullModel(`${host.url}/model.gguf`, quick);
    expect(host.seen.some(({ headers }) => headers.has("authorization"))).toBe(false);
  });

  test("circles and addresses that are none end in an error", async () => {
    for (const location of ["/model.gguf", "file:///etc/passwd", "ftp://host/x"]) {
      using host = startHost(() => ({ status: 301, headers: { location } }));
      expect((await failure(pullModel(`${host.url}/model.gguf`, quick))).code).toBe("network_failed");
    }
    for (const name of [
      "127.0.0.1",
      "10.1.2.3",
      "192.168.0.1",
      "169.254.169.254",
      "[::1]",
      "[fd00::1]",
      "localhost",
    ]) {
      expect([name, isLocal(name)]).toEqual([name, true]);
    }
    expect(isLocal("[::ffff:a00:1]")).toBe(true);
    for (const name of ["huggingface.co", "8.8.8.8", "172.15.0.1", "[2606:4700::1]"]) {
      expect([name, isLocal(name)]).toEqual([name, false]);
    }
  });
});

const commit = "c0ffee".padEnd(40, "0");

/** A hub with one repository; `resolve` may answer for file contents. */
function hubHost(
  files: Readonly<Record<string, Uint8Array>>,
  resolve?: (request: HostRequest) => HostReply,
  list: (siblings: object[]) => object = (siblings) => ({ sha: commit, siblings }),
): Host {
  return startHost((request) => {
    if (request.path.startsWith("/api/models/")) {
      const siblings = Object.entries(files).map(([rfilename, bytes]) => ({
        ...{ rfilename, size: bytes.length },
        ...(/\.(gguf|safetensors)$/.test(rfilename)
          ? { lfs: { sha256: sha256(bytes), size: bytes.length } }
          : {
              blobId: new Bun.CryptoHasher("sha1")
                .update(`blob ${bytes.length}\0`)
                .update(bytes)
                .digest("hex"),
            }),
      }));
      return { body: JSON.stringify(list(siblings)) };
    }
    if (resolve) return resolve(request);
    const bytes = files[request.path.replace(/^\/[^/]+\/[^/]+\/resolve\/[^/]+\//, "")];
    return bytes ? fileReply(request, bytes) : { status: 404 };
  });
}

describe("a hub", () => {
  const [q4, q8] = [ggufBytes(3000, 4), ggufBytes(3000, 8)];

  test("choosing: the usual one, a quantisation, a file; names are the same however it was asked", async () => {
    using hub = hubHost({
      "m-Q4_K_M.gguf": q4,
      "m-Q8_0.gguf": q8,
      "mmproj-m-Q8_0.gguf": q8,
      "README.md": q4,
    });
    process.env.HF_ENDPOINT = hub.url;
    expect((await pullModel("org/repo", quick)).model.manifest.name).toBe("org/repo:Q4_K_M");
    expect((await pullModel("hf.co/org/repo:q8_0", quick)).model.manifest.name).toBe("org/repo:Q8_0");
    const again = await pullModel("https://huggingface.co/org/repo/blob/main/m-Q8_0.gguf", quick);
    expect([again.state, again.model.manifest.revision]).toEqual(["already there", commit]);
    expect(again.model.manifest.files[0]).toMatchObject({ verified: true, sha256: sha256(q8) });
    expect(bytesOf(modelPath("org/repo:Q8_0"))).toEqual(q8);
    expect(modelPath("m-Q4_K_M")).toBe(modelPath("org/repo:q4_k_m"));
    expect(() => modelPath("org/repo")).toThrow("which is org/repo:Q4_K_M, org/repo:Q8_0");
    expect(() => modelPath("org/other")).toThrow("psionic pull org/other");
    const error = await failure(pullModel("org/repo:Q2_K", quick));
    expect(error.code).toBe("invalid_argument");
    expect(error.message).toContain("It has Q4_K_M, Q8_0");
  });

  test("a checkpoint: the files that matter, small ones checked by git's digest", async () => {
    const text = (value: object) => new TextEncoder().encode(JSON.stringify(value));
    const index = {
      weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" },
    };
    const files = {
      "config.json": text({ model_type: "llama" }),
      "tokenizer.json": text({}),
      "model.safetensors.index.json": text(index),
      "model-00001-of-00002.safetensors": safetensorsBytes("a"),
      "model-00002-of-00002.safetensors": safetensorsBytes("b"),
      "original/consolidated.safetensors": safetensorsBytes("c"),
      "pytorch_model.bin": text({}),
    };
    using hub = hubHost(files);
    process.env.HF_ENDPOINT = hub.url;
    const { model: stored } = await pullModel("org/checkpoint", quick);
    expect(stored.path).toBe(stored.folder);
    expect(stored.manifest.name).toBe("org/checkpoint");
    expect(stored.folder).toBe(join(home, "models", "hub", "org", "checkpoint", "checkpoint"));
    expect(modelPath("org/checkpoint")).toBe(stored.folder);
    expect(readdirSync(stored.folder).sort()).toEqual(
      ["manifest.json", ...Object.keys(files).filter((name) => !/original|bin/.test(name))].sort(),
    );
    expect(stored.manifest.files.every(({ verified }) => verified)).toBe(true);
    using liar = hubHost(files, (request) =>
      request.path.endsWith("/config.json")
        ? fileReply(request, text({ model_type: "llamo" }))
        : fileReply(request, files[request.path.replace(/^.*\/resolve\/[^/]+\//, "") as keyof typeof files]),
    );
    process.env.HF_ENDPOINT = liar.url;
    expect((await failure(pullModel("org/liar", quick))).code).toBe("digest_mismatch");
  });

  test("a new revision brings only what has changed, and takes the place of the old one", async () => {
    const files: Record<string, Uint8Array> = { "m.gguf": q4 };
    let sha = commit;
    using hub = startHost((request) => {
      if (!request.path.startsWith("/api/")) return fileReply(request, files["m.gguf"]!);
      const size = files["m.gguf"]!.length;
      const lfs = { sha256: sha256(files["m.gguf"]!), size };
      return { body: JSON.stringify({ sha, siblings: [{ rfilename: "m.gguf", size, lfs }] }) };
    });
    process.env.HF_ENDPOINT = hub.url;
    await pullModel("org/repo", quick);
    sha = "d".repeat(40);
    const from = hub.requests.length;
    expect((await pullModel("org/repo", quick)).model.manifest.revision).toBe(sha);
    expect(hub.requests.slice(from).filter((one) => !one.endsWith(" all")).length).toBe(1);
    files["m.gguf"] = q8;
    sha = "e".repeat(40);
    const { model: stored } = await pullModel("org/repo", quick);
    expect(bytesOf(stored.path)).toEqual(q8);
    expect(readdirSync(join(home, "models", "hub", "org", "repo"))).toEqual(["m"]);
  });

  test("lists that lie: lengths, paths that leave the folder, something else than a list", async () => {
    const grown = (siblings: object[]) => ({
      sha: commit,
      siblings: siblings.map((one) => ({ ...one, lfs: { sha256: sha256(q4), size: q4.length + 1 } })),
    });
    using longer = hubHost({ "m.gguf": q4 }, undefined, grown);
    process.env.HF_ENDPOINT = longer.url;
    const error = await failure(pullModel("org/repo", quick));
    expect(error.code).toBe("network_failed");
    expect(error.message).toContain(`promised ${q4.length + 1} bytes and now says ${q4.length}`);
    for (const path of ["../../escape.gguf", "/etc/x.gguf", "a/../../b.gguf", "x\u0000.gguf", "c:\\x.gguf"]) {
      using hub = hubHost({ [path]: q4 });
      process.env.HF_ENDPOINT = hub.url;
      expect([path, (await failure(pullModel("org/repo", quick))).code]).toEqual([path, "invalid_argument"]);
    }
    using nothing = hubHost({}, undefined, () => ({ error: "no" }));
    process.env.HF_ENDPOINT = nothing.url;
    expect((await failure(pullModel("org/repo", quick))).message).toContain("expected a list of files");
    using gone = startHost(() => ({ status: 401, body: "{}" }));
    process.env.HF_ENDPOINT = gone.url;
    expect((await failure(pullModel("org/repo", quick))).message).toContain("Set HF_TOKEN");
  });
});

test("what is asked for is read strictly", async () => {
  for (const asked of [
    "",
    "org",
    "org/repo/more",
    "org/../x",
    "../x/y",
    "org/repo:../x",
    "http://host/",
    "ftp://a/b",
  ]) {
    expect([asked, (await failure(pullModel(asked, quick))).code]).toEqual([asked, "invalid_argument"]);
  }
  for (const asked of ["https://user:pw@host/m.gguf", "https://host/%2e%2e%2f.gguf", "https://host/m.bin"]) {
    expect([asked, (await failure(pullModel(asked, quick))).code]).toEqual([asked, "invalid_argument"]);
  }
});
