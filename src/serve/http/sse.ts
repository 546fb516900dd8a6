const encoder = new TextEncoder();

/** One event of a `text/event-stream`. */
export function sseEvent(data: unknown): string {
  // JSON text has no raw line break, so one data line always suffices.
  return `data: ${JSON.stringify(data)}\n\n`;
}

/** An event with a name, as the Responses API and Anthropic's send them; the name is the data's type. */
export function namedEvent(data: { readonly type: string }): string {
  return `event: ${data.type}\n${sseEvent(data)}`;
}

export const sseDone = "data: [DONE]\n\n";

/** A comment: clients skip it, but it keeps connections open. */
export const ssePing = ": ping\n\n";

export type SseOptions = {
  /** Longest silence before a comment is sent, milliseconds. */
  readonly pingMs: number;
  /** The client has gone; called at most once. */
  readonly onGone: () => void;
};

/**
 * A response body that pulls `events` only as fast as the client reads, with comments in long silences. `events` must
 * not throw: what goes wrong after the headers is an event too.
 */
export function sseBody(events: AsyncIterator<string>, options: SseOptions): ReadableStream<Uint8Array> {
  let last = performance.now();
  let ping: ReturnType<typeof setInterval> | undefined;
  const stop = (): void => clearInterval(ping);
  return new ReadableStream<Uint8Array>({
    start(controller) {
      ping = setInterval(
        () => {
          // A client that does not read has a full buffer; it needs no comments.
          if (performance.now() - last < options.pingMs || (controller.desiredSize ?? 0) <= 0) return;
          last = performance.now();
          controller.enqueue(encoder.encode(ssePing));
        },
        Math.max(20, options.pingMs / 4),
      );
    },
    async pull(controller) {
      const next = await events.next();
      if (next.done) {
        stop();
        controller.close();
        return;
      }
      last = performance.now();
      controller.enqueue(encoder.encode(next.value));
    },
    async cancel() {
      stop();
      options.onGone();
      await events.return?.();
    },
  });
}

export const sseHeaders = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-cache",
  // Asks nginx and its like not to collect the stream.
  "x-accel-buffering": "no",
} as const;
