/**
 * Copies of checkpoints in an S3-compatible store: `<prefix>/step-<n>/<first 16 digits of its digest>/<file>`. Objects are
 * never written over by other ones, since a checkpoint's digest is part of their keys, so a copy that breaks off harms none.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type ErrorCode, PsionicError, unexpected } from "../core/error.ts";
import type { BackupStore } from "./backup_store.ts";
import { readState, removeLeftovers, stepFolder, verifyCheckpoint } from "./checkpoint.ts";
import { asideOf, filesOf, placeCheckpoint, takingFailed } from "./checkpoint_copy.ts";
import { checkRoom } from "./durable.ts";

/** Variables of each setting, the first that is set counts. */
const variables = {
  accessKeyId: ["S3_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"],
  secretAccessKey: ["S3_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"],
  sessionToken: ["S3_SESSION_TOKEN", "AWS_SESSION_TOKEN"],
  region: ["S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"],
  endpoint: ["S3_ENDPOINT", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
} as const;
const secret: readonly string[] = ["accessKeyId", "secretAccessKey", "sessionToken"];

/** An object that takes longer is given up: this long, and as long as its bytes take at the least speed. */
const patienceMs = 60_000;
const leastBytesPerSecond = 256 * 1024;
/** Larger files go up in parts of this size, in bytes. */
const partSize = 8 * 2 ** 20;

export function s3Store(url: string, environment: NodeJS.ProcessEnv): BackupStore {
  const { bucket, prefix } = parsed(url);
  const found = Object.entries(variables).flatMap(([setting, names]) => {
    const name = names.find((n) => environment[n]);
    return name === undefined ? [] : [{ setting, name, value: environment[name]! }];
  });
  const client = (): Bun.S3Client => {
    for (const setting of ["accessKeyId", "secretAccessKey"] as const) {
      if (found.some((f) => f.setting === setting)) continue;
      const expected = `${variables[setting].join(" or ")} in the environment`;
      throw unexpected("unauthorized", url, expected, "neither");
    }
    const settings = Object.fromEntries(found.map((f) => [f.setting, f.value]));
    return new Bun.S3Client({ ...settings, bucket });
  };
  const key = (step: number, digest: string, name: string): string =>
    [prefix, stepFolder(step), digest.slice(0, 16), name].filter((part) => part !== "").join("/");
  return {
    root: url,
    credentials: found.filter((f) => secret.includes(f.setting)).map((f) => f.name),
    async keep(from, step, digest) {
      const store = client();
      const state = readState(from, digest);
      for (const name of filesOf(from)) {
        const path = join(from, name);
        const { size } = Bun.file(path);
        const object = store.file(key(step, digest, name));
        await within(url, `${name} to be taken`, size, () => object.write(Bun.file(path), { partSize }));
        const expected = state.files.find((f) => f.path === name)?.sha256 ?? sha256Of(path);
        const got = await within(url, `${name} to be given back`, size, () => digestOf(object, size));
        if (got !== expected)
          throw unexpected("digest_mismatch", `${url} ${name}`, `SHA-256 ${expected}`, got);
      }
    },
    async bring(step, digest, checkpoints) {
      const store = client();
      const aside = asideOf(checkpoints, step);
      const fetched = async (name: string, bytes: number): Promise<void> => {
        const object = store.file(key(step, digest, name));
        await within(url, `${name} to be given`, bytes, () => fetchInto(object, join(aside, name), bytes));
      };
      try {
        mkdirSync(checkpoints, { recursive: true });
        removeLeftovers(checkpoints);
        mkdirSync(aside);
        await fetched("trainer_state.json", mostStateBytes);
        const { files } = readState(aside, digest);
        checkRoom(
          checkpoints,
          files.reduce((sum, f) => sum + f.bytes, 0),
        );
        for (const { path, bytes } of files) await fetched(path, bytes);
        verifyCheckpoint(aside, digest);
        placeCheckpoint(aside, checkpoints, step);
      } catch (cause) {
        throw takingFailed(aside, cause);
      }
    },
  };
}

const mostStateBytes = 2 ** 20;

function parsed(url: string): { readonly bucket: string; readonly prefix: string } {
  const found = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/([\w.\-/]*))?$/.exec(url);
  const prefix = (found?.[2] ?? "").replace(/\/+$/, "");
  if (!found || prefix.split("/").some((part) => part === ".." || part === "."))
    throw unexpected("invalid_request", "train backup", "s3://bucket or s3://bucket/prefix", url);
  return { bucket: found[1]!, prefix };
}

const sha256Of = (path: string): string =>
  new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex");

/** The object's bytes, one part after another; more than were expected are an error. */
async function* bytesOf(object: Bun.S3File, most: number): AsyncGenerator<Uint8Array> {
  let read = 0;
  for await (const part of object.stream()) {
    read += part.byteLength;
    if (read > most)
      throw unexpected(
        "digest_mismatch",
        object.name ?? "object",
        `at most ${most} bytes`,
        `${read} or more`,
      );
    yield part;
  }
}

async function digestOf(object: Bun.S3File, most: number): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  for await (const part of bytesOf(object, most)) hash.update(part);
  return hash.digest("hex");
}

async function fetchInto(object: Bun.S3File, path: string, most: number): Promise<void> {
  const writer = Bun.file(path).writer();
  try {
    for await (const part of bytesOf(object, most)) {
      writer.write(part);
      await writer.flush();
    }
  } finally {
    await writer.end();
  }
}

/** Does it within the time that its bytes may take; errors name the store, not its address. */
async function within<T>(url: string, expected: string, bytes: number, body: () => Promise<T>): Promise<T> {
  const limitMs = patienceMs + (1000 * bytes) / leastBytesPerSecond;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, refuse) => {
    timer = setTimeout(() => refuse(new Error(`nothing for ${Math.round(limitMs / 1000)} s`)), limitMs);
  });
  try {
    return await Promise.race([body(), late]);
  } catch (cause) {
    if (cause instanceof PsionicError) throw cause;
    const { code, got } = reasonOf(cause);
    const fix = "The checkpoint itself is intact; look at the store and its credentials, then do it again";
    throw unexpected(code, url, expected, got, { fix, cause });
  } finally {
    clearTimeout(timer);
  }
}

const refusedCodes =
  /AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|MissingCredentials/;

function reasonOf(cause: unknown): { readonly code: ErrorCode; readonly got: string } {
  const code = (cause as { readonly code?: unknown } | undefined)?.code;
  const got = typeof code === "string" ? code : cause instanceof Error ? cause.message : String(cause);
  if (/ENOSPC|EDQUOT/.test(got)) return { code: "disk_full", got };
  if (refusedCodes.test(got)) return { code: "unauthorized", got };
  if (/NoSuch(Key|Bucket)/.test(got)) return { code: "file_not_found", got };
  return { code: "network_failed", got };
}
