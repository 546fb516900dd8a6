/** Pulling from a hub: redirects and tokens, choosing, revisions, lists that lie. */
import { describe, expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../core/digest.ts";
import { modelPath } from "../model_option.ts";
import { pullModel } from "./pull.ts";
import { isLocal } from "./remote.ts";
import { fileReply, startHost } from "./testing/host.ts";
import { ggufBytes, safetensorsBytes } from "./testing/models.ts";
import {
  bytesOf,
  commit,
  failure,
  hubHost,
  isProbe,
  model,
  modelHost,
  ownStore,
  quick,
} from "./testing/pulling.ts";

const store = ownStore();

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
    expect(stored.folder).toBe(join(store.home, "models", "hub", "org", "checkpoint", "checkpoint"));
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
    expect(readdirSync(join(store.home, "models", "hub", "org", "repo"))).toEqual(["m"]);
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
