import * as v from "valibot";
import type { RouteContext } from "./context.ts";
import { badField, bodyTimeout, HttpError } from "./errors.ts";
import { JsonExcess, type JsonLimits, parseJson } from "./json_steps.ts";

/** Requests stay far below: 16 MiB of brackets take a minute of the thread that answers everybody nested, some seconds side by side. */
const bodyLimits: JsonLimits = { nesting: 1024, containers: 250_000, texts: 500_000, values: 3_000_000 };

/** Bytes of a part that is kept as it came. */
const largePart = 1 << 14;
const mostSmallParts = 256;

/**
 * Reads and parses a JSON body within the server's limit, a large one in slices. A long list of whole numbers under the name `idsOf` may
 * come as an Int32Array. Throws 400, 408, 413, 415, 429 or 503.
 */
export async function readJson(context: RouteContext, idsOf?: string): Promise<unknown> {
  const { request, inSteps } = context;
  checkContentType(request.headers.get("content-type"));
  checkEncoding(request.headers.get("content-encoding"));
  const bytes = await readBytes(context);
  if (bytes.length === 0) throw invalidJson("The request has no body; send a JSON object.");
  try {
    return await inSteps(parseJson(bytes, bodyLimits, idsOf));
  } catch (error) {
    if (error instanceof JsonExcess) throw invalidJson(`The body has ${error.message}.`);
    if (error instanceof TypeError) throw invalidJson("The body is not valid UTF-8.");
    if (error instanceof SyntaxError) throw invalidJson("The body is not valid JSON.");
    throw error;
  }
}

function invalidJson(message: string): HttpError {
  return new HttpError(400, message, { code: "invalid_json" });
}

/** Takes JSON types, none, and the two that curl and simple forms send when nobody said what it is. */
function checkContentType(header: string | null): void {
  if (header === null || header === "") return;
  const type = header.split(";")[0]!.trim().toLowerCase();
  if (type.endsWith("json") || type === "text/plain" || type === "application/x-www-form-urlencoded") return;
  throw new HttpError(415, "The body must be JSON: send content-type application/json.", {
    code: "unsupported_media_type",
  });
}

/** A packed body would be taken for broken text, and one that only says so would be read as it is. */
function checkEncoding(header: string | null): void {
  if (header === null || /^\s*(identity)?\s*$/i.test(header)) return;
  throw new HttpError(415, "The body must not be compressed: send it without content-encoding.", {
    code: "unsupported_media_type",
    headers: { "accept-encoding": "identity" },
  });
}

async function readBytes({ state, request, body }: RouteContext): Promise<Uint8Array> {
  const { bodyBytes, bodyMs } = state.settings.limits;
  const announced = Number(request.headers.get("content-length") ?? 0);
  if (announced > bodyBytes) throw tooLarge(bodyBytes);
  if (request.body === null) return new Uint8Array(0);
  if (announced > 0) body.check(announced);
  const parts = new Parts();
  const reader = request.body.getReader();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    reader.cancel().catch(() => {});
  }, bodyMs);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (late) throw bodyTimeout(bodyMs);
      if (done) return parts.whole();
      if (parts.size + value.length > bodyBytes) throw tooLarge(bodyBytes);
      body.add(value.length);
      parts.add(value);
    }
  } catch (error) {
    reader.cancel().catch(() => {});
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** The parts of a body as they come. Each costs memory beside its bytes, so those that come a byte at a time are put together. */
class Parts {
  private readonly joined: Uint8Array[] = [];
  private small: Uint8Array[] = [];
  size = 0;

  add(part: Uint8Array): void {
    this.size += part.length;
    this.small.push(part);
    if (part.length >= largePart || this.small.length === mostSmallParts) this.join();
  }

  whole(): Uint8Array {
    this.join();
    return this.joined.length === 1 ? this.joined[0]! : Buffer.concat(this.joined);
  }

  private join(): void {
    if (this.small.length > 0)
      this.joined.push(this.small.length === 1 ? this.small[0]! : Buffer.concat(this.small));
    this.small = [];
  }
}

function tooLarge(limitBytes: number): HttpError {
  return new HttpError(413, `The body is larger than the limit of ${limitBytes} bytes.`, {
    code: "body_too_large",
  });
}

/**
 * Checks a parsed body; the schema's messages say what was expected. The answer never repeats what the client sent
 * beyond numbers and types.
 */
export function validate<S extends v.GenericSchema>(schema: S, body: unknown): v.InferOutput<S> {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new HttpError(400, `[body] expected a JSON object, got ${describe(body)}`, {
      code: "invalid_type",
    });
  }
  return validateAt(schema, body, "");
}

/** The same for a value that stands at the path `where` of a body. */
export function validateAt<S extends v.GenericSchema>(
  schema: S,
  body: unknown,
  where: string,
): v.InferOutput<S> {
  const result = v.safeParse(schema, body, { abortEarly: true });
  if (result.success) return result.output;
  const issue = result.issues[0];
  const param = paramPath(issue.path, where);
  const last = issue.path?.at(-1);
  const missing = issue.kind === "schema" && issue.input === undefined;
  const got = missing ? "nothing" : describe(last ? issue.input : body);
  // Of a member that is not there, valibot tells the message of the object around it.
  const expected = missing ? "a value" : issue.message;
  throw badField(param, expected, got, undefined, missing ? "missing_required_parameter" : undefined);
}

/** `messages[2].content` */
function paramPath(path: readonly { readonly key?: unknown }[] | undefined, where: string): string {
  let text = where;
  for (const { key } of path ?? []) {
    if (typeof key === "number") text += `[${key}]`;
    else text += `${text === "" ? "" : "."}${printable(String(key))}`;
  }
  return text === "" ? "body" : text;
}

/** A name from outside, fit for messages and headers. */
export function printable(name: string): string {
  const plain = name.replace(/[^\x21-\x7e]/g, "?");
  return plain.length > 64 ? `${plain.slice(0, 61)}...` : plain;
}

/** What a value is, without repeating text from outside. */
export function describe(value: unknown): string {
  if (value === null || typeof value === "number" || typeof value === "boolean") return String(value);
  if (Array.isArray(value)) return value.length === 0 ? "an empty array" : `an array of ${value.length}`;
  if (value === undefined) return "nothing";
  if (typeof value === "object") return "an object";
  if (value === "") return "an empty string";
  return typeof value === "string" ? `a string of ${value.length} characters` : `a ${typeof value}`;
}
