/** Many streams at once, over sockets of their own: `fetch` would wait with all beyond the 256th. */
import { connect } from "node:net";

export type StreamResult = {
  readonly status: number;
  readonly text: string;
  /** Whether `[DONE]` came. */
  readonly done: boolean;
  readonly firstTokenMs: number;
  /** Times between tokens, milliseconds. */
  readonly gapsMs: readonly number[];
};

/** Streams one text completion for each body, all at once; rejects when a connection breaks. */
export function streamAll(url: string, bodies: readonly object[]): Promise<StreamResult[]> {
  return Promise.all(bodies.map((body) => streamOne(url, body)));
}

function streamOne(url: string, body: object): Promise<StreamResult> {
  const { hostname, port } = new URL(url);
  const payload = JSON.stringify({ ...body, stream: true });
  const head = [
    ...["POST /v1/completions HTTP/1.1", `Host: ${hostname}:${port}`, "Content-Type: application/json"],
    ...[`Content-Length: ${Buffer.byteLength(payload)}`, "Connection: close", "", ""],
  ].join("\r\n");
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const parts: Buffer[] = [];
    const times: number[] = [];
    const socket = connect(Number(port), hostname, () => socket.write(head + payload));
    socket.on("data", (received) => {
      const data = Buffer.from(received);
      parts.push(data);
      // the server sends an event at a time; those that arrive together were made together
      const count = data.toString("latin1").split('data: {"id"').length - 1;
      for (let i = 0; i < count; i++) times.push(performance.now());
    });
    socket.once("error", reject);
    socket.once("close", () => {
      try {
        resolve(resultOf(Buffer.concat(parts), times, started));
      } catch (error) {
        reject(error);
      }
    });
  });
}

function resultOf(bytes: Buffer, times: readonly number[], started: number): StreamResult {
  const end = bytes.indexOf("\r\n\r\n");
  const head = bytes.subarray(0, end).toString("latin1");
  const status = Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1]);
  const rest = bytes.subarray(end + 4);
  const body = (/transfer-encoding: *chunked/i.test(head) ? joined(rest) : rest).toString("utf8");
  const data = body.split("\n").flatMap((line) => (line.startsWith("data: ") ? [line.slice(6)] : []));
  const chunks = data.filter((line) => line !== "[DONE]").map((line) => JSON.parse(line));
  const text = chunks.map(({ choices }) => choices?.[0]?.text ?? "").join("");
  return {
    ...{ status, text, done: data.at(-1) === "[DONE]" },
    firstTokenMs: (times[0] ?? Number.NaN) - started,
    gapsMs: times.slice(1).map((time, i) => time - times[i]!),
  };
}

/** The body without the framing of its chunks. */
function joined(bytes: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const line = bytes.indexOf("\r\n", at);
    const size = Number.parseInt(bytes.subarray(at, line).toString("latin1"), 16);
    if (!(size > 0)) break;
    parts.push(bytes.subarray(line + 2, line + 2 + size));
    at = line + 2 + size + 2;
  }
  return Buffer.concat(parts);
}

/** The value below which a share of the values lies. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}
