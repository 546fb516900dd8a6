import type { ModelSet } from "../../models/set.ts";
import type { ServedModel, ServerOptions } from "../options.ts";
import { type RunningServer, startServer } from "../server.ts";

export type TestServer = RunningServer & {
  readonly lines: string[];
  readonly errors: unknown[];
  readonly post: (path: string, body: unknown, init?: RequestInit) => Promise<Response>;
  readonly get: (path: string, headers?: Record<string, string>) => Promise<Response>;
} & AsyncDisposable;

/** A server on a free port that keeps its log lines. */
export async function testServer(
  model: ServedModel | Promise<ServedModel> | ModelSet,
  options: ServerOptions = {},
): Promise<TestServer> {
  const lines: string[] = [];
  const errors: unknown[] = [];
  const server = await startServer(model, {
    port: 0,
    log: (line) => lines.push(line),
    onError: (error) => errors.push(error),
    ...options,
  });
  return {
    ...server,
    lines,
    errors,
    post: (path, body, init = {}) =>
      fetch(server.url + path, {
        method: "POST",
        body: typeof body === "string" ? body : JSON.stringify(body),
        ...init,
        headers: { "content-type": "application/json", ...(init.headers as Record<string, string>) },
      }),
    get: (path, headers = {}) => fetch(server.url + path, { headers }),
    [Symbol.asyncDispose]: () => server.stop({ force: true }),
  };
}

/** The data of every event of a stream; comments as `: text`. */
export function sseData(text: string): string[] {
  return text
    .split("\n\n")
    .filter((block) => block !== "")
    .map((block) => block.replace(/^data: /, ""));
}

/** Waits until `condition` holds; fails after half a minute, as machines are shared. */
export async function until(condition: () => boolean): Promise<void> {
  const limit = performance.now() + 30_000;
  while (!condition()) {
    if (performance.now() > limit) throw new Error("the condition did not come true within half a minute");
    await Bun.sleep(2);
  }
}
