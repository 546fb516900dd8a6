import { PsionicError, unexpected } from "../../core/error.ts";
import { contentDigest, entityTag, wholeDigest } from "./digests.ts";
import type { PartFile } from "./part_file.ts";
import { ask, PassingFailure, persevere, type RemoteAnswer, type RemoteSettings } from "./remote.ts";

/** A file that is wanted, with what is known of it beforehand. */
export type WantedFile = {
  /** Below the model's folder. */
  readonly path: string;
  readonly url: URL;
  readonly bytes: number | null;
  readonly sha256: string | null;
  readonly gitBlob: string | null;
};

/** What the host itself says about a file. */
export type Probe = {
  readonly bytes: number;
  readonly etag: string | null;
  readonly sha256: string | null;
  /** Parts of it can be asked for. */
  readonly ranges: boolean;
  /** Where redirects led. */
  readonly direct: URL;
};

/** Asks for the first byte, which tells length, ranges and digest. */
export function probe(file: WantedFile, settings: RemoteSettings): Promise<Probe> {
  return persevere(async () => {
    const answer = await ask(file.url, { range: "bytes=0-0" }, settings, [200, 206, 416]);
    answer.leave();
    const { headers, status } = answer.response;
    refuseEncoding(answer);
    const total = status === 200 ? headers.get("content-length") : rangeOf(headers)?.total;
    const bytes = total === null || total === undefined ? undefined : Number(total);
    if (bytes === undefined || !Number.isSafeInteger(bytes) || bytes < 0) {
      throw unexpected("network_failed", file.url.host, `the length of ${file.path}`, "none");
    }
    if (file.bytes !== null && file.bytes !== bytes) {
      throw new PassingFailure(
        `${file.path}: ${file.url.host} promised ${file.bytes} bytes and now says ${bytes}`,
      );
    }
    return {
      ...{ bytes, etag: entityTag(headers), sha256: wholeDigest(headers) ?? null },
      ...{ ranges: status !== 200, direct: answer.url },
    };
  }, settings);
}

function refuseEncoding({ response, url }: RemoteAnswer): void {
  const encoding = response.headers.get("content-encoding");
  if (encoding === null || encoding === "identity") return;
  throw unexpected("network_failed", url.host, "bytes as they are", `content-encoding ${encoding}`);
}

type Range = { readonly from: number; readonly to: number; readonly total: string };

/** `bytes FROM-TO/TOTAL`, or `bytes * /TOTAL` of an empty file. */
function rangeOf(headers: Headers): Range | undefined {
  const match = /^bytes (?:(\d+)-(\d+)|\*)\/(\d+|\*)$/.exec(headers.get("content-range") ?? "");
  if (!match || match[3] === "*") return undefined;
  return { from: Number(match[1] ?? 0), to: Number(match[2] ?? -1), total: match[3]! };
}

/** So many new bytes count as progress, so that a host that hands out crumbs does not keep us forever. */
const leastProgress = 64 * 1024;

/** A file on its way from its host into its part file. */
export class RemoteFile {
  readonly wanted: WantedFile;
  readonly facts: Probe;
  private readonly part: PartFile;
  private readonly settings: RemoteSettings;
  /** Hears how many bytes have come, or with a negative count that some were wrong. */
  private readonly onBytes: (count: number) => void;
  /** Where redirects led; asked directly, as long as that is answered. */
  private direct: URL | undefined;

  constructor(
    wanted: WantedFile,
    facts: Probe,
    part: PartFile,
    settings: RemoteSettings,
    onBytes: (count: number) => void,
  ) {
    this.wanted = wanted;
    this.facts = facts;
    this.part = part;
    this.settings = settings;
    this.onBytes = onBytes;
    this.direct = facts.direct;
  }

  /** Fetches a chunk; gives whether it differs from what was there before. Goes on where a connection broke off. */
  fetchChunk(chunk: number): Promise<boolean> {
    const { part } = this;
    const [from, to] = part.range(chunk);
    let at = from;
    let hasher = new Bun.CryptoHasher("sha256");
    const again = (): void => {
      this.onBytes(from - at);
      at = from;
      hasher = new Bun.CryptoHasher("sha256");
    };
    return persevere(async (progress) => {
      const start = at;
      const answer = await this.open({ range: `bytes=${at}-${to - 1}` }, [206, 200]);
      const end = this.checkRange(answer, at, to);
      const promised = contentDigest(answer.response.headers);
      const own = promised === undefined ? undefined : new Bun.CryptoHasher("sha256");
      for await (const bytes of answer.body()) {
        if (at + bytes.length > end) {
          again();
          throw new PassingFailure(`${answer.url.host} sent more bytes than it had said`);
        }
        part.write(at, bytes);
        hasher.update(bytes);
        own?.update(bytes);
        at += bytes.length;
        this.onBytes(bytes.length);
        if (at - start >= leastProgress) progress();
      }
      if (at === end && own && own.digest("hex") !== promised) {
        again();
        throw new PassingFailure(`${answer.url.host} sent other bytes than its digest says`);
      }
      if (at < to) throw new PassingFailure(`${answer.url.host} broke off after ${at - start} bytes`);
      return part.complete(chunk, hasher.digest("hex"));
    }, this.settings);
  }

  /** Fetches everything in one answer, for hosts that know no ranges; from the start again where it breaks off. */
  fetchWhole(): Promise<void> {
    const { part } = this;
    let at = 0;
    return persevere(async () => {
      this.onBytes(-at);
      at = 0;
      part.restart();
      const answer = await this.open({}, [200]);
      const length = Number(answer.response.headers.get("content-length") ?? part.bytes);
      if (length !== part.bytes) {
        answer.leave();
        throw new PassingFailure(`${answer.url.host} says ${length} bytes, and said ${part.bytes} before`);
      }
      const chunks = new ChunkHasher(part);
      for await (const bytes of answer.body()) {
        if (at + bytes.length > part.bytes) {
          throw new PassingFailure(`${answer.url.host} sent more than ${part.bytes} bytes`);
        }
        part.write(at, bytes);
        chunks.update(bytes);
        at += bytes.length;
        this.onBytes(bytes.length);
      }
      if (at < part.bytes) throw new PassingFailure(`${answer.url.host} broke off after ${at} bytes`);
    }, this.settings);
  }

  private async open(headers: Record<string, string>, accept: readonly number[]): Promise<RemoteAnswer> {
    const { direct, wanted, facts } = this;
    let answer: RemoteAnswer;
    try {
      answer = await ask(direct ?? wanted.url, headers, this.settings, accept);
    } catch (error) {
      // signed addresses expire; the first one leads to a new one
      const moved = error instanceof PsionicError && ["unauthorized", "model_not_found"].includes(error.code);
      if (!moved || !direct || direct.href === wanted.url.href) throw error;
      this.direct = undefined;
      throw new PassingFailure(`the address at ${direct.host} is no longer valid`, 0);
    }
    this.direct = answer.url;
    const etag = entityTag(answer.response.headers);
    if (facts.etag !== null && etag !== null && etag !== facts.etag) {
      answer.leave();
      throw unexpected(
        "network_failed",
        answer.url.host,
        `${wanted.path} as it was`,
        "another version of it",
        {
          fix: "It was changed meanwhile; run the command again",
        },
      );
    }
    return answer;
  }

  /** The byte after the last one that the answer has; throws where it is not the range that was asked for. */
  private checkRange(answer: RemoteAnswer, from: number, to: number): number {
    const { headers, status } = answer.response;
    const range = status === 206 ? rangeOf(headers) : undefined;
    const fits =
      range?.from === from &&
      range.to >= from &&
      range.to < to &&
      Number(range.total) === this.part.bytes &&
      (headers.get("content-length") ?? String(range.to + 1 - from)) === String(range.to + 1 - from);
    if (fits) return range.to + 1;
    answer.leave();
    const got = status === 206 ? (headers.get("content-range") ?? "no range") : `status ${status}`;
    throw new PassingFailure(`${answer.url.host} was asked for bytes ${from}-${to - 1} and gave ${got}`);
  }
}

/** Cuts a stream into the chunks of a part file. */
class ChunkHasher {
  private readonly part: PartFile;
  private hasher = new Bun.CryptoHasher("sha256");
  private at = 0;
  private chunk = 0;

  constructor(part: PartFile) {
    this.part = part;
  }

  update(bytes: Uint8Array): void {
    for (let used = 0; used < bytes.length; ) {
      const [, to] = this.part.range(this.chunk);
      const count = Math.min(bytes.length - used, to - this.at);
      this.hasher.update(bytes.subarray(used, used + count));
      used += count;
      this.at += count;
      if (this.at < to) continue;
      this.part.complete(this.chunk, this.hasher.digest("hex"));
      this.hasher = new Bun.CryptoHasher("sha256");
      this.chunk += 1;
    }
  }
}
