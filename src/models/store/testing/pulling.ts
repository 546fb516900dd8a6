/** What tests of pulling share: a model, hosts that have it, and a store of their own. */
import { afterEach, beforeEach } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { sha256 } from "../../../core/digest.ts";
import type { PsionicError } from "../../../core/error.ts";
import type { PullOptions } from "../pull.ts";
import { fileReply, type Host, type HostReply, type HostRequest, startHost } from "./host.ts";
import { ggufBytes } from "./models.ts";

export const chunkBytes = 64 * 1024;
export const model = ggufBytes(5 * chunkBytes + 1000);
export const chunks = Math.ceil(model.length / chunkBytes);
export const quick: PullOptions = {
  ...{ chunkBytes, connections: 3 },
  remote: { stallMs: 250, attempts: 4, pauseMs: 1 },
};

const variables = ["PSIONIC_HOME", "HF_ENDPOINT", "HF_TOKEN", "XDG_CACHE_HOME"] as const;

export async function failure(promise: Promise<unknown>): Promise<PsionicError> {
  return promise.then(
    () => Promise.reject(new Error("expected a failure")),
    (error: unknown) => error as PsionicError,
  );
}

export const bytesOf = (path: string) => new Uint8Array(readFileSync(path));
export const rangesOf = (host: Host, path: string) =>
  host.requests.filter((one) => one.startsWith(`${path} bytes=`) && !one.endsWith(" bytes=0-0"));
export const rangeOf = (chunk: number) =>
  `bytes=${chunk * chunkBytes}-${Math.min(model.length, (chunk + 1) * chunkBytes) - 1}`;

/** A host with the model at /model.gguf, which `change` may answer for otherwise. */
export function modelHost(
  change: (request: HostRequest, honest: HostReply) => HostReply = (_, honest) => honest,
): Host {
  return startHost((request) => change(request, fileReply(request, model, { etag: "one" })));
}

/** The beginning of a range that was asked for; -1 for none. */
export const startOf = ({ headers }: HostRequest) =>
  Number(/^bytes=(\d+)-/.exec(headers.get("range") ?? "")?.[1] ?? -1);
export const isProbe = ({ headers }: HostRequest) => headers.get("range") === "bytes=0-0";

/** Gives each test an empty store and no token; the result has its folder. */
export function ownStore(): { readonly home: string } {
  let home = "";
  let before: Record<string, string | undefined> = {};
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
  return {
    get home() {
      return home;
    },
  };
}

export const commit = "c0ffee".padEnd(40, "0");

/** A hub with one repository; `resolve` may answer for file contents. */
export function hubHost(
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
