/**
 * Gives a checkpoint that was handed over to whoever fetches it: the receipt, what it names, and the object's bytes in
 * ranges. No path comes from a client: what is served was opened before the first request.
 */
import { timingSafeEqual } from "node:crypto";
import { join } from "node:path";
import { sha256Bytes } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";
import { orderedJson } from "../core/json.ts";
import { type HandoffReceipt, handoffReceipt } from "./checkpoint.ts";
import { sealed, verified } from "./documents.ts";
import { findObject, type HandoffIndex, handoffIndex, OpenObject, usualChunkBytes } from "./handoff_index.ts";
import { handoffPath } from "./layout.ts";
import { staysInside } from "./names.ts";
import { fileBytes, jsonOf } from "./run_root.ts";

/** What is served, opened. */
export type Handoff = Disposable & {
  readonly receipt: HandoffReceipt;
  readonly index: HandoffIndex;
  readonly documents: ReadonlyMap<string, Uint8Array>;
  readonly object: OpenObject;
};

/** The checkpoint that the latest `serve_checkpoint` of a run root handed over. Reads without taking the run root. */
export function openHandoff(root: string, chunkBytes = usualChunkBytes): Handoff {
  const path = join(root, handoffPath);
  const bytes = fileBytes(path);
  const receipt = verified(handoffReceipt, jsonOf(bytes, path), path);
  const [pointer, manifest] = [receipt.source_checkpoint_pointer, receipt.source_checkpoint_manifest].map(
    (bound) => {
      const at = bound.materialized_path ?? "";
      if (!staysInside(at)) throw unexpected("file_malformed", path, "paths below the run root", at);
      const found = fileBytes(join(root, at));
      const expected = bound.artifact_ref.artifact_digest;
      const digest = new Bun.CryptoHasher("sha256").update(found).digest("hex");
      if (digest !== expected)
        throw unexpected("digest_mismatch", at, `SHA-256 ${expected}`, digest, {
          fix: "The run went on; hand the checkpoint over again with serve_checkpoint",
        });
      return found;
    },
  ) as [Uint8Array, Uint8Array];
  const { optimizer_step: step, checkpoint_object_digest: digest, checkpoint_total_bytes: total } = receipt;
  const objectPath = findObject(root, step, digest, total);
  if (objectPath === undefined)
    throw unexpected("file_not_found", root, `an object of ${total} bytes with SHA-256 ${digest}`, "none");
  const object = new OpenObject(join(root, objectPath));
  const { whole, chunks } = object.digests(chunkBytes);
  if (whole !== digest) {
    object[Symbol.dispose]();
    throw unexpected("digest_mismatch", objectPath, `SHA-256 ${digest}`, whole);
  }
  const index = sealed(handoffIndex, {
    ...{ receipt_digest: receipt.receipt_digest, object_path: objectPath.replace("/backups/", "/") },
    ...{ object_digest: digest, object_bytes: object.bytes, chunk_bytes: chunkBytes, chunks: [...chunks] },
  });
  const documents = new Map([
    ["receipt", bytes],
    ["pointer", pointer],
    ["manifest", manifest],
    ["index", new TextEncoder().encode(orderedJson(index))],
  ]);
  return { receipt, index, documents, object, [Symbol.dispose]: () => object[Symbol.dispose]() };
}

/** Where the parts of a handoff are asked for. */
export const handoffRoute = (part: string): string => `/v1/checkpoint-handoff/${part}`;

export type ServeOptions = {
  readonly host: string;
  /** 0: any that is free. */
  readonly port: number;
  /** What peers must send as bearer token; undefined: nothing. */
  readonly token?: string | undefined;
};

/** The caller stops it. */
export function serveHandoff(handoff: Handoff, { host, port, token }: ServeOptions): Bun.Server<undefined> {
  return Bun.serve({
    ...{ hostname: host, port, idleTimeout: 60, maxRequestBodySize: 1024 },
    fetch: (request) => answer(handoff, request, token),
    error: () => refusal(500, "the checkpoint cannot be read"),
  });
}

const refusal = (status: number, message: string, headers: Record<string, string> = {}): Response =>
  Response.json({ error: { message } }, { status, headers });

function answer(handoff: Handoff, request: Request, token: string | undefined): Response {
  if (token !== undefined && !mayRead(request, token))
    return refusal(401, "a bearer token is needed", { "www-authenticate": "Bearer" });
  if (request.method !== "GET" && request.method !== "HEAD")
    return refusal(405, "GET and HEAD alone", { allow: "GET, HEAD" });
  const { pathname } = new URL(request.url);
  if (pathname === handoffRoute("object")) return objectAnswer(handoff, request);
  for (const [part, bytes] of handoff.documents) {
    if (pathname === handoffRoute(part))
      return new Response(bytes.slice(), { headers: { "content-type": "application/json" } });
  }
  return refusal(404, "no such part of a handoff");
}

function mayRead(request: Request, token: string): boolean {
  const given = /^Bearer (.+)$/.exec(request.headers.get("authorization") ?? "")?.[1] ?? "";
  return timingSafeEqual(sha256Bytes(given), sha256Bytes(token));
}

const pieceBytes = 2 ** 20;

function objectAnswer({ object, index }: Handoff, request: Request): Response {
  const etag = `"${index.object_digest}"`;
  const headers = { "accept-ranges": "bytes", etag, "content-type": "application/octet-stream" };
  const condition = request.headers.get("if-range");
  const asked = condition === null || condition === etag ? request.headers.get("range") : null;
  const range = asked === null ? { from: 0, to: object.bytes } : rangeOf(asked, object.bytes);
  if (range === "unsatisfiable")
    return refusal(416, "no such range", { ...headers, "content-range": `bytes */${object.bytes}` });
  const { from, to } = range ?? { from: 0, to: object.bytes };
  const part = asked !== null && range !== undefined;
  return new Response(request.method === "HEAD" ? null : streamed(object, from, to), {
    status: part ? 206 : 200,
    headers: {
      ...headers,
      "content-length": String(to - from),
      ...(part && { "content-range": `bytes ${from}-${to - 1}/${object.bytes}` }),
    },
  });
}

/** One range of bytes; undefined where it is none that we know, so that the whole is sent. */
function rangeOf(text: string, size: number): { from: number; to: number } | "unsatisfiable" | undefined {
  const found = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(text.trim());
  if (!found || (found[1] === "" && found[2] === "")) return undefined;
  if (found[1] === "") {
    const last = Number(found[2]);
    return last === 0 || size === 0 ? "unsatisfiable" : { from: Math.max(0, size - last), to: size };
  }
  const from = Number(found[1]);
  const to = found[2] === "" ? size : Math.min(size, Number(found[2]) + 1);
  if (found[2] !== "" && Number(found[2]) < from) return undefined;
  return from >= size ? "unsatisfiable" : { from, to };
}

function streamed(object: OpenObject, from: number, to: number): ReadableStream<Uint8Array> {
  let at = from;
  return new ReadableStream({
    pull(controller) {
      if (at >= to) return controller.close();
      const next = Math.min(to, at + pieceBytes);
      controller.enqueue(object.read(at, next));
      at = next;
    },
  });
}
