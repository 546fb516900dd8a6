import { isIP } from "node:net";
import { PsionicError, unexpected } from "../../core/error.ts";
import { version } from "../../core/version.ts";

/** How a pull talks to other hosts. */
export type RemoteSettings = {
  /** Sent to `tokenOrigin` alone. */
  readonly token?: string | undefined;
  readonly tokenOrigin?: string | undefined;
  /** A host that sends nothing for so long is left, milliseconds. */
  readonly stallMs: number;
  /** Failures in a row, without a byte in between, after which the pull gives up. */
  readonly attempts: number;
  /** First pause between two attempts, milliseconds; doubled each time. */
  readonly pauseMs: number;
  readonly signal: AbortSignal;
};

export const defaultRemote = { stallMs: 30_000, attempts: 6, pauseMs: 500 } as const;

/** Longest wait that a host may ask for, and longest pause of our own, milliseconds. */
const longestRetryAfterMs = 300_000;
const longestPauseMs = 20_000;
const mostRedirects = 5;

/** A failure after which it is worth trying again. */
export class PassingFailure extends Error {
  /** What the host asked for, milliseconds. */
  readonly waitMs: number | undefined;

  constructor(message: string, waitMs?: number) {
    super(message);
    this.name = "PassingFailure";
    this.waitMs = waitMs;
  }
}

/** An answer whose status was checked, with the address that gave it after redirects. */
export type RemoteAnswer = {
  readonly response: Response;
  readonly url: URL;
  /** Bytes of the body as they come; ends the request when left. Throws `PassingFailure` when they stop coming. */
  readonly body: () => AsyncGenerator<Uint8Array, void, void>;
  /** Ends the request. */
  readonly leave: () => void;
};

/**
 * Asks for an address. Redirects are followed by hand: the token stays with its own host, https does not become http, and
 * a host of the internet cannot send us to one of the local network. Statuses become errors: 401 and 403 `unauthorized`,
 * 404 `model_not_found`, 429 and 5xx `PassingFailure` with the wait that was asked for.
 */
export async function ask(
  start: URL,
  headers: Readonly<Record<string, string>>,
  settings: RemoteSettings,
  accept: readonly number[] = [200],
): Promise<RemoteAnswer> {
  let url = start;
  for (let hop = 0; hop <= mostRedirects; hop++) {
    const answer = await askOnce(url, headers, settings);
    const { status } = answer.response;
    if (accept.includes(status)) return answer;
    answer.leave();
    const location = answer.response.headers.get("location");
    if (status < 300 || status >= 400 || status === 304 || !location) throw statusError(answer, settings);
    url = redirected(url, location);
  }
  throw unexpected("network_failed", start.host, `at most ${mostRedirects} redirects`, "more");
}

async function askOnce(
  url: URL,
  headers: Readonly<Record<string, string>>,
  settings: RemoteSettings,
): Promise<RemoteAnswer> {
  const { token, tokenOrigin, stallMs, signal } = settings;
  const stop = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const watch = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => stop.abort(), stallMs);
  };
  const leave = (): void => {
    clearTimeout(timer);
    stop.abort();
  };
  const failed = (error: unknown): Error => {
    clearTimeout(timer);
    if (signal.aborted) return cancelled();
    if (stop.signal.aborted) return new PassingFailure(`${url.host} sent nothing for ${stallMs / 1000} s`);
    return new PassingFailure(`${url.host}: ${error instanceof Error ? error.message : String(error)}`);
  };
  const auth: Record<string, string> =
    token && url.origin === tokenOrigin ? { authorization: `Bearer ${token}` } : {};
  watch();
  let response: Response;
  try {
    response = await fetch(url, {
      redirect: "manual",
      decompress: false,
      // digests and ranges are of the bytes as they are
      headers: { "user-agent": `psionic/${version}`, "accept-encoding": "identity", ...headers, ...auth },
      signal: AbortSignal.any([stop.signal, signal]),
    });
  } catch (error) {
    throw failed(error);
  }
  clearTimeout(timer);
  async function* body(): AsyncGenerator<Uint8Array, void, void> {
    watch();
    try {
      for await (const bytes of response.body ?? []) {
        watch();
        yield bytes as Uint8Array;
        watch();
      }
    } catch (error) {
      throw failed(error);
    } finally {
      leave();
    }
  }
  return { response, url, body, leave };
}

function redirected(from: URL, location: string): URL {
  const to = URL.parse(location, from);
  const http = to?.protocol === "http:" || to?.protocol === "https:";
  if (!to || !http) throw unexpected("network_failed", from.host, "a redirect to a web address", location);
  if (from.protocol === "https:" && to.protocol === "http:") {
    throw unexpected("network_failed", from.host, "a redirect that stays with https", to.origin);
  }
  if (isLocal(to.hostname) && !isLocal(from.hostname)) {
    throw unexpected("network_failed", from.host, "a redirect that stays on the internet", to.origin);
  }
  return to;
}

/** Names and addresses of this machine and of local networks. */
export function isLocal(hostname: string): boolean {
  const name = hostname.replace(/^\[|\]$/g, "").toLowerCase();
  if (name === "localhost" || /\.(localhost|local|internal|home|lan)$/.test(name)) return true;
  if (isIP(name) === 6) {
    const mapped = /^::ffff:([0-9a-f]+):([0-9a-f]+)$/.exec(name);
    if (mapped) return isLocal(fromWords(Number.parseInt(mapped[1]!, 16), Number.parseInt(mapped[2]!, 16)));
    return name === "::1" || name === "::" || /^(fc|fd|fe[89ab])/.test(name);
  }
  if (isIP(name) !== 4) return false;
  const [a = 0, b = 0] = name.split(".").map(Number);
  return (
    [0, 10, 127].includes(a) ||
    (a === 169 && b === 254) ||
    (a === 172 && b >= 16 && b < 32) ||
    (a === 192 && b === 168) ||
    (a === 100 && b >= 64 && b < 128)
  );
}

function fromWords(high: number, low: number): string {
  return [high >> 8, high & 255, low >> 8, low & 255].join(".");
}

function tokenAdvice(url: URL, { token, tokenOrigin }: RemoteSettings): string {
  if (url.origin !== tokenOrigin) return "No token is sent there, for HF_TOKEN is the hub's alone";
  return token
    ? "The token in HF_TOKEN may not read this; the owner may want you to accept terms on the page first"
    : "Set HF_TOKEN to a token that may read it; a repository that does not exist is answered so too";
}

function statusError({ response, url }: RemoteAnswer, settings: RemoteSettings): Error {
  const { status } = response;
  if (status === 401 || status === 403) {
    const fix = tokenAdvice(url, settings);
    return unexpected("unauthorized", url.host, "leave to read this", `status ${status}`, {
      fix,
      details: { status },
    });
  }
  if (status === 404 || status === 410) {
    return unexpected(
      "model_not_found",
      url.host,
      "something there",
      `status ${status} for ${url.pathname}`,
      {
        details: { status },
      },
    );
  }
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    const waitMs = retryAfterMs(response.headers.get("retry-after"));
    return new PassingFailure(`${url.host} answered ${status}`, waitMs);
  }
  return unexpected("network_failed", url.host, "the file", `status ${status}`, { details: { status } });
}

/** Seconds, or a date. */
export function retryAfterMs(header: string | null, now = Date.now()): number | undefined {
  if (header === null) return undefined;
  if (/^\d+$/.test(header.trim())) return Number(header) * 1000;
  const date = Date.parse(header);
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/**
 * Does something until it is done. Between failures it waits as asked, or longer each time; a success of part of the work
 * (`progress` called) begins the count anew.
 */
export async function persevere<T>(
  act: (progress: () => void) => Promise<T>,
  { attempts, pauseMs, signal }: RemoteSettings,
): Promise<T> {
  let failures = 0;
  for (;;) {
    try {
      return await act(() => {
        failures = 0;
      });
    } catch (error) {
      if (!(error instanceof PassingFailure)) throw error;
      failures += 1;
      const { waitMs } = error;
      if (waitMs !== undefined && waitMs > longestRetryAfterMs) {
        throw gaveUp(`${error.message} and asks to wait ${Math.ceil(waitMs / 1000)} s`, failures, error);
      }
      if (failures >= attempts) throw gaveUp(error.message, failures, error);
      const pause = Math.min(longestPauseMs, pauseMs * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
      await sleep(Math.max(waitMs ?? 0, waitMs === undefined ? pause : 0), signal);
    }
  }
}

function gaveUp(reason: string, failures: number, cause: Error): PsionicError {
  return unexpected("network_failed", "pull", "the host to go on", `${reason}, ${failures} times in a row`, {
    fix: "Run the same command again: what is there already is kept",
    cause,
  });
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(cancelled());
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

export function cancelled(): PsionicError {
  return new PsionicError("cancelled", "[pull] stopped; the same command goes on from here");
}

/** A JSON document of at most `mostBytes`. */
export async function askJson(url: URL, settings: RemoteSettings, mostBytes = 2 ** 25): Promise<unknown> {
  return persevere(async () => {
    const answer = await ask(url, { accept: "application/json" }, settings);
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const bytes of answer.body()) {
      size += bytes.length;
      if (size > mostBytes)
        throw unexpected("network_failed", url.host, `at most ${mostBytes} bytes`, "more");
      parts.push(bytes);
    }
    try {
      return JSON.parse(Buffer.concat(parts).toString("utf8"));
    } catch {
      throw new PassingFailure(`${url.host} answered with something other than JSON`);
    }
  }, settings);
}
