import type { Route, RouteContext } from "../context.ts";
import { badField, json } from "../errors.ts";
import { type ManagementEvent, managementStatus } from "../management.ts";
import { sseBody, sseEvent, sseHeaders } from "../sse.ts";

export const status: Route = {
  method: "GET",
  path: "/psionic/management/status",
  handle: ({ state }) => json(managementStatus(state)),
};

/** Samples of the load and the log of requests: what has changed since the cursor `after`. */
export const activity: Route = {
  method: "GET",
  path: "/psionic/management/activity",
  handle: ({ state, request }) => {
    const after = new URL(request.url).searchParams.get("after") ?? "0";
    if (!/^\d{1,15}$/.test(after))
      throw badField("after", "the cursor of an earlier answer", "something else");
    return json(state.activity.since(Number(after)));
  },
};

/** A snapshot, then every request as it is taken in, until the client leaves. */
export const events: Route = {
  method: "GET",
  path: "/psionic/management/events",
  handle: (context) => {
    context.allowSilence();
    const finish = context.keepOpen();
    const gone = new AbortController();
    const body = sseBody(lines(context, AbortSignal.any([context.signal, gone.signal]), finish), {
      pingMs: context.state.settings.pingMs,
      onGone: () => {
        gone.abort();
        finish({ gone: true });
      },
    });
    return new Response(body, { headers: sseHeaders });
  },
};

/** Events that a client has not read yet; beyond them the oldest are dropped, and their numbers show the gap. */
const maxWaiting = 256;

async function* lines(
  { state }: RouteContext,
  signal: AbortSignal,
  finish: () => void,
): AsyncGenerator<string, void, void> {
  const waiting: ManagementEvent[] = [state.events.snapshot(state)];
  let wake = (): void => {};
  let ended = state.draining();
  const stop = state.events.listen((event) => {
    if (event) waiting.push(event);
    else ended = true;
    if (waiting.length > maxWaiting) waiting.shift();
    wake();
  });
  const aborted = (): void => wake();
  signal.addEventListener("abort", aborted);
  try {
    while (!signal.aborted) {
      const next = waiting.shift();
      if (!next && ended) return;
      if (next) {
        yield `id: ${next.event_id}\nevent: ${next.payload.kind}\n${sseEvent(next)}`;
        continue;
      }
      await new Promise<void>((resolve) => {
        wake = resolve;
        if (signal.aborted || ended || waiting.length > 0) resolve();
      });
    }
  } finally {
    signal.removeEventListener("abort", aborted);
    stop();
    finish();
  }
}
