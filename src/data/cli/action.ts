/** The parts of `psionic data`: each a command of its own, run by the word after `data`. */
import type { ArgsDef } from "citty";
import { type ErrorCode, PsionicError } from "../../core/error.ts";
import { ExitError, UsageError } from "../../terminal/command.ts";
import { Progress } from "../../terminal/progress.ts";
import { namePattern, type OnBytes } from "../corpora/manifest.ts";

/** Options as they were given, and every value of those that may be repeated. */
export type Given = {
  text(name: string): string | undefined;
  required(name: string): string;
  all(name: string): readonly string[];
  flag(name: string): boolean;
};

export type DataAction = {
  readonly name: string;
  readonly description: string;
  /** Without positionals. */
  readonly args: ArgsDef;
  readonly examples: readonly string[];
  readonly run: (given: Given) => Promise<void>;
};

export const value = (valueHint: string, description: string) =>
  ({ type: "string", valueHint, description }) as const;

export const repeatable = (valueHint: string, description: string) =>
  ({ type: "string", valueHint, description, repeatable: true }) as const;

/** Options that several parts take. */
export const selectionArgs = {
  manifest: value("FILE", "Corpora manifest, as data manifest wrote it"),
  splits: value("FILE", "Split report of data split; absent: what the manifest says, else train"),
  duplicates: value("FILE", "Duplicate report of data dedup; absent: nothing is left out"),
} as const;

/** Exit codes by what went wrong; docs/data.md lists them. Everything else is 1. */
const exitCodes: Partial<Readonly<Record<ErrorCode, number>>> = {
  file_malformed: 4,
  digest_mismatch: 4,
  disk_full: 7,
};

export function withExitCode(error: unknown): unknown {
  const code = error instanceof PsionicError ? exitCodes[error.code] : undefined;
  return error instanceof PsionicError && code !== undefined ? new ExitError(code, error) : error;
}

export function checkedName(name: string, option: string): string {
  if (namePattern.test(name)) return name;
  throw new UsageError(`${option} takes letters, digits, dots and dashes, got ${name}`);
}

/** Work with a bar on stderr, which goes away at the end. */
export async function withProgress<T>(
  act: (onBytes: OnBytes, progress: Progress) => Promise<T>,
  format?: (n: number) => string,
): Promise<T> {
  const progress = new Progress(format ? { format } : {});
  try {
    return await act((file, done, total) => progress.update(file, done, total), progress);
  } finally {
    progress.end();
  }
}
