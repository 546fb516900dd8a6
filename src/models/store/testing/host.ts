/** A web host of its own for tests: what it sends, when it breaks off and what it lies about is up to each reply. */
import type { Socket } from "bun";

export type HostRequest = {
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: Headers;
  /** How many requests for this path and range came before. */
  readonly earlier: number;
};

export type HostReply = {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string;
  /** The connection is closed after so many bytes of the body. */
  readonly dropAfter?: number;
  /** Nothing more comes after so many bytes of the body; the connection stays open. */
  readonly stallAfter?: number;
  /** Said instead of the body's length. */
  readonly claimedLength?: number | null;
};

export type Host = Disposable & {
  readonly url: string;
  readonly origin: string;
  /** `path range` of every request, in order. */
  readonly requests: string[];
  readonly seen: HostRequest[];
};

/** Listens on a free port of loopback; one reply per connection. */
export function startHost(reply: (request: HostRequest) => HostReply | Promise<HostReply>): Host {
  const requests: string[] = [];
  const seen: HostRequest[] = [];
  const listener = Bun.listen<Connection>({
    hostname: "127.0.0.1",
    port: 0,
    socket: {
      open(socket) {
        socket.data = { text: "", out: new Uint8Array(0), closes: false, dropped: false };
      },
      async data(socket, bytes) {
        socket.data.text += bytes.toString("latin1");
        if (!socket.data.text.includes("\r\n\r\n")) return;
        const [line = "", ...lines] = socket.data.text.split("\r\n\r\n")[0]!.split("\r\n");
        const target = new URL(line.split(" ")[1] ?? "/", "http://host");
        const headers = new Headers();
        for (const text of lines)
          headers.append(text.split(":")[0]!, text.slice(text.indexOf(":") + 1).trim());
        const key = `${target.pathname} ${headers.get("range") ?? "all"}`;
        const earlier = requests.filter((one) => one === key).length;
        const request = {
          path: decodeURIComponent(target.pathname),
          query: target.searchParams,
          headers,
          earlier,
        };
        requests.push(key);
        seen.push(request);
        send(socket, await reply(request));
      },
      drain: flush,
    },
  });
  const origin = `http://127.0.0.1:${listener.port}`;
  return { url: origin, origin, requests, seen, [Symbol.dispose]: () => listener.stop(true) };
}

type Connection = { text: string; out: Uint8Array; closes: boolean; dropped: boolean };
type HostSocket = Socket<Connection>;

/** What was sent before a connection breaks off has arrived by then. */
const dropMs = 20;

function send(socket: HostSocket, reply: HostReply): void {
  const body = typeof reply.body === "string" ? Buffer.from(reply.body) : (reply.body ?? new Uint8Array(0));
  const cut = Math.min(reply.dropAfter ?? Infinity, reply.stallAfter ?? Infinity, body.length);
  const length = reply.claimedLength === undefined ? body.length : reply.claimedLength;
  const head = [
    `HTTP/1.1 ${reply.status ?? 200} Status`,
    "connection: close",
    ...(length === null ? [] : [`content-length: ${length}`]),
    ...Object.entries(reply.headers ?? {}).map(([name, value]) => `${name}: ${value}`),
    "\r\n",
  ].join("\r\n");
  socket.data.out = Buffer.concat([Buffer.from(head), body.subarray(0, cut)]);
  socket.data.closes = reply.stallAfter === undefined;
  socket.data.dropped = reply.dropAfter !== undefined;
  flush(socket);
}

function flush(socket: HostSocket): void {
  const { data } = socket;
  const sent = Math.max(0, socket.write(data.out));
  data.out = data.out.subarray(sent);
  if (data.out.length > 0 || !data.closes) return;
  if (data.dropped) setTimeout(() => socket.end(), dropMs);
  else socket.end();
}

export type FileReplyOptions = {
  readonly etag?: string;
  readonly ranges?: boolean;
  readonly headers?: Readonly<Record<string, string>>;
};

/** What an honest host answers for a file. */
export function fileReply(
  request: HostRequest,
  bytes: Uint8Array,
  options: FileReplyOptions = {},
): HostReply {
  const { etag, ranges = true, headers = {} } = options;
  const common = { ...headers, ...(etag === undefined ? {} : { etag: `"${etag}"` }) };
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get("range") ?? "");
  if (!range || !ranges) return { status: 200, headers: common, body: bytes };
  const from = Number(range[1]);
  const to = Math.min(Number(range[2]), bytes.length - 1);
  if (from >= bytes.length)
    return { status: 416, headers: { ...common, "content-range": `bytes */${bytes.length}` } };
  const part = bytes.subarray(from, to + 1);
  return {
    status: 206,
    headers: { ...common, "content-range": `bytes ${from}-${to}/${bytes.length}` },
    body: part,
  };
}
