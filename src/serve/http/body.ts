import * as v from "valibot";
import type { RouteContext } from "./context.ts";
import { badField, HttpError } from "./errors.ts";
import { JsonExcess, type JsonLimits, parseJson } from "./json_steps.ts";

/** Requests stay far below: 16 MiB of brackets take a minute of the thread that answers everybody nested, some seconds side by side. */
const bodyLimits: JsonLimits = { nesting: 1024, containers: 250_000, texts: 500_000, values: 3_000_000 };

/** Reads and parses a JSON body within the server's limit, a large one in slices. Throws 400, 413 or 415. */
export async function readJson({ state, request, inSteps }: RouteContext): Promise<unknown> {
  checkContentType(request.headers.get("content-type"));
  checkEncoding(request.headers.get("content-encoding"));
  const bytes = await readBytes(request, state.settings.limits.bodyBytes);
  if (bytes.length === 0) throw invalidJson("The request has no body; send a JSON object.");
  try {
    return await inSteps(parseJson(bytes, bodyLimits));
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

async function readBytes(request: Request, limitBytes: number): Promise<Uint8Array> {
  const announced = Number(request.headers.get("content-length") ?? 0);
  if (announced > limitBytes) throw tooLarge(limitBytes);
  if (request.body === null) return new Uint8Array(0);
  const chunks: Uint8Array[] = [];
  let size = 0;
  const reader = request.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > limitBytes) {
      reader.cancel().catch(() => {});
      throw tooLarge(limitBytes);
    }
    chunks.push(value);
  }
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
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
