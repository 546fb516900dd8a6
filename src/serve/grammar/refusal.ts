import { PsionicError, unexpected } from "../../core/error.ts";

/** What is known of a refusal: the keyword it fails on, and where in a schema that stands, as a JSON pointer. */
type Facts = { readonly keyword?: string; readonly path?: string; readonly fix?: string };

/** A grammar, schema or pattern that is not served. */
export function refused(what: string, expected: string, got: string, facts: Facts = {}): PsionicError {
  return refusal(what, expected, got, facts, {});
}

/** A place of a schema that no value fits. */
export function unsatisfiable(expected: string, got: string, path: string): PsionicError {
  return refusal("schema", expected, got, { path, fix: "No value fits this" }, { unsatisfiable: true });
}

export function isUnsatisfiable(error: unknown): error is PsionicError {
  return error instanceof PsionicError && error.details.unsatisfiable === true;
}

function refusal(
  what: string,
  expected: string,
  got: string,
  { keyword, path, fix }: Facts,
  more: Record<string, unknown>,
): PsionicError {
  const pointer = what === "schema" ? path : undefined;
  const where = pointer === undefined ? what : `${what} at #${pointer}`;
  return unexpected("unsupported", where, expected, got, {
    ...(fix === undefined ? {} : { fix }),
    details: {
      ...{ grammar: true, ...more },
      ...(keyword === undefined ? {} : { keyword }),
      ...(pointer === undefined ? {} : { pointer }),
    },
  });
}

/** A keyword of a schema or pattern that is understood by nobody here. */
export function unsupportedKeyword(what: string, keyword: string, path: string, fix?: string): PsionicError {
  return refused(what, "keywords that are supported", shown(keyword), {
    keyword,
    path,
    fix: fix ?? "Leave it out",
  });
}

/** The step of a JSON pointer to a member of this name, which comes from outside. */
export function pointerStep(name: string): string {
  return `/${shown(name).replaceAll("~", "~0").replaceAll("/", "~1")}`;
}

/** A JSON pointer as the names of fields are written, with dots. */
export function dotted(pointer: string): string {
  return pointer
    .slice(1)
    .split("/")
    .map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"))
    .join(".");
}

/** Text from outside, short and printable. */
export function shown(text: string): string {
  const plain = text.replace(/[^\x20-\x7e]/g, "?");
  return plain.length > 60 ? `${plain.slice(0, 57)}...` : plain;
}

/** Runs `read`; what it refuses tells the field of the request that it is about. */
export function inField<T>(field: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw error instanceof PsionicError ? withField(error, field) : error;
  }
}

/** A refusal with the field of the request that it is about; one that has a field keeps it. */
export function withField(error: PsionicError, field: string): PsionicError {
  if (error.code !== "unsupported" || error.details.field !== undefined) return error;
  return new PsionicError(error.code, error.message, { ...error.details, field }, error);
}

/** A name from outside, fit for the names of fields and for headers. */
export function shownName(name: string): string {
  const plain = name.replace(/[^\x21-\x7e]/g, "?");
  return plain.length > 64 ? `${plain.slice(0, 61)}...` : plain;
}
