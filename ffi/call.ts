import { type ErrorCode, PsionicError } from "../src/core/error.ts";

const codes: Record<number, ErrorCode> = {
  1: "invalid_argument",
  2: "unsupported",
  3: "admission_refused",
  4: "io_failed",
  5: "native_failed",
};

/** Turns a native status into an error carrying the library's own text. */
export function checkStatus(status: number, symbol: string, lastError: () => string): void {
  if (status === 0) return;
  const text = lastError();
  throw new PsionicError(
    codes[status] ?? "native_failed",
    text || `[${symbol}] expected status 0, got ${status}`,
    {
      symbol,
      status,
    },
  );
}
