/** Stable codes; the CLI maps them to exit codes and the server to HTTP statuses. */
export type ErrorCode =
  | "invalid_argument" // a programmer or caller passed something out of contract
  | "invalid_request" // a client's request is malformed or asks for what cannot be
  | "context_overflow" // prompt (plus asked output) exceeds the context
  | "model_not_found"
  | "file_not_found"
  | "file_malformed" // truncated, wrong magic, absurd counts, inconsistent offsets
  | "unsupported" // understood and declined: op, dtype, architecture, feature
  | "admission_refused" // not enough memory or slots
  | "queue_full"
  | "cancelled"
  | "io_failed"
  | "unauthorized" // a remote host wants a token, or another one
  | "network_failed" // a remote host could not be reached, or broke off more often than is borne
  | "digest_mismatch" // bytes are not those that were promised
  | "disk_full"
  | "locked" // another process is at it
  | "native_failed" // a kernel library returned a status
  | "not_finite" // a loss or gradient that is no number
  | "internal";

/**
 * The one error class. Message form: `[where] expected X, got Y`, followed by the fix when known.
 * `details` carries machine-readable facts (shapes, dtypes, limits, the offending `param` of a request).
 */
export class PsionicError extends Error {
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, details: Record<string, unknown> = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "PsionicError";
    this.code = code;
    this.details = details;
  }
}

/** Builds the usual message: `[where] expected X, got Y. Fix.` */
export function unexpected(
  code: ErrorCode,
  where: string,
  expected: string,
  got: unknown,
  options: { fix?: string; details?: Record<string, unknown>; cause?: unknown } = {},
): PsionicError {
  const fix = options.fix ? `. ${options.fix}` : "";
  return new PsionicError(
    code,
    `[${where}] expected ${expected}, got ${String(got)}${fix}`,
    options.details,
    options.cause,
  );
}
