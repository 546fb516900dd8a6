/**
 * A client of streamed answers that costs little itself: one connection that stays open, the request written as one piece, times
 * taken where its first byte is given to the socket and where an event has been received.
 */
import type { Socket } from "bun";

export type StreamedAnswer = {
  /** From the request's first byte to the first event. */
  readonly firstEventMs: number;
  readonly status: number;
  /** Of the body, its chunks' frames among it. */
  readonly text: string;
};

type Waiting = { readonly take: (text: string) => void; readonly fail: (error: Error) => void };

export class SseClient {
  private readonly socket: Socket;
  private waiting: Waiting | undefined;
  /** What the socket has not taken yet. */
  private unsent: Uint8Array = new Uint8Array(0);

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setNoDelay(true);
  }

  static async open(url: string): Promise<SseClient> {
    const { hostname, port } = new URL(url);
    let client: SseClient | undefined;
    const ended = () => client?.waiting?.fail(new Error("the server closed the connection"));
    const socket = await Bun.connect({
      ...{ hostname, port: Number(port) },
      socket: {
        data: (_, bytes) => client?.waiting?.take(bytes.toString("latin1")),
        drain: () => client?.flush(),
        close: ended,
        error: ended,
      },
    });
    client = new SseClient(socket);
    return client;
  }

  /** Sends a JSON body, of ASCII, and waits for the end of the answer. One at a time. */
  async post(path: string, body: string): Promise<StreamedAnswer> {
    const head = `POST ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n`;
    this.unsent = Buffer.from(`${head}Content-Length: ${body.length}\r\n\r\n${body}`);
    let text = "";
    let firstEventMs = Number.NaN;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const take = (more: string) => {
      text += more;
      if (Number.isNaN(firstEventMs) && text.includes("\ndata:")) firstEventMs = performance.now() - start;
      if (isWhole(text)) resolve();
    };
    this.waiting = { take, fail: reject };
    const start = performance.now();
    this.flush();
    await promise;
    this.waiting = undefined;
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]);
    return { firstEventMs, status, text: text.slice(text.indexOf("\r\n\r\n") + 4) };
  }

  close(): void {
    this.waiting = undefined;
    this.socket.end();
  }

  private flush(): void {
    this.unsent = this.unsent.subarray(this.socket.write(this.unsent));
  }
}

/** Whether an answer in chunks has ended, or one whose length was told, as refusals are. */
function isWhole(text: string): boolean {
  if (text.endsWith("\r\n0\r\n\r\n")) return true;
  const head = text.indexOf("\r\n\r\n");
  const length = head < 0 ? undefined : /^content-length: (\d+)/im.exec(text.slice(0, head))?.[1];
  return length !== undefined && text.length >= head + 4 + Number(length);
}
