/** A page for people at this machine: served on loopback alone until the process is told to end. */

/** What stands at a path; asked for at each request, and what it throws is told as `{error: {message}}`. */
export type LiveFile = {
  readonly type: "text/html" | "application/json" | "image/svg+xml" | "image/png";
  read(): string | Uint8Array<ArrayBuffer>;
};

const guard = {
  "cache-control": "no-store",
  "content-security-policy":
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src 'self'",
  "x-content-type-options": "nosniff",
};

/** On loopback alone, and only under its names, so that no page of the web can read it; the caller stops it. */
export function serveLive(files: Readonly<Record<string, LiveFile>>, port: number): Bun.Server<undefined> {
  return Bun.serve({
    ...{ hostname: "127.0.0.1", port },
    fetch(request) {
      const { pathname, hostname } = new URL(request.url);
      if (!["127.0.0.1", "localhost"].includes(hostname)) return new Response("not here", { status: 403 });
      if (request.method !== "GET")
        return new Response("GET alone", { status: 405, headers: { allow: "GET" } });
      const file = Object.hasOwn(files, pathname) ? files[pathname] : undefined;
      return file ? answer(file) : new Response("no such page", { status: 404 });
    },
  });
}

function answer({ type, read }: LiveFile): Response {
  try {
    return new Response(read(), { headers: { ...guard, "content-type": type } });
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    return Response.json({ error: { message } }, { status: 500, headers: guard });
  }
}

/** Ctrl-C or SIGTERM. */
export function stopped(): Promise<void> {
  return new Promise((done) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => done());
  });
}
