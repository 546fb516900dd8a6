/** A small S3-compatible store for tests: objects in memory, signatures checked, faults on demand. */
import { createHmac } from "node:crypto";
import { sha256 } from "../../core/digest.ts";

export type Faults = {
  /** Answers 403 whatever the signature. */
  forbidden?: boolean;
  /** A bit of each object whose key holds this text is another one when it is given back. */
  corrupt?: string;
  /** The server goes away within an object whose key holds this text, when it is given back. */
  breakOff?: string;
  /** The server goes away when an object whose key holds this text comes in. */
  vanish?: string;
};

const [accessKey, secretKey, region] = ["peer-key", "peer-secret", "eu-test-1"];

export class S3Peer implements AsyncDisposable {
  readonly objects = new Map<string, Uint8Array>();
  readonly methods: string[] = [];
  faults: Faults = {};
  readonly #parts = new Map<string, Map<number, Uint8Array>>();
  readonly #server: Bun.Server<undefined>;

  constructor() {
    this.#server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: (request) => this.#answer(request) });
  }

  /** What a client needs in its environment. */
  get environment() {
    return {
      ...{ AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: secretKey, AWS_REGION: region },
      AWS_ENDPOINT: `http://127.0.0.1:${this.#server.port}`,
    };
  }

  async #answer(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const body = new Uint8Array(await request.arrayBuffer());
    this.methods.push(`${request.method} ${url.pathname}`);
    if (this.faults.forbidden || !signed(request, url)) return failed(403, "AccessDenied");
    const key = decodeURIComponent(url.pathname.slice(1));
    const hits = (text: string | undefined): boolean => text !== undefined && key.includes(text);
    if (request.method === "PUT" && hits(this.faults.vanish)) {
      await this.#server.stop(true);
      return failed(500, "Gone");
    }
    const upload = url.searchParams.get("uploadId");
    if (request.method === "POST" && url.searchParams.has("uploads")) return this.#begin(key);
    if (request.method === "PUT" && upload !== null) {
      this.#parts.get(upload)?.set(Number(url.searchParams.get("partNumber")), body);
      return new Response("", { headers: { ETag: `"${sha256(body).slice(0, 32)}"` } });
    }
    if (request.method === "POST" && upload !== null) return this.#complete(key, upload);
    if (request.method === "PUT") {
      this.objects.set(key, body);
      return new Response("", { headers: { ETag: '"one"' } });
    }
    const found = this.objects.get(key);
    if (!found) return failed(404, "NoSuchKey");
    if (request.method === "HEAD")
      return new Response(null, { headers: { "content-length": String(found.length) } });
    if (hits(this.faults.breakOff)) return this.#broken(found);
    const given = found.slice();
    if (hits(this.faults.corrupt)) given[given.length >> 1]! ^= 1;
    return new Response(given);
  }

  /** Half of the bytes, then the end of the server. */
  #broken(bytes: Uint8Array): Response {
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => {
        controller.enqueue(bytes.slice(0, bytes.length >> 1));
        setTimeout(() => void this.#server.stop(true), 20);
      },
    });
    return new Response(stream, { headers: { "content-length": String(bytes.length) } });
  }

  #begin(key: string): Response {
    const id = `upload-${this.#parts.size}`;
    this.#parts.set(id, new Map());
    return xml(
      `<InitiateMultipartUploadResult><Key>${key}</Key><UploadId>${id}</UploadId></InitiateMultipartUploadResult>`,
    );
  }

  #complete(key: string, upload: string): Response {
    const parts = [...(this.#parts.get(upload) ?? [])].sort(([a], [b]) => a - b).map(([, bytes]) => bytes);
    this.objects.set(key, new Uint8Array(Buffer.concat(parts)));
    return xml(
      `<CompleteMultipartUploadResult><Key>${key}</Key><ETag>"all"</ETag></CompleteMultipartUploadResult>`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.stop(true);
  }
}

const xml = (text: string): Response =>
  new Response(`<?xml version="1.0"?>${text}`, { headers: { "content-type": "application/xml" } });

const failed = (status: number, code: string): Response =>
  new Response(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>no</Message></Error>`, { status });

/** AWS's signature, version 4, of the request as it came. */
function signed(request: Request, url: URL): boolean {
  const found =
    /Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})/.exec(
      request.headers.get("authorization") ?? "",
    );
  if (!found || found[1] !== accessKey || found[3] !== region) return false;
  const [, , date, , names, signature] = found;
  const headers = names!.split(";").map((name) => `${name}:${(request.headers.get(name) ?? "").trim()}\n`);
  const query = [...url.searchParams]
    .map(([k, v]) => `${encodeURIComponent(k)}=${encodeURIComponent(v)}`)
    .sort()
    .join("&");
  const payload = request.headers.get("x-amz-content-sha256") ?? "UNSIGNED-PAYLOAD";
  const canonical = [request.method, url.pathname, query, headers.join(""), names, payload].join("\n");
  const scope = `${date}/${region}/s3/aws4_request`;
  const text = ["AWS4-HMAC-SHA256", request.headers.get("x-amz-date") ?? "", scope, sha256(canonical)].join(
    "\n",
  );
  const hmac = (key: string | Buffer, data: string): Buffer =>
    createHmac("sha256", key).update(data).digest();
  const key = [region, "s3", "aws4_request"].reduce<Buffer>(hmac, hmac(`AWS4${secretKey}`, date!));
  return hmac(key, text).toString("hex") === signature;
}
