import { createHash, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { unexpected } from "../../core/error.ts";
import { HttpError } from "./errors.ts";

/** SHA-256 of each key, so that a comparison takes the same time whatever was sent. */
export type ApiKeys = readonly Uint8Array[];

const minKeyLength = 8;

/** One key a line; blank lines and lines that begin with `#` do not count. */
export function parseApiKeys(text: string, where = "api key file"): ApiKeys {
  const keys = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
  if (keys.length === 0) throw unexpected("invalid_argument", where, "at least one key", "none");
  const short = keys.findIndex((key) => key.length < minKeyLength);
  if (short >= 0) {
    const got = `${keys[short]?.length} in key ${short + 1}`;
    throw unexpected("invalid_argument", where, `keys of at least ${minKeyLength} characters`, got);
  }
  return keys.map(digest);
}

export function readApiKeys(path: string): ApiKeys {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw unexpected("file_not_found", "api key file", "a readable file", path, { cause });
  }
  return parseApiKeys(text, path);
}

function digest(text: string): Uint8Array {
  return createHash("sha256").update(text).digest();
}

/** Refuses to listen beyond this machine without keys, unless that is asked for by name. */
export function checkBind(host: string, keys: ApiKeys | undefined, allowUnauthenticated: boolean): void {
  if (isLoopback(host) || (keys?.length ?? 0) > 0 || allowUnauthenticated) return;
  throw unexpected("invalid_argument", "host", "a loopback address when no API key is set", host, {
    fix: "Give --api-key-file, or --allow-unauthenticated to serve anyone who can reach this address",
  });
}

export function isLoopback(host: string): boolean {
  const name = bare(host);
  return (
    name === "localhost" || name.endsWith(".localhost") || name === "::1" || /^127(\.\d{1,3}){3}$/.test(name)
  );
}

/** A host without brackets and final dot, in lower case. */
function bare(host: string): string {
  return host
    .toLowerCase()
    .replace(/^\[|\]$/g, "")
    .replace(/\.$/, "");
}

/** The name in a Host header, without the port; undefined if it is none. */
function hostName(header: string): string | undefined {
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:[\]/?#@\s]+)(?::\d{1,5})?$/.exec(header);
  return match?.[1] === undefined ? undefined : bare(match[1]);
}

function isAddress(name: string): boolean {
  return /^\d{1,3}(\.\d{1,3}){3}$/.test(name) || (name.includes(":") && /^[0-9a-f:.]+$/.test(name));
}

export type HostRule = (header: string) => boolean;

/**
 * Which Host headers are answered. A page that rebinds its own DNS name to this machine sends that name, so only names
 * known beforehand pass: loopback, the bound address, and the configured ones. Bound to all addresses, any address
 * literal passes too, since no foreign name hides behind one.
 */
export function hostRule(boundHost: string, allowedHosts: readonly string[]): HostRule {
  const wrong = allowedHosts.find((name) => hostName(name) !== bare(name) && !isAddress(bare(name)));
  if (wrong !== undefined) {
    throw unexpected("invalid_argument", "allowed-host", "a name as in a URL, without port and path", wrong);
  }
  const bound = bare(boundHost);
  const everywhere = bound === "0.0.0.0" || bound === "::";
  const names = new Set([bound, ...allowedHosts.map(bare)]);
  if (everywhere) names.add(bare(hostname()));
  return (header) => {
    const name = hostName(header);
    if (name === undefined) return false;
    return names.has(name) || isLoopback(name) || (everywhere && isAddress(name));
  };
}

export function checkHost(rule: HostRule, host: string): void {
  if (rule(host)) return;
  throw new HttpError(
    403,
    "This server does not answer to that host name. Start it with --allowed-host to add a name.",
    {
      type: "permission_error",
      code: "host_not_allowed",
    },
  );
}

export type CorsRule = { readonly origins: ReadonlySet<string>; readonly any: boolean };

/** Throws `invalid_argument` for what no browser sends as an origin: it would allow nothing, without a word. */
export function corsRule(origins: readonly string[]): CorsRule {
  const wrong = origins.find((o) => o !== "*" && o !== "null" && !/^[a-z][a-z0-9+.-]*:\/\/[^\s/]+$/i.test(o));
  if (wrong !== undefined) {
    throw unexpected("invalid_argument", "cors-origin", "an origin like https://app.example, or *", wrong);
  }
  return { origins: new Set(origins.map((o) => o.toLowerCase())), any: origins.includes("*") };
}

const exposed =
  "x-request-id, x-psionic-ignored, x-psionic-backend, x-psionic-prefix-cache-state, retry-after";

/**
 * Headers for an answer to a page. Throws 403 for a page of another origin that is not on the list: without that, a
 * foreign page could start work here by a form post, which asks for no permission first.
 */
export function corsHeaders(rule: CorsRule, request: Request, host: string): Record<string, string> {
  const origin = request.headers.get("origin");
  if (origin === null) return { vary: "origin" };
  const own = origin === `http://${host}` || origin === `https://${host}`;
  if (!own && !rule.any && !rule.origins.has(origin.toLowerCase())) {
    throw new HttpError(
      403,
      "Requests from this origin are not allowed. Start the server with --cors-origin to add it.",
      {
        type: "permission_error",
        code: "origin_not_allowed",
        headers: { vary: "origin" },
      },
    );
  }
  return {
    vary: "origin",
    "access-control-allow-origin": rule.any ? "*" : origin,
    "access-control-expose-headers": exposed,
  };
}

/** Answer to a browser's question before the request; `cors` are the headers of `corsHeaders`. */
export function preflight(request: Request, cors: Record<string, string>, allow: string): Response {
  const asked = request.headers.get("access-control-request-headers");
  const names =
    asked
      ?.split(",")
      .map((name) => name.trim())
      .filter((name) => /^[\w-]{1,64}$/.test(name)) ?? [];
  return new Response(null, {
    status: 204,
    headers: {
      ...cors,
      "access-control-allow-methods": allow,
      "access-control-allow-headers": [
        "authorization",
        "content-type",
        "x-api-key",
        ...names.slice(0, 32),
      ].join(", "),
      "access-control-max-age": "600",
    },
  });
}

/** The place of the caller's key in the list, or undefined where no keys are set. Throws 401. */
export function checkKey(keys: ApiKeys | undefined, request: Request): number | undefined {
  if (!keys || keys.length === 0) return undefined;
  const sent = sentKey(request);
  const found = sent === undefined ? -1 : findKey(keys, sent);
  if (found >= 0) return found;
  const message =
    sent === undefined ? "An API key is required: send it as a bearer token." : "The API key is not valid.";
  throw new HttpError(401, message, {
    type: "authentication_error",
    code: "invalid_api_key",
    headers: { "www-authenticate": "Bearer" },
  });
}

function sentKey(request: Request): string | undefined {
  const bearer = /^bearer\s+(.+)$/i.exec(request.headers.get("authorization") ?? "");
  return bearer?.[1]?.trim() ?? request.headers.get("x-api-key")?.trim() ?? undefined;
}

/** Looks at every key, so that the time does not tell which one matched. */
function findKey(keys: ApiKeys, sent: string): number {
  const hash = digest(sent);
  let found = -1;
  keys.forEach((key, i) => {
    if (timingSafeEqual(key, hash)) found = i;
  });
  return found;
}
