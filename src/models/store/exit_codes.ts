import type { ErrorCode } from "../../core/error.ts";

/** Exit codes of `psionic pull`, by what went wrong; docs/cli.md lists them. Everything else is 1. */
export const pullExitCodes: Partial<Readonly<Record<ErrorCode, number>>> = {
  invalid_argument: 2,
  model_not_found: 3,
  unauthorized: 4,
  network_failed: 5,
  digest_mismatch: 6,
  disk_full: 7,
  locked: 8,
};
